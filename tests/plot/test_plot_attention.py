import numpy as np
import pytest
from scipy.sparse import csr_matrix

from primeattn import plot
from primeattn.patterns import Pattern

CHAIN = Pattern(None, window=1)
P = csr_matrix([[1, 0, 0], [0.25, 0.75, 0], [0, 0.9999, 0.0001]])


def test_attention_is_drawn_within_the_pattern_alone():
    ax = plot.attention_map(P, CHAIN)
    image = ax.images[0]
    nan = np.nan
    np.testing.assert_array_equal(
        image.get_array().filled(nan), [[1, nan, nan], [0.25, 0.75, nan], [nan, 0.9999, 0.001]]
    )
    assert image.get_clim() == (0.001, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key", "query")
    assert ax.figure.axes[1].get_ylabel() == "attention probability"


def test_a_pair_that_is_not_stored_is_drawn_as_the_least():
    image = plot.attention_map(csr_matrix((3, 3)), CHAIN).images[0].get_array()
    np.testing.assert_array_equal(image.mask, ~CHAIN.to_dense(3))
    assert set(image.compressed()) == {0.001}


def test_heads_with_one_pattern_or_one_each():
    assert [ax.get_title() for ax in plot.heads([P, P], CHAIN)] == ["head 0", "head 1"]
    primes = Pattern("primes", window=1)
    axes = plot.heads([P, P], [CHAIN, primes])
    assert [ax.get_title() for ax in axes] == ["head 0: Window 1", "head 1: Primes"]
    masks = [ax.images[0].get_array().mask for ax in axes]
    np.testing.assert_array_equal(masks, [~CHAIN.to_dense(3), ~primes.to_dense(3)])
    assert len(axes[0].figure.axes) == 3  # with one colour bar


@pytest.mark.parametrize(
    ("p", "error", "message"),
    [
        (P.toarray(), TypeError, "probabilities: expected a sparse matrix, got ndarray"),
        (csr_matrix((2, 3)), ValueError, r"expected shape \(n, n\) with n >= 1, got \(2, 3\)"),
        (csr_matrix((2049, 2049)), ValueError, "expected at most 2048 tokens to draw, got 2049"),
        (P * 2, ValueError, "expected numbers from 0 to 1, got 0.0002 to 2.0"),
        (csr_matrix([[np.nan]]), ValueError, "expected numbers from 0 to 1, got nan"),
        (
            csr_matrix(np.tri(3) / 3),
            ValueError,
            r"expected pairs of Pattern\(None, window=1\), got query 2, key 0",
        ),
    ],
)
def test_bad_probabilities(p, error, message):
    with pytest.raises(error, match=message):
        plot.attention_map(p, CHAIN)


def test_bad_heads():
    with pytest.raises(ValueError, match="maps: expected at least one, got none"):
        plot.heads([], CHAIN)
    with pytest.raises(ValueError, match="patterns: expected one or 2, one per head, got 1"):
        plot.heads([P, P], [CHAIN])
