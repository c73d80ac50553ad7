import numpy as np
import pytest

from primeattn.nn import Chain, Dropout, setup
from primeattn.tree import test_mode, train_mode


def test_keeps_the_right_share_and_the_mean(rng):
    layer = Dropout(0.25)
    ps, st = setup(rng, layer)
    y, _ = layer(np.ones((300, 400), np.float32), ps, st)
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / y.size)
    columns = (y == 0).mean(axis=0)
    assert np.abs(columns - 0.25).max() < 6 * np.sqrt(0.25 * 0.75 / 300)


def test_state_decides(rng):
    layer, x = Dropout(0.5), np.ones((8, 50))
    ps, st = setup(rng, layer)
    y, st1 = layer(x, ps, st)
    again, _ = layer(x, ps, st)
    other, st2 = layer(x, ps, st1)
    np.testing.assert_array_equal(y, again)
    assert (y != other).mean() > 0.3
    assert st["rng"].dtype == np.uint64 and [s["rng"][1] for s in (st, st1, st2)] == [0, 1, 2]
    assert st["rng"][0] == st2["rng"][0] != setup(rng, layer)[1]["rng"][0]
    np.testing.assert_array_equal(layer(x.astype(np.float32), ps, st)[0], y)


def test_gradient_passes_where_x_did(rng):
    layer, x = Dropout(0.5), np.ones((8, 50))
    ps, st = setup(rng, layer)
    y, _, pullback = layer.pullback(x, ps, st)
    dx, dps = pullback(np.full_like(x, 3.0))
    np.testing.assert_array_equal(dx, 3 * y)
    assert dps == {}


def test_test_mode_is_the_identity_and_leaves_the_state(rng):
    layer, x = Dropout(0.5), rng.standard_normal((8, 50))
    ps, st = setup(rng, layer)
    y, st1, pullback = layer.pullback(x, ps, test_mode(st))
    assert (y == x).all() and not np.shares_memory(y, x) and (st1["rng"] == st["rng"]).all()
    dx, _ = pullback(y)
    assert (dx == y).all() and not np.shares_memory(dx, y)
    assert (layer(x, ps, train_mode(st1))[0] != x).any()


def test_nothing_is_dropped_at_zero_but_the_counter_moves(rng):
    layer, x = Dropout(0), rng.standard_normal(5)
    ps, st = setup(rng, layer)
    y, st1 = layer(x, ps, st)
    assert (y == x).all() and st1["rng"][1] == 1


def test_two_dropouts_of_a_model_differ(rng):
    _, st = setup(rng, Chain(Dropout(0.5), Dropout(0.5)))
    assert st["layer_0"]["rng"][0] != st["layer_1"]["rng"][0]


@pytest.mark.parametrize("p", [1, -0.1, 1.5, np.nan])
def test_probability_is_checked(p):
    with pytest.raises(ValueError, match=r"Dropout: p must be in \[0, 1\)"):
        Dropout(p)


def test_wrong_random_state_is_refused():
    with pytest.raises(ValueError, match=r"rng in st must be a uint64 array \[seed, counter\]"):
        Dropout(0.5)(np.ones(3), {}, {"rng": np.array([1, 2]), "training": True})
