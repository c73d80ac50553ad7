from itertools import combinations

import pytest

from primeattn.sequences import golomb_ruler

LENGTHS = [  # A003022
    *(1, 3, 6, 11, 17, 25, 34, 44, 55, 72, 85, 106, 127, 151, 177, 199, 216, 246, 283, 333, 356, 372, 425),
    *(480, 492, 553, 585),
]


@pytest.mark.parametrize("order", range(2, 29))
def test_all_distances_differ_and_the_length_is_least(order):
    marks = [0, *golomb_ruler(order)(10**9).tolist()]
    distances = [b - a for a, b in combinations(marks, 2)]
    assert len(marks) == order and marks[-1] == LENGTHS[order - 2]
    assert len(distances) == len(set(distances)) == order * (order - 1) // 2


def shortest(order):
    """Length of the shortest ruler with ``order`` marks, by trying them all."""
    best = [order**2]

    def extend(marks, distances):
        if len(marks) == order:
            best[0] = min(best[0], marks[-1])
            return
        missing = order - len(marks)
        for mark in range(marks[-1] + 1, best[0] - missing * (missing - 1) // 2):
            new = {mark - m for m in marks}
            if not new & distances:
                extend([*marks, mark], distances | new)

    extend([0], set())
    return best[0]


def test_lengths_by_exhaustive_search():
    assert [shortest(order) for order in range(2, 8)] == LENGTHS[:6]


def test_orders():
    for order in (1, 0, -1, 29):
        with pytest.raises(ValueError, match=f"order: expected 2 to 28, got {order}"):
            golomb_ruler(order)
    with pytest.raises(TypeError, match="order: expected an integer"):
        golomb_ruler(5.0)
