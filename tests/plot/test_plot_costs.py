import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern


def test_counted_pairs_beside_the_law_and_dense_attention():
    patterns = [Pattern("squares", window=3, global_tokens=1), Pattern("primes", global_tokens=1)]
    ax = plot.pairs(patterns, [512, 128])
    counted, law, *_ = ax.get_lines()
    np.testing.assert_array_equal(counted.get_xdata(), [128, 512])
    np.testing.assert_array_equal(counted.get_ydata(), [patterns[0].to_dense(n).sum() for n in (128, 512)])
    np.testing.assert_allclose(law.get_ydata()[[0, -1]], counted.get_ydata(), rtol=0.05)
    np.testing.assert_array_equal(ax.get_lines()[-1].get_ydata(), [128 * 129 // 2, 512 * 513 // 2])
    assert [text.get_text() for text in ax.texts] == ["Squares, W = 3", "Primes, W = 0", "dense causal"]
    heights = [ax.transAxes.transform(text.get_position())[1] for text in ax.texts]
    ends = [patterns[0].num_pairs(512), patterns[1].num_pairs(512), 512 * 513 // 2]
    np.testing.assert_allclose(heights, [ax.transData.transform((512, end))[1] for end in ends])
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["128", "512"]


def test_names_at_the_same_height_are_moved_apart():
    ax = plot.pairs({"a": Pattern("squares"), "b": Pattern("squares")}, [256, 1024])
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not boxes[0].overlaps(boxes[1])


@pytest.mark.parametrize("lengths", [[1024], 1024])
def test_one_length_is_no_growth(lengths):
    with pytest.raises(ValueError, match="lengths: expected at least two lengths, got"):
        plot.pairs(Pattern("primes"), lengths)
