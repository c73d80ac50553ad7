"""Rotary positions against the complex formula, and against the way models are trained."""

import numpy as np
import pytest

from primeattn import get_num_threads, set_num_threads
from primeattn.nn import rotary


def turned(x, positions, base, dims):
    """The same by complex numbers, in float64; x is (batch, heads, length, head_dim)."""
    half = dims // 2
    angle = positions[:, None, :, None] * base ** (-2.0 * np.arange(half) / dims)
    z = (x[..., :half] + 1j * x[..., half:dims]) * np.exp(
        1j * np.where(positions < 0, 0, 1)[:, None, :, None] * angle
    )
    return np.concatenate([z.real, z.imag, x[..., dims:]], axis=-1)


@pytest.mark.parametrize("seed", range(12))
def test_rows_turn_by_the_angles_of_their_positions(seed):
    rng = np.random.default_rng(seed)
    dtype = (np.float32, np.float64)[seed % 2]
    batch, heads, length, dim = rng.integers([1, 1, 1, 3], [4, 4, 200, 14])
    dims = 2 * int(rng.integers(1, dim // 2 + 1))
    buffer = rng.standard_normal((batch, length, heads + 2, dim)).astype(dtype)
    x = buffer.transpose(0, 2, 1, 3)[:, 1 : heads + 1]  # a part of a larger array
    before, base = buffer.copy(), float(rng.choice([10.0, 10000.0]))
    positions = rng.integers(-3, 50, (batch if seed % 3 else 1, length))
    expected = turned(x.astype(np.float64), np.broadcast_to(positions, (batch, length)), base, dims)
    rotary.rotate(x, positions, base, dims)
    np.testing.assert_allclose(x, expected, atol=3e-5 if dtype is np.float32 else 1e-13)
    assert np.array_equal(buffer[:, :, [0, -1]], before[:, :, [0, -1]])  # the rest is as it was
    rotary.rotate(x, positions, base, dims, inverse=True)
    np.testing.assert_allclose(buffer, before, atol=1e-6)


def test_threads_change_nothing(rng):
    x, before = rng.standard_normal((2, 3, 700, 64)).astype(np.float32), get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            set_num_threads(threads)
            results.append(x.copy())
            rotary.rotate(results[-1], np.arange(700)[None], 10000.0, 64)
    finally:
        set_num_threads(before)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_scores_depend_on_distances_alone(rng):
    q, k = rng.standard_normal((2, 1, 1, 1, 16))
    scores = []
    for shift in (0, 7, 90):
        a, b = q.copy(), k.copy()
        rotary.rotate(a, np.array([[13 + shift]]), 10000.0, 16)
        rotary.rotate(b, np.array([[4 + shift]]), 10000.0, 16)
        scores.append((a * b).sum())
    np.testing.assert_allclose(scores, scores[0], rtol=1e-12)


def test_float32_angles_are_rounded_as_in_transformers():
    """Llama's rotary embedding there: frequencies and products in float32."""
    torch = pytest.importorskip("torch")
    dims, n = 64, 100_000
    inverse = 1.0 / (10000.0 ** (torch.arange(0, dims, 2, dtype=torch.int64).float() / dims))
    freqs = torch.outer(torch.arange(n).float(), inverse)
    cos, sin = rotary.tables(n, 10000.0, dims, np.dtype(np.float32))
    assert np.abs(cos[:n] - freqs.cos().numpy()).max() < 1e-6
    assert np.abs(sin[:n] - freqs.sin().numpy()).max() < 1e-6


def test_few_tables_are_kept(monkeypatch):
    monkeypatch.setattr(rotary, "_kept", {})
    for base in range(2, 20):
        rotary.tables(10, float(base), 4, np.dtype(np.float64))
    assert len(rotary._kept) <= rotary.KEPT
