"""The vector micro-kernels for the terms of scores, one by one."""

from functools import lru_cache

import numpy as np
import pytest
from numba import njit

from primeattn.compiled import simd
from primeattn.compiled.simd import GROUP
from primeattn.compiled.simd_scores import add_biases, cap_scores, column_sums

DTYPES = [np.float32, np.float64]


@lru_cache
def compiled(function, vector):
    """``function`` for vector registers of ``vector`` bytes, to be called first where VECTOR is that."""
    return njit(function.py_func)


@njit
def _cap(one, s, rates, cap, n):
    cap_scores(one, s, rates, cap, n)


@njit
def _biases(one, s, stride, n, by_row, row_step, by_slot, slope, distances, step):
    add_biases(one, s, stride, n, by_row, row_step, by_slot, slope, distances, step)


@njit
def _sums(one, s, n, total):
    column_sums(one, s, n, total)


@pytest.fixture(params=[32, 64])
def vector(request, monkeypatch):
    monkeypatch.setattr(simd, "VECTOR", request.param)
    return request.param


def capped(x, cap, vector):
    """Capped scores, the rates at which they change, and the scores of a call that wants no rates."""
    dtype = x.dtype.type
    s, alone, rates = x.copy(), x.copy(), np.full_like(x, 7)
    run, n = compiled(_cap, vector), x.size // GROUP
    run(dtype(1), s.ctypes.data, rates.ctypes.data, dtype(cap), n)
    run(dtype(1), alone.ctypes.data, None, dtype(cap), n)
    np.testing.assert_array_equal(s, alone)
    return s, rates


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cap", [1e-3, 0.5, 1, 30, 1e4])
def test_cap_is_accurate_over_the_whole_range(dtype, cap, vector, rng):
    """Relative to the capped score itself, tiny ones included."""
    sizes = 10.0 ** rng.uniform(-8, 2, 40 * GROUP)
    x = (cap * sizes * rng.choice([-1, 1], sizes.size)).astype(dtype)
    s, rates = capped(x, cap, vector)
    expected = np.tanh(x.astype(np.longdouble) / np.longdouble(dtype(cap)))
    error = np.abs(s / dtype(cap) - expected) / np.abs(expected) / np.finfo(dtype).eps
    assert error.max() < 5
    assert np.abs(rates - (1 - expected**2)).max() < 5 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_cap_at_the_edges(dtype, vector):
    most = np.finfo(dtype).max
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, most, -most, np.finfo(dtype).tiny], dtype)
    s, rates = capped(x, 2, vector)
    np.testing.assert_array_equal(s[:7], [0, 0, 2, -2, np.nan, 2, -2])
    np.testing.assert_array_equal(rates[:7], [1, 1, 0, 0, np.nan, 0, 0])
    assert 0 < s[7] < 3 * x[7]
    tiny = np.full(GROUP, 1e-3, dtype)
    for cap in (4 / most, most):
        assert np.isfinite(capped(tiny, cap, vector)[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_biases_by_row_and_slot(n, step, dtype, vector, rng):
    """Into every second row of a tile, as where two heads alternate."""
    s = rng.standard_normal((n, 2, GROUP)).astype(dtype)
    by_row, by_slot = rng.standard_normal(n).astype(dtype), rng.standard_normal(GROUP).astype(dtype)
    distances, slope = rng.integers(10, 99, GROUP).astype(dtype), dtype(0.3)
    expected = s.astype(float)
    further = distances + step * np.arange(n)[:, None]
    expected[:, 0] += by_row[:, None] + by_slot - float(slope) * further
    given = s.ctypes.data, 2 * GROUP * s.itemsize, n, by_row.ctypes.data, s.itemsize
    given += by_slot.ctypes.data, slope, distances.ctypes.data, step
    compiled(_biases, vector)(dtype(1), *given)
    np.testing.assert_allclose(s, expected, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 1000])
def test_columns_are_summed_in_float64(n, dtype, vector, rng):
    s, total = rng.standard_normal((n, GROUP)).astype(dtype), np.full(GROUP, np.nan)
    compiled(_sums, vector)(dtype(1), s.ctypes.data, n, total.ctypes.data)
    np.testing.assert_allclose(total, s.astype(float).sum(0), rtol=1e-12, atol=1e-13)
