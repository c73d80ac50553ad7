import numpy as np
import pytest

from primeattn.nn import LayerNorm, RMSNorm, setup


def naive(layer, x, ps):
    if isinstance(layer, RMSNorm):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + layer.eps) * ps["scale"]
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps) * ps["scale"] + ps["bias"]


@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 2e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize(
    "layer", [LayerNorm(6), RMSNorm(6), LayerNorm(1), RMSNorm(1), LayerNorm(6, eps=0.5)], ids=repr
)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (3000, 4), (0,)])
def test_values(rng, layer, shape, dtype, tol):
    ps, st = setup(rng, layer, dtype)
    for leaf in ps.values():
        leaf += rng.standard_normal(leaf.shape).astype(dtype)
    x = (5 + 3 * rng.standard_normal((*shape, layer.dim))).astype(dtype)
    y, _ = layer(x, ps, st)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, naive(layer, x.astype(np.float64), ps), rtol=0, atol=10 * tol)


@pytest.mark.parametrize("layer", [LayerNorm(300), RMSNorm(300)], ids=repr)
def test_gradients_over_several_blocks_of_rows(rng, layer):
    ps, st = setup(rng, layer, np.float64)
    x, dy = rng.standard_normal((2, 400, 300))
    _, _, pullback = layer.pullback(x, ps, st)
    dx, dps = pullback(dy)
    parts = [layer.pullback(x[i : i + 1], ps, st)[2](dy[i : i + 1]) for i in range(400)]
    np.testing.assert_allclose(dx, np.concatenate([part[0] for part in parts]), rtol=1e-12, atol=1e-12)
    for name in ps:
        np.testing.assert_allclose(dps[name], sum(part[1][name] for part in parts), rtol=1e-11, atol=1e-11)


def test_statistics_are_those_of_one_token(rng):
    x = rng.standard_normal((2, 5, 8), dtype=np.float32)
    x[1, 3] = np.nan
    for layer in (LayerNorm(8), RMSNorm(8)):
        ps, st = setup(rng, layer)
        y, _ = layer(x, ps, st)
        assert np.isnan(y[1, 3]).all() and np.isnan(y).sum() == 8


def test_mean_far_from_zero_does_not_cost_digits(rng):
    x = (1000 + rng.standard_normal((50, 64))).astype(np.float32)
    ps, st = setup(rng, LayerNorm(64))
    np.testing.assert_allclose(
        LayerNorm(64)(x, ps, st)[0], naive(LayerNorm(64), x.astype(float), ps), atol=2e-3
    )


def test_configuration_refuses():
    with pytest.raises(ValueError, match=r"LayerNorm: eps must be in \[0, inf\), got -1"):
        LayerNorm(3, eps=-1)
    with pytest.raises(TypeError, match="RMSNorm: dim must be an integer"):
        RMSNorm((3,))
    assert repr(LayerNorm(3, 1e-5)) == "LayerNorm(3)" and repr(RMSNorm(3, eps=0.1)) == "RMSNorm(3, eps=0.1)"
