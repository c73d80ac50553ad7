import numpy as np

from primeattn import plot
from primeattn.patterns import Pattern


def test_ways_to_split_a_distance_into_two_offsets():
    pattern = Pattern("primes", window=1)
    offsets = pattern.offsets(60)[1:].tolist()
    ways = [sum(d - s in offsets for s in offsets if s <= d - s) for d in range(60)]
    ax = plot.two_hop_paths([pattern, Pattern("mian_chowla")], 60)
    distances, drawn = ax.collections[0].get_offsets().T
    np.testing.assert_array_equal(distances, np.flatnonzero(ways))
    np.testing.assert_array_equal(drawn, [w for w in ways if w])
    assert set(ax.collections[1].get_offsets()[:, 1]) == {1}  # a Sidon set
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[0] == f"Primes, W = 1: {np.count_nonzero(ways)} distances, r ≤ {max(ways)}"


def test_no_path_at_all():
    ax = plot.two_hop_paths(Pattern(None), 8)
    assert ax.get_legend().get_texts()[0].get_text() == "Window 0: 0 distances, r ≤ 0"
