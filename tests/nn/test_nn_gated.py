import numpy as np
import pytest

from primeattn import check_gradients, tree
from primeattn.nn import Chain, Dense, Gated, PrimeSelfAttention, relu, setup, silu, with_cache
from primeattn.workspace import Workspace

MODEL = Gated(Chain(Dense(4, 6), silu), Dense(4, 6))


def test_it_is_the_product(rng):
    ps, st = setup(rng, MODEL, np.float64)
    x = rng.standard_normal((2, 3, 4))
    y, new_st = MODEL(x, ps, st)
    gate, _ = MODEL.gate(x, ps["gate"], st["gate"])
    value, _ = MODEL.value(x, ps["value"], st["value"])
    np.testing.assert_array_equal(y, gate * value)
    tree.check(ps, tree.map(np.asarray, ps))
    assert new_st == st and list(ps) == ["gate", "value"]


def test_gradients(rng):
    check_gradients(MODEL, rng.standard_normal((2, 3, 4)))
    ps, st = setup(rng, MODEL)
    x = rng.standard_normal((2, 3, 4), dtype=np.float32)
    results = [
        MODEL.pullback(x, ps, st, workspace=w)[2](np.ones((2, 3, 6), np.float32)) for w in (None, Workspace())
    ]
    for (dx, dps), (other, dothers) in [results]:
        np.testing.assert_array_equal(dx, other)
        assert all(map(np.array_equal, tree.flatten(dps).values(), tree.flatten(dothers).values()))


def test_a_gate_that_shares_its_input(rng):
    check_gradients(Gated(relu, relu), rng.standard_normal((3, 4)) + 3)


def test_attention_within_has_a_cache(rng):
    layer = Gated(PrimeSelfAttention(4), Dense(4, 4))
    ps, st = setup(rng, layer)
    x = rng.standard_normal((2, 5, 4), dtype=np.float32)
    expected, _ = layer(x, ps, st)
    st = with_cache(layer, st, batch=2, capacity=5)
    for t in range(5):
        y, st = layer(x[:, t : t + 1], ps, st)
        np.testing.assert_allclose(y[:, 0], expected[:, t], atol=1e-5)


def test_errors(rng):
    with pytest.raises(TypeError, match="value must be a Layer, got 3"):
        Gated(relu, 3)
    layer = Gated(relu, Dense(4, 5))
    with pytest.raises(ValueError, match=r"must give one shape, got \(2, 4\) and \(2, 5\)"):
        layer(np.ones((2, 4), np.float32), *setup(rng, layer))
