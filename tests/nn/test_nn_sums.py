"""Gradients that are sums over all tokens are as exact for millions of rows as for a few."""

import numpy as np
import pytest

import primeattn as pa

ROWS = 500_000
X = np.float32(1.1)


def weight_gradient(layer, x, dy, name):
    ps, st = pa.setup(np.random.default_rng(0), layer)
    _, dps = layer.pullback(x, ps, st)[2](dy)
    return dps[name]


@pytest.mark.parametrize("dim", [1, 2, 8])
def test_dense(dim):
    x, dy = np.full((ROWS, 2), X), np.full((ROWS, dim), X)
    layer = pa.Dense(2, dim)
    np.testing.assert_allclose(weight_gradient(layer, x, dy, "bias"), ROWS * float(X), rtol=1e-6)
    np.testing.assert_allclose(weight_gradient(layer, x, dy, "weight"), ROWS * float(X) ** 2, rtol=2e-6)


def test_layer_norm():
    x, dy = np.tile(np.float32([-1, 1]), (ROWS, 1)), np.full((ROWS, 2), X)
    np.testing.assert_allclose(weight_gradient(pa.LayerNorm(2), x, dy, "bias"), ROWS * float(X), rtol=1e-6)
    scale = ROWS * float(X) * np.array([-1, 1]) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(weight_gradient(pa.LayerNorm(2), x, dy, "scale"), scale, rtol=1e-6)


def test_embedding():
    layer, dy = pa.Embedding(2, 3, previous=1), np.full((ROWS, 3), X)
    tokens = np.zeros(ROWS, np.int64)
    np.testing.assert_allclose(weight_gradient(layer, tokens, dy, "weight")[0], ROWS * float(X), rtol=1e-6)
    earlier = weight_gradient(layer, tokens, dy, "previous")[0]
    np.testing.assert_allclose(earlier[0], (ROWS - 1) * float(X), rtol=1e-6)
    assert not earlier[1].any()


def test_positional_embedding():
    x = np.full((100_000, 1, 2), X)
    gradient = weight_gradient(pa.PositionalEmbedding(3, 2), x, x, "weight")
    np.testing.assert_allclose(gradient[0], len(x) * float(X), rtol=1e-6)
    assert not gradient[1:].any()


def test_cross_entropy_over_many_classes():
    z = np.full((1, 500_000), np.float32(0.1))
    z[0, 0] = 1
    loss, dz = pa.losses.cross_entropy(z, np.array([0]))
    total = 1 + (z.size - 1) * np.exp(float(z[0, 1]) - 1)
    assert loss == pytest.approx(np.log(total), rel=1e-7)
    np.testing.assert_allclose(dz[0, 1], np.exp(float(z[0, 1]) - 1) / total, rtol=2e-6)
