import io
import tracemalloc

import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern

# future, left out, window, global tokens, sequence
EXPECTED = [
    [2, 0, 0, 0, 0, 0],
    [2, 2, 0, 0, 0, 0],
    [3, 2, 2, 0, 0, 0],
    [3, 1, 2, 2, 0, 0],
    [3, 1, 1, 2, 2, 0],
    [3, 4, 1, 1, 2, 2],
]


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_mask_colours_each_pair_by_its_rule():
    ax = plot.mask(Pattern("squares", window=1, global_tokens=1), 6)
    np.testing.assert_array_equal(ax.images[0].get_array(), EXPECTED)
    assert legend_of(ax) == ["window 1", "global tokens 1", "Squares"]
    assert ax.get_title() == "16 of 21 causal pairs (76.2%)"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")


def test_the_legend_names_only_the_rules_there_are():
    assert legend_of(plot.mask(Pattern(None, window=2), 8)) == ["window 2"]


def test_lines_part_the_tokens_up_to_64():
    few, more = (plot.mask(Pattern("primes"), n) for n in (64, 65))
    assert len(few.xaxis.get_minor_ticks()) == 65  # both sides of each token
    assert len(more.xaxis.get_minor_ticks()) == 0


def test_beyond_512_tokens_a_pixel_is_the_share_of_its_pairs():
    pattern, n = Pattern("squares", window=2, global_tokens=3), 515  # blocks of 2, and a last one of 1
    ax = plot.mask(pattern, n)
    dense, causal = np.zeros((2, 516, 516))
    dense[:n, :n], causal[:n, :n] = pattern.to_dense(n), np.tri(n)
    attended, possible = (pairs.reshape(258, 2, 258, 2).sum(axis=(1, 3)) for pairs in (dense, causal))
    drawn = ax.images[0].get_array()
    np.testing.assert_array_equal(drawn.mask, possible == 0)
    np.testing.assert_array_equal(drawn.filled(0), attended / np.maximum(possible, 1))
    assert ax.images[0].get_extent() == [-0.5, 515.5, 515.5, -0.5]
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 514.5), (514.5, -0.5))


def test_the_mask_of_100_000_tokens_takes_little_memory():
    plot.mask(Pattern("squares"), 600).figure.savefig(io.BytesIO())  # imports
    tracemalloc.start()
    ax = plot.mask(Pattern("primes", window=3, global_tokens=2), 100_000)
    ax.figure.savefig(io.BytesIO())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 * 2**20


def test_masks_side_by_side_share_a_legend_and_the_outer_labels():
    patterns = {"a": Pattern("squares", window=1, global_tokens=1), "b": Pattern(None, window=2)}
    left, right = plot.masks(patterns, 6)
    np.testing.assert_array_equal(left.images[0].get_array(), EXPECTED)
    assert [left.get_title(), right.get_title()] == ["a: 76.2% of pairs", "b: 71.4% of pairs"]
    assert legend_of(left) == ["window", "global tokens", "sequence"] and right.get_legend() is None
    assert [left.get_ylabel(), right.get_ylabel()] == ["query", ""]


def test_masks_of_densities_share_a_scale():
    axes = plot.masks([Pattern("primes"), Pattern("squares"), Pattern("cubes")], 1000)
    assert len(axes[0].figure.axes) == 4
    assert {image.get_clim() for ax in axes for image in ax.images} == {(0, 1)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("primes", 8), TypeError, "pattern: expected a Pattern, got 'primes'"),
        ((Pattern("primes"), 0), ValueError, "n: expected an integer >= 1, got 0"),
        ((Pattern("primes"), 8.0), TypeError, "n: expected an integer, got 8.0"),
        ((Pattern("primes"), 2**24 + 1), ValueError, "n: expected at most 16777216 tokens, got 16777217"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        plot.mask(*arguments)


def test_a_pattern_shows_its_mask_in_a_notebook():
    shown = Pattern("primes", window=3)._repr_png_()
    assert shown.startswith(b"\x89PNG\r\n\x1a\n") and shown != Pattern("squares", window=3)._repr_png_()


def test_a_pattern_of_a_short_table_shows_itself_as_text():
    from primeattn.sequences import from_array

    assert Pattern(from_array([1, 5], known_to=20))._repr_png_() is None
