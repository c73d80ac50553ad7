import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_each_distance_has_its_number_of_layers():
    ax = plot.hops({"four squares": Pattern("squares"), "primes": Pattern("primes")}, 15)
    squares, primes = ax.images[0].get_array()
    assert squares.tolist() == [1, 2, 3, 1, 2, 3, 4, 2, 1, 2, 3, 3, 2, 3, 4]
    assert primes.tolist() == [0, 1, 1, 2, 1, 2, 1, 2, 2, 2, 1, 2, 1, 2, 2]  # 1 is no sum of primes
    assert ax.images[0].get_extent() == [0.5, 15.5, 1.5, -0.5]  # distance 1 is the first cell
    assert legend_of(ax) == ["out of reach", "1 layer", "2 layers", "3 layers", "4 layers"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["four squares", "primes"]
    assert [text.get_text() for text in ax.texts] == ["mean 2.40", "mean 1.57"]


def test_many_layers_share_a_colour():
    ax = plot.hops(Pattern(None, window=1), 20)
    assert ax.images[0].get_array()[0].tolist() == [*range(1, 8), *[8] * 13]
    assert legend_of(ax)[-1] == "8 layers or more"


def test_nothing_within_reach():
    ax = plot.hops(Pattern(None), 5)
    assert legend_of(ax) == ["out of reach"] and ax.texts[0].get_text() == "none"
    assert not np.any(ax.images[0].get_array())


def test_no_more_distances_than_a_page_shows():
    with pytest.raises(ValueError, match="n: expected at most 4096 distances, got 4097"):
        plot.hops(Pattern("primes"), 4097)
