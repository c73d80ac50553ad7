from itertools import permutations

import numpy as np
import pytest

from primeattn.patterns import Pattern
from primeattn.tasks import IGNORED, mqar


@pytest.mark.parametrize("layout", ["free", "zoology"])
def test_queries_ask_for_the_value_of_their_key(layout):
    task = mqar(length=40, pairs=6, vocab=30, layout=layout)
    tokens, targets = task.draw(np.random.default_rng(0), 300)
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        keys, values = row[0:12:2], row[1:12:2]
        assert len(set(keys)) == 6 and all(1 <= key < 15 for key in keys)
        assert all(15 <= value < 30 for value in values)
        value_of = dict(zip(keys, values, strict=True))
        assert target[:12] == [IGNORED] * 12 and sorted(token for token in row[12:] if token) == sorted(keys)
        assert target[12:] == [value_of.get(token, IGNORED) for token in row[12:]]


def distances(task):
    tokens, targets = task.draw(np.random.default_rng(1), 2000)
    asked = targets != IGNORED
    return (np.arange(task.length) - task.answers(tokens, targets))[asked]


def test_only_the_papers_layout_has_odd_distances_alone():
    assert (distances(mqar(layout="zoology")) % 2).all()
    assert (distances(mqar(layout="free")) % 2).mean() == pytest.approx(0.5, abs=0.02)
    assert (distances(mqar(layout="free", power=1)) % 2).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "layout, pattern, ceiling",
    [
        ("zoology", Pattern(None, window=127), 1),
        ("zoology", Pattern("primes", window=3), 0.482),
        ("zoology", Pattern(None, window=22), 0.150),
        ("zoology", Pattern("squares", window=3), 0.088),
        ("zoology", Pattern("mian_chowla", window=3), 0.148),
        ("zoology", Pattern(None, window=8), 0.010),
        ("free", Pattern("primes", window=3), 0.267),
        ("free", Pattern("squares", window=3), 0.096),
        ("free", Pattern("mian_chowla", window=3), 0.104),
    ],
    ids=repr,
)
def test_measured_ceilings(layout, pattern, ceiling):
    """Measured once with a generator that was written apart from this one."""
    assert mqar(layout=layout).predict([pattern]) == pytest.approx(ceiling, abs=0.012)


def test_places_are_drawn_one_by_one_without_replacement():
    """Each key in turn takes a free place with probability proportional to its weight."""
    task = mqar(length=8, pairs=2, vocab=6, power=0.3)
    tokens, _ = task.draw(np.random.default_rng(0), 40000)
    first, second = (
        np.where(tokens[:, 4:] == tokens[:, 2 * k : 2 * k + 1], 1, 0).argmax(axis=1) for k in (0, 1)
    )
    weight = np.arange(1.0, 5) ** (0.3 - 1)
    weight /= weight.sum()
    for a, b in permutations(range(4), 2):
        expected = weight[a] * weight[b] / (1 - weight[a])
        assert ((first == a) & (second == b)).mean() == pytest.approx(expected, abs=0.01)
