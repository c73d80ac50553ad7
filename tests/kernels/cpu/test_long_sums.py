"""Sums over tens of thousands of keys or queries are as exact as short ones: no chain of additions is long.

Where all keys are alike, p = 1 / (i + 1), and each addition rounds in the same direction as the one before.
"""

from functools import lru_cache

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels.cpu import plan

DENSE = pa.Pattern(None, window=10**6)
D = 8
ROW = np.linspace(0.7, 1.3, D, dtype=np.float32)


def relative_error(got, expected):
    return np.abs(got / expected - 1).max()


@pytest.mark.parametrize("spread", [0, 1])
@pytest.mark.parametrize("n", [1024, 8192, 32768])
def test_a_mean_of_equal_values_is_that_value(n, spread, rng):
    q, k = spread * rng.standard_normal((2, 1, 1, n, D), dtype=np.float32)
    out, _ = pa.attention(q, k, np.broadcast_to(ROW, q.shape), DENSE)
    assert relative_error(out, ROW) < 2e-6


@pytest.mark.parametrize("fused", [True, False], ids=["one pass", "two passes"])
@pytest.mark.parametrize("pattern", [DENSE, pa.Pattern(None, global_tokens=10**6)], ids=["window", "globals"])
def test_gradients(pattern, fused, monkeypatch):
    """With dout = 0 and dlse = 1, dS = P: dq is the mean of the keys of a query, dk a sum of queries."""
    monkeypatch.setattr(plan, "fuses", lambda *_: fused)
    monkeypatch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
    n, heads = 8192 if pattern is DENSE else 4096, 2
    q, k = (np.tile(ROW, (1, h, n, 1)) for h in (heads, 1))
    out, lse = pa.attention(q, k, k, pattern, scale=1)
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(k)
    given = np.zeros_like(q), q, k, k, out, lse
    pa.sparse_index_kernel_backward(dq, dk, dv, *given, pattern, dlse=np.ones_like(lse), scale=1)
    later = np.cumsum(1 / np.arange(n, 0, -1))[::-1, None]  # of 1 / (i + 1) for i >= j
    assert relative_error(dq, ROW) < 4e-6
    assert relative_error(dk, heads * later * ROW) < 2e-6
    pa.sparse_index_kernel_backward(dq, dk, dv, q, *given[1:], pattern, scale=1)
    assert relative_error(dv, heads * later * ROW) < 2e-6


@pytest.mark.parametrize("fused", [True, False], ids=["one pass", "two passes"])
def test_bitwise_the_same_for_any_number_of_threads(fused, monkeypatch, rng):
    """Where sums of all outputs are carried over."""
    monkeypatch.setattr(plan, "fuses", lambda *_: fused)
    monkeypatch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
    q, dout = rng.standard_normal((2, 1, 4, 2500, D), dtype=np.float32)
    k, v = rng.standard_normal((2, 1, 2, 2500, D), dtype=np.float32)
    results, before = [], pa.get_num_threads()
    for threads in (1, 3):
        pa.set_num_threads(threads)
        out, lse = pa.attention(q, k, v, DENSE)
        grads = pa.sparse_index_kernel_backward(
            *map(np.empty_like, (q, k, v)), dout, q, k, v, out, lse, DENSE
        )
        results.append((out, lse, *grads))
    pa.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
