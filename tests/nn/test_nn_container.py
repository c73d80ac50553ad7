import weakref
from dataclasses import dataclass

import numpy as np
import pytest

from primeattn.nn import Chain, Dense, Dropout, Layer, LayerNorm, SkipConnection, gelu, relu, setup
from primeattn.tree import test_mode


def test_chain_is_the_composition(rng):
    model = Chain(Dense(3, 4), relu, head=Dense(4, 2))
    ps, st = setup(rng, model, np.float64)
    x = rng.standard_normal((5, 3))
    hidden = np.maximum(x @ ps["layer_0"]["weight"] + ps["layer_0"]["bias"], 0)
    y, new_st = model(x, ps, st)
    np.testing.assert_allclose(y, hidden @ ps["head"]["weight"] + ps["head"]["bias"], rtol=1e-13)
    assert list(ps) == list(st) == list(new_st) == ["layer_0", "layer_1", "head"] and ps["layer_1"] == {}
    dx, dps = model.pullback(x, ps, st)[2](y)
    assert list(dps) == list(ps) and dps["layer_1"] == {} and dx.shape == x.shape


def test_chain_is_a_mapping():
    model = Chain(Dense(3, 4), relu, head=Dense(4, 2))
    assert list(model) == ["layer_0", "layer_1", "head"] and len(model) == 3
    assert model["head"] == Dense(4, 2) and "head" in model and dict(model)["layer_1"] is relu
    with pytest.raises(KeyError):
        model["tail"]
    assert Chain(relu) == Chain(layer_0=relu) != Chain(a=relu)


def test_nested_repr():
    model = Chain(Dense(3, 4), SkipConnection(Chain(LayerNorm(4), gelu)), b=relu, layer_3=Dropout(0.5))
    assert repr(model) == (
        "Chain(\n"
        "    Dense(3, 4),\n"
        "    SkipConnection(Chain(\n"
        "        LayerNorm(4),\n"
        "        gelu,\n"
        "    )),\n"
        "    b=relu,\n"
        "    layer_3=Dropout(0.5),\n"
        ")"
    )


def test_states_thread_through(rng):
    model = Chain(Dropout(0.5), SkipConnection(Chain(Dropout(0.5))))
    ps, st = setup(rng, model)
    _, new = model(np.ones((2, 3)), ps, st)
    assert (
        new["layer_0"]["rng"][1] == new["layer_1"]["layer_0"]["rng"][1] == 1 and st["layer_0"]["rng"][1] == 0
    )


def test_one_layer_twice_has_parameters_of_its_own(rng):
    layer = Dense(3, 3)
    ps, _ = setup(rng, Chain(layer, layer))
    assert (ps["layer_0"]["weight"] != ps["layer_1"]["weight"]).any()


def test_errors_name_the_place(rng):
    model = Chain(Dense(3, 4), block=SkipConnection(Chain(Dense(4, 4))))
    ps, st = setup(rng, model)
    x = np.ones((2, 3), np.float32)
    ps["block"]["layer_0"]["bias"] = np.zeros(5, np.float32)
    with pytest.raises(ValueError, match=r"ps/block/layer_0/bias: expected shape \(4,\), got \(5,\)"):
        model(x, ps, st)
    misfit = Chain(Dense(3, 4), Dense(5, 2))
    ps, st = setup(rng, misfit)
    with pytest.raises(ValueError, match=r"Dense\(5, 2\): x must have last axis 5, got shape \(2, 4\)"):
        misfit(x, ps, st)
    with pytest.raises(ValueError, match=r"Chain: expected a state with keys .* got"):
        misfit(x, ps, {"layer_0": {}})


def test_skip_connection_adds_and_keeps_the_shape(rng):
    layer = SkipConnection(Dense(3, 3, bias=False))
    ps, st = setup(rng, layer, np.float64)
    x = rng.standard_normal((5, 3))
    y, _, pullback = layer.pullback(x, ps, st)
    np.testing.assert_allclose(y, x + x @ ps["weight"], rtol=1e-13)
    np.testing.assert_allclose(pullback(x)[0], x + x @ ps["weight"].T, rtol=1e-13)
    other = SkipConnection(Dense(3, 4))
    ps, st = setup(rng, other)
    with pytest.raises(ValueError, match=r"keep the shape of its input, got \(5, 3\) -> \(5, 4\)"):
        other(x.astype(np.float32), ps, st)


def test_skip_connection_around_the_identity_leaves_x_alone(rng):
    layer = SkipConnection(Dropout(0.5))
    ps, st = setup(rng, layer)
    x = np.ones(3)
    y, _, pullback = layer.pullback(x, ps, test_mode(st))
    dx, _ = pullback(x)
    assert (y == 2).all() and (dx == 2).all() and (x == 1).all()


def test_a_call_keeps_no_activations(rng):
    held, alive = [], []

    @dataclass(frozen=True, repr=False)
    class Watch(Layer):
        def forward(self, x, ps, st, memory):
            held.append(weakref.ref(x))
            alive.append(sum(ref() is not None for ref in held))
            return memory.copy(x), st, x

    model = Chain(*[Watch() for _ in range(4)])
    ps, st = setup(rng, model)
    model(np.ones(3), ps, st)
    assert alive == [1, 2, 2, 2]  # x of the caller and that of the layer at work
    held.clear(), alive.clear()
    model.pullback(np.ones(3), ps, st)
    assert alive == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Chain(), ValueError, "at least one layer"),
        (lambda: Chain(relu, np.tanh), TypeError, "Chain: layer_1 must be a Layer"),
        (lambda: Chain(relu, layer_0=relu), ValueError, "'layer_0' belongs to a positional layer"),
        (lambda: Chain(**{"a/b": relu}), ValueError, "names must be identifiers, got 'a/b'"),
        (lambda: SkipConnection(np.tanh), TypeError, "SkipConnection: layer must be a Layer"),
    ],
)
def test_configuration_refuses(make, error, match):
    with pytest.raises(error, match=match):
        make()
