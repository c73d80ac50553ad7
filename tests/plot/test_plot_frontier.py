from itertools import combinations

import numpy as np
import pytest

from primeattn import plot, sequences
from primeattn.patterns import Pattern


def test_points_and_which_of_them_are_beaten():
    # Steps 1 and 5 cost 16 + 15 + 11 pairs for 48 layers, steps 1 and 2 cost 16 + 15 + 14 for 64.
    patterns = {"steps": Pattern([5], window=1), "near": Pattern(None, window=2), "chain": Pattern([1])}
    ax = plot.pareto(patterns, 16, controls=[Pattern(None, window=15)])
    front, beaten, controls = (points.get_offsets() for points in ax.collections)
    np.testing.assert_allclose(front, [[42 / 16, 48 / 15], [31 / 16, 8]])
    np.testing.assert_allclose(beaten, [[45 / 16, 64 / 15]])
    np.testing.assert_allclose(controls, [[136 / 16, 1]])
    assert [text.get_text() for text in ax.texts] == ["steps", "near", "chain"]
    assert ax.get_xlabel() == "pairs per query"
    assert ax.get_ylabel() == "mean layers to connect a distance below 16"


@pytest.mark.parametrize(
    "patterns",
    [
        [Pattern(name, window=3) for name in sequences.names()],
        [Pattern("primes", window=window) for window in range(3, 9)],
    ],
)
def test_names_overlap_nowhere(patterns):
    ax = plot.pareto(patterns, 512)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_all_distances_must_be_connected():
    with pytest.raises(ValueError, match=r"below 9 connected, got Pattern\(primes\), which leaves 1"):
        plot.pareto(Pattern("primes"), 9)
    with pytest.raises(TypeError, match="pattern: expected a Pattern, got 'primes'"):
        plot.pareto(Pattern("primes", window=1), 9, controls=["primes"])
