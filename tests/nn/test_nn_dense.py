import numpy as np
import pytest

from primeattn.nn import Dense, he_normal, setup, zeros


def test_every_rank_is_the_same_affine_map(rng):
    layer = Dense(4, 3)
    ps, st = setup(rng, layer, np.float64)
    ps["bias"] += [1, 2, 3]
    for shape in [(4,), (5, 4), (2, 5, 4), (2, 1, 5, 4), (0, 4), (3, 0, 4)]:
        x = rng.standard_normal(shape)
        y, _, pullback = layer.pullback(x, ps, st)
        np.testing.assert_allclose(y, x @ ps["weight"] + [1, 2, 3], rtol=1e-13, atol=1e-13)
        dy = rng.standard_normal(y.shape)
        dx, dps = pullback(dy)
        np.testing.assert_allclose(dx, dy @ ps["weight"].T, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(
            dps["weight"], x.reshape(-1, 4).T @ dy.reshape(-1, 3), rtol=1e-13, atol=1e-13
        )
        np.testing.assert_allclose(dps["bias"], dy.reshape(-1, 3).sum(0), rtol=1e-13, atol=1e-13)


def test_x_is_not_copied(rng):
    layer, x = Dense(4, 3), np.ones((2, 5, 4), np.float32)
    ps, st = setup(rng, layer)
    _, _, pullback = layer.pullback(x, ps, st)
    x.fill(2)
    assert (pullback(np.ones((2, 5, 3), np.float32))[1]["weight"] == 20).all()


def test_initial_parameters(rng):
    ps, st = setup(rng, Dense(300, 200))
    assert st == {} and (ps["bias"] == 0).all()
    bound = np.sqrt(6 / 500)
    assert 0.99 * bound < np.abs(ps["weight"]).max() <= bound
    assert setup(rng, Dense(3, 2, bias=False, init=zeros))[0].keys() == {"weight"}


def test_repr_shows_what_differs():
    assert repr(Dense(2, 3)) == "Dense(2, 3)"
    assert (
        repr(Dense(np.int32(2), 3, bias=False, init=he_normal)) == "Dense(2, 3, bias=False, init=he_normal)"
    )


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Dense(0, 3), ValueError, "Dense: in_features must be at least 1, got 0"),
        (lambda: Dense(3, -1), ValueError, "Dense: out_features must be at least 1, got -1"),
        (lambda: Dense(3.0, 3), TypeError, "Dense: in_features must be an integer, got 3.0"),
        (lambda: Dense(True, 3), TypeError, "Dense: in_features must be an integer, got True"),
        (lambda: Dense(3, 3, bias=1), TypeError, "Dense: bias must be True or False, got 1"),
        (lambda: Dense(3, 3, init="zeros"), TypeError, "Dense: init must be callable, got 'zeros'"),
    ],
)
def test_configuration_refuses(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_wrong_width_is_refused(rng):
    layer = Dense(4, 3)
    ps, st = setup(rng, layer)
    with pytest.raises(ValueError, match=r"Dense\(4, 3\): x must have last axis 4, got shape \(2, 5\)"):
        layer(np.ones((2, 5), np.float32), ps, st)
    with pytest.raises(ValueError, match=r"at least one axis, got shape \(\)"):
        layer(np.ones((), np.float32), ps, st)
