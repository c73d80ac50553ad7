"""The vector micro-kernels one by one."""

from functools import lru_cache

import numpy as np
import pytest
from numba import njit

from primeattn.compiled import simd
from primeattn.compiled.simd import GROUP, LINE, axpy8, dot8, exp_times, row_exp, row_max, transpose8
from primeattn.kernels.cpu.tiles import ALONE, TWO

DTYPES = [np.float32, np.float64]


@lru_cache
def compiled(function, vector):
    """``function`` for vector registers of ``vector`` bytes, to be called first where VECTOR is that."""
    return njit(function.py_func)


@njit
def _exp(one, s, t, a, b, step, n):
    exp_times(one, s, t, a, b, step, n)


@njit
def _softmax(one, s, stride, groups, best, shift, total, n):
    row_max(one, s, stride, groups, best, n)
    row_exp(one, s, stride, groups, shift, total, n)


@njit
def _dot(one, width, x, y, rows, old, s):
    if width == 4:
        dot8(4, one, ALONE, x, y, rows, 0, old, 0, s, 1)
    elif width == 2:
        dot8(2, one, ALONE, x, y, rows, 0, old, 0, s, 1)
    else:
        dot8(1, one, ALONE, x, y, rows, 0, old, 0, s, 1)


@njit
def _axpy(one, x, y, rows, s):
    axpy8(2, one, ALONE, x, y, rows, 0, s, 1)


@njit
def _rows_of_heads(one, heads, x, y, rows, y_step, old, s, n):
    """Scores, and onto x the values that they weigh."""
    dot8(2, one, heads, x, y, rows, y_step, old, 0, s, n)
    axpy8(2, one, heads, x, y, rows, y_step, s, n)


@njit
def _transpose(one, a, stride, s):
    rows = (
        a,
        a + stride,
        a + 2 * stride,
        a + 3 * stride,
        a + 4 * stride,
        a + 5 * stride,
        a + 6 * stride,
        a + 7 * stride,
    )
    transpose8(one, rows, 0, s, stride)


