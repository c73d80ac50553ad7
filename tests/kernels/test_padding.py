"""Batches padded on the left: rows of positions below 0 are not there, and the others are as without them."""

from functools import lru_cache

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels.cpu import plan

PATTERN = pa.Pattern("primes", window=2, global_tokens=3)
PER_HEAD = [pa.Pattern(s, window=w, global_tokens=g) for s, w, g in (("squares", 1, 0), (None, 3, 9))] * 2
LENGTH = 90
PADDING = np.array([0, 1, 37, LENGTH - 1, LENGTH, LENGTH + 5])  # the last two entries are padding alone
KERNELS = ["one pass", "two passes", "scalar"]


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    if request.param == "scalar":
        return "scalar"
    monkeypatch.setattr(plan, "fuses", lambda *_: request.param == "one pass")
    monkeypatch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
    return "tiles"


def batch(rng, kv_heads=2):
    """q, k, v, dout and dlse with NaN in the padding."""
    shapes = 4, kv_heads, kv_heads, 4
    arrays = [rng.standard_normal((PADDING.size, heads, LENGTH, 8)) for heads in shapes]
    arrays.append(rng.standard_normal((PADDING.size, 4, LENGTH)))
    for array in arrays:
        for entry, padding in zip(array, PADDING, strict=True):
            entry[:, :padding] = np.nan
    return arrays


def results(q, k, v, dout, dlse, pattern, kernel, **options):
    """out, lse, dq, dk and dv, in arrays that hold NaN before; out and lse are NaN in rows not read."""
    out, lse = np.full_like(q, np.nan), np.full_like(dlse, np.nan)
    pa.sparse_index_kernel(out, lse, q, k, v, pattern, kernel=kernel, **options)
    given = out.copy(), lse.copy()
    for array in given:
        array[np.isnan(dlse)] = np.nan
    gradients = [np.full_like(a, np.nan) for a in (q, k, v)]
    options |= {"kernel": kernel, "dlse": dlse}
    pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, *given, pattern, **options)
    return out, lse, *gradients


@pytest.mark.parametrize(
    ("pattern", "kv_heads"), [(PATTERN, 4), (PATTERN, 1), (PER_HEAD, 2)], ids=["plain", "shared", "per head"]
)
def test_each_entry_is_as_without_its_padding(pattern, kv_heads, kernel, rng):
    arrays = batch(rng, kv_heads)
    together = results(*arrays, pattern, kernel, q_start=-PADDING, k_start=-PADDING)
    for entry, padding in enumerate(PADDING):
        alone = results(*(a[entry : entry + 1, :, padding:] for a in arrays), pattern, kernel)
        for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), together, alone, strict=True):
            left_out = -np.inf if name == "lse" else 0
            assert (a[entry, :, :padding] == left_out).all(), (name, padding)
            np.testing.assert_allclose(a[entry, :, padding:], b[0], rtol=0, atol=1e-12, err_msg=name)


def test_one_start_for_all_entries(kernel, rng):
    q, k, v, dout = rng.standard_normal((4, 2, 4, 50, 8))
    dlse = rng.standard_normal(q.shape[:3])
    together = results(q, k, v, dout, dlse, PATTERN, kernel, q_start=-9, k_start=-9)
    alone = results(*(a[:, :, 9:] for a in (q, k, v, dout, dlse)), PATTERN, kernel)
    for a, b in zip(together, alone, strict=True):
        assert np.array_equal(a[:, :, 9:], b)


def test_ranges_of_keys_merge(kernel, rng):
    """Also a range that is padding alone in some entries, and ends within it in others."""
    q, k, v, dout, dlse = batch(rng)
    out, lse, dq, dk, dv = results(q, k, v, dout, dlse, PATTERN, kernel, q_start=-PADDING, k_start=-PADDING)
    ranges = [(0, 30), (30, 38), (38, LENGTH)]
    options = [{"q_start": -PADDING, "k_start": first - PADDING, "kernel": kernel} for first, _ in ranges]
    cut = [(k[:, :, a:b], v[:, :, a:b]) for a, b in ranges]
    parts = [pa.attention(q, *kv, PATTERN, **o) for kv, o in zip(cut, options, strict=True)]
    merged = pa.merge(*zip(*parts, strict=True))
    for a, b in zip(merged, (out, lse), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    sums = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for (a, b), kv, o in zip(ranges, cut, options, strict=True):
        new = [np.full_like(x, np.nan) for x in (q, *kv)]
        pa.sparse_index_kernel_backward(*new, dout, q, *kv, *merged, PATTERN, dlse=dlse, **o)
        sums[0][...] += new[0]
        sums[1][:, :, a:b], sums[2][:, :, a:b] = new[1:]
    for a, b in zip(sums, (dq, dk, dv), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_decoding_a_ragged_batch(kernel, rng):
    """The newest token of each entry, with its keys at the end of a cache."""
    q, k, v, _, _ = batch(rng)
    out, lse = pa.attention(q, k, v, PATTERN, q_start=-PADDING, k_start=-PADDING, kernel=kernel)
    last = {"q_start": LENGTH - 1 - PADDING, "k_start": -PADDING, "kernel": kernel}
    new, new_lse = pa.attention(q[:, :, -1:], k, v, PATTERN, **last)
    np.testing.assert_allclose(new, out[:, :, -1:], rtol=0, atol=1e-12)
    np.testing.assert_allclose(new_lse, lse[:, :, -1:], rtol=0, atol=1e-12)


def test_padding_far_below_zero(kernel, rng):
    q, k, v, dout = rng.standard_normal((4, 2, 2, 20, 8))
    far = {"q_start": np.array([1 - 2**62, 0]), "k_start": np.array([0, 1 - 2**62])}
    out, lse, *gradients = results(q, k, v, dout, np.zeros((2, 2, 20)), PATTERN, kernel, **far)
    assert (lse == -np.inf).all() and not any(a.any() for a in (out, *gradients))
