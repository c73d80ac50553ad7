import math

import numpy as np
import pytest

from primeattn.nn import Activation, gelu, relu, silu

VALUES = np.array([-2.0, -1.0, 0.0, 0.5, 3.0])


def apply(layer, x, dy):
    y, _, pullback = layer.pullback(x, {}, {})
    return y, pullback(dy)[0]


def test_relu():
    y, dx = apply(relu, VALUES, np.full(5, 2.0))
    assert y.tolist() == [0, 0, 0, 0.5, 3] and dx.tolist() == [0, 0, 0, 2, 2]


def test_gelu_is_near_the_exact_one():
    x = np.linspace(-6, 6, 1001)
    exact = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    error = np.abs(gelu(x, {}, {})[0] - exact).max()
    assert 1e-4 < error < 5e-4
    tanh = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x]
    np.testing.assert_allclose(gelu(x, {}, {})[0], tanh, rtol=1e-13, atol=1e-15)


def test_silu():
    y, dx = apply(silu, VALUES, np.ones(5))
    s = 1 / (1 + np.exp(-VALUES))
    np.testing.assert_allclose(y, VALUES * s, rtol=1e-14)
    np.testing.assert_allclose(dx, s + VALUES * s * (1 - s), rtol=1e-14)


@pytest.mark.parametrize("layer", [relu, gelu, silu], ids=repr)
def test_float32_is_float64_rounded(layer):
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    for a, b in zip(
        apply(layer, x, x), apply(layer, x.astype(np.float64), x.astype(np.float64)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [relu, gelu, silu], ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_inputs_stay_finite_and_nan_stays(layer, dtype):
    x = np.array([-1e4, 1e4, np.nan], dtype)
    y, dx = apply(layer, x, np.ones(3, dtype))
    assert y.dtype == dx.dtype == dtype
    assert y[:2].tolist() == [0, 1e4] and np.isnan(y[2])
    assert dx[:2].tolist() == [0, 1]


@pytest.mark.parametrize("layer", [relu, gelu, silu], ids=repr)
def test_blocks_and_shapes(rng, layer):
    x = rng.standard_normal((3, 70_000))
    y, dx = apply(layer, x, x)
    i = [0, 32767, 32768, 69_999]
    np.testing.assert_array_equal(apply(layer, x[:, i], x[:, i])[0], y[:, i])
    np.testing.assert_array_equal(apply(layer, x[:, i], x[:, i])[1], dx[:, i])
    assert apply(layer, np.ones((2, 0)), np.ones((2, 0)))[1].shape == (2, 0)


def test_activations_are_values():
    assert Activation("relu") == relu != gelu and repr(silu) == "silu"
    with pytest.raises(ValueError, match=r"name must be one of \['gelu', 'relu', 'silu'\], got 'tanh'"):
        Activation("tanh")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layer", [gelu, silu])
def test_far_from_zero_they_are_relu(layer, dtype):
    """Up to infinity; NaN stays NaN."""
    largest = np.finfo(dtype).max
    x = np.array([1e3, 1e14, 1e20, largest, np.inf, np.nan], dtype)
    x = np.concatenate([x, -x])
    y, _, pullback = layer.pullback(x, {}, {})
    dx, _ = pullback(np.ones_like(x))
    np.testing.assert_array_equal(y, [*x[:5], np.nan, *[0] * 5, np.nan])
    np.testing.assert_array_equal(dx, [*[1] * 5, np.nan, *[0] * 5, np.nan])