def exp_of(x):
    s, t, zero = x.copy(), np.full_like(x, 2), np.zeros(1, x.dtype)
    _exp(zero[0], s.ctypes.data, t.ctypes.data, zero.ctypes.data, zero.ctypes.data, 0, x.size // GROUP)
    np.testing.assert_array_equal(t, 2 * s)
    return s


@pytest.mark.parametrize(("dtype", "low", "high"), [(np.float32, -87, 88), (np.float64, -708, 709)])
def test_exp_is_accurate_over_the_whole_range(dtype, low, high, rng):
    x = np.concatenate([np.linspace(low, high, 40_000), rng.uniform(-1, 1, 40_000)]).astype(dtype)
    expected = np.exp(x.astype(np.longdouble))
    error = np.abs(exp_of(x) - expected) / expected / np.finfo(dtype).eps
    assert error.max() < 1.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_at_the_edges(dtype):
    x = np.array([0, -np.inf, np.nan, -1e4, -1e30, -0.0, 1e30, np.inf], dtype)
    got = exp_of(x)
    assert np.array_equal(got[[0, 1, 3, 4, 5]], [1, 0, 0, 0, 1])
    assert np.isnan(got[2])
    assert (got[6:] > 1e38).all() and np.isfinite(got[6:]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vector", [32, 64])
@pytest.mark.parametrize("n", [1, 4, 5])
def test_exp_times_with_numbers_per_row(n, vector, dtype, rng, monkeypatch):
    monkeypatch.setattr(simd, "VECTOR", vector)
    s, t = rng.standard_normal((2, n + 1, GROUP)).astype(dtype)
    a, b = rng.standard_normal((2, n + 1)).astype(dtype)
    p, product = np.exp(s + a[:, None]), np.exp(s + a[:, None]) * (t + b[:, None])
    p[n], product[n] = s[n], t[n]  # behind the last row nothing is written
    addresses = (x.ctypes.data for x in (s, t, a, b))
    compiled(_exp, vector)(dtype(1), *addresses, a.itemsize, n)
    np.testing.assert_allclose(s, p, rtol=1e-6)
    np.testing.assert_allclose(t, product, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vector", [32, 64])
@pytest.mark.parametrize("n", [1, 4, 5])
def test_row_maximum_passes_over_nan_and_row_sum_does_not(n, vector, dtype, rng, monkeypatch):
    monkeypatch.setattr(simd, "VECTOR", vector)
    softmax = compiled(_softmax, vector)
    scores = rng.standard_normal((3, n + 1, GROUP)).astype(dtype)
    scores[:, 0] -= 10
    for found in (False, True):
        s = scores.copy()
        if found:
            s[2, n - 1, 3] = np.nan
        best, shift, total = np.full(n + 1, -5, dtype), *rng.standard_normal((2, n + 1)).astype(dtype)
        largest = np.maximum(np.nanmax(s, axis=(0, 2)), -5)
        powers = np.exp(s - shift[:, None])
        sums = total + powers.sum(axis=(0, 2))
        # Behind the last row nothing is written.
        largest[n], powers[:, n], sums[n] = best[n], s[:, n], total[n]
        addresses = (x.ctypes.data for x in (best, shift, total))
        softmax(dtype(1), s.ctypes.data, s.strides[0], 3, *addresses, n)
        np.testing.assert_array_equal(best, largest)
        np.testing.assert_allclose(s, powers, rtol=1e-6)
        np.testing.assert_allclose(total, sums, rtol=1e-5)
        assert np.isnan(total[n - 1]) == found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lines", [1, 2, 4])
@pytest.mark.parametrize("rows", [(3, 7, 1, 0, 5, 6, 2, 4), (5, 2)])
def test_dot_and_axpy(dtype, lines, rows, rng, dot=_dot, axpy=_axpy):
    n = lines * 64 // np.dtype(dtype).itemsize
    x, y = rng.standard_normal(n).astype(dtype), rng.standard_normal((8, n)).astype(dtype)
    old, s = rng.standard_normal(8).astype(dtype), np.full(8, np.nan, dtype)
    old[3] = -np.inf
    dot(dtype(0), lines, x.ctypes.data, y.ctypes.data, rows, old.ctypes.data, s.ctypes.data)
    expected, met = old.copy(), y[list(rows)]
    expected[: len(rows)] += met @ x
    np.testing.assert_allclose(s, expected, rtol=1e-4, atol=1e-5)
    s[3] = 1
    if lines == 2:
        expected = x + s[: len(rows)] @ met
        axpy(dtype(0), x.ctypes.data, y.ctypes.data, rows, s.ctypes.data)
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vector", [32, 64])
@pytest.mark.parametrize("rows", [range(8), range(2)])
def test_dot_with_vector_registers_of_any_machine(vector, rows, dtype, rng, monkeypatch):
    monkeypatch.setattr(simd, "VECTOR", vector)
    test_dot_and_axpy(dtype, 2, tuple(rows), rng, dot=compiled(_dot, vector), axpy=compiled(_axpy, vector))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vector", [32, 64])
@pytest.mark.parametrize("count", [8, 2])
def test_two_heads_at_once_give_the_bits_of_each_alone(count, vector, dtype, rng, monkeypatch):
    monkeypatch.setattr(simd, "VECTOR", vector)
    n, d = 5, 2 * LINE // np.dtype(dtype).itemsize
    x, y = rng.standard_normal((n, 2, d)).astype(dtype), rng.standard_normal((40, d)).astype(dtype)
    old, s = rng.standard_normal((2, GROUP)).astype(dtype), np.empty((n, 2, GROUP), dtype)
    alone = []
    for h in range(2):
        one_x, one_s = x[:, h].copy(), np.empty((n, GROUP), dtype)
        alone.append((ALONE, one_x, old[h].copy(), one_s))
    rows = tuple(rng.integers(0, 30, count).tolist())
    for heads, xs, olds, scores in ((TWO, x, old, s), *alone):
        addresses = (a.ctypes.data for a in (xs, y))
        compiled(_rows_of_heads, vector)(
            dtype(1), heads, *addresses, rows, y.strides[0], olds.ctypes.data, scores.ctypes.data, n
        )
    for h, (_, one_x, _, one_s) in enumerate(alone):
        assert np.array_equal(s[:, h], one_s) and np.array_equal(x[:, h], one_x)
    assert not np.array_equal(s[:, 0], s[:, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose(dtype):
    a, s = np.arange(64).reshape(8, 8).astype(dtype), np.empty((8, 8), dtype)
    _transpose(dtype(0), a.ctypes.data, a.strides[0], s.ctypes.data)
    assert np.array_equal(s, a.T)
