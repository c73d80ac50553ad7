from itertools import pairwise

import numpy as np
import pytest

from primeattn.nn import Chain, Dense, Embedding, PositionalEmbedding, setup
from primeattn.tree import with_segments


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("shape", [(), (6,), (2, 5), (2, 3, 4), (0,), (2, 0)])
def test_lookup_and_its_gradient(rng, shape, dtype):
    layer, tokens = Embedding(9, 4), rng.integers(0, 9, shape).astype(dtype)
    ps, st = setup(rng, layer)
    y, _, pullback = layer.pullback(np.asarray(tokens), ps, st)
    np.testing.assert_array_equal(y, ps["weight"][tokens.astype(int)])
    dy = rng.standard_normal(y.shape, dtype=np.float32)
    dx, dps = pullback(dy)
    expected = np.zeros((9, 4), np.float32)
    np.add.at(expected, tokens.astype(int), dy)
    assert dx is None and st == {} and dps["weight"].dtype == np.float32
    np.testing.assert_allclose(dps["weight"], expected, rtol=1e-5, atol=1e-6)


def naive_previous(ps, tokens):
    """Sum over the token and its predecessors in one sequence."""
    y = ps["weight"][tokens]
    for t in range(len(tokens)):
        for back in range(1, len(ps["previous"]) + 1):
            if t - back >= 0:
                y[t] += ps["previous"][back - 1, tokens[t - back]]
    return y


@pytest.mark.parametrize("previous", [1, 3])
def test_previous_tokens(rng, previous):
    layer = Embedding(9, 4, previous=previous)
    ps, st = setup(rng, layer, np.float64)
    tokens = rng.integers(0, 9, (3, 7))
    y, _ = layer(tokens, ps, st)
    np.testing.assert_allclose(y, [naive_previous(ps, row) for row in tokens], rtol=1e-14)
    np.testing.assert_array_equal(layer(tokens[0], ps, st)[0], y[0])
    np.testing.assert_array_equal(layer(tokens[:, :1], ps, st)[0][:, 0], ps["weight"][tokens[:, 0]])
    assert layer(tokens[:, :0], ps, st)[0].shape == (3, 0, 4)


BOUNDS = [0, 4, 4, 5, 7, 11, 11]


@pytest.mark.parametrize("make", [lambda: Embedding(9, 4, previous=3), lambda: PositionalEmbedding(12, 4)])
def test_segments_equal_separate_calls(rng, make):
    layer = make()
    ps, st = setup(rng, layer, np.float64)
    x = rng.integers(0, 9, 11) if isinstance(layer, Embedding) else rng.standard_normal((11, 4))
    dy = rng.standard_normal((11, 4))
    packed = with_segments(st, BOUNDS)
    y, new_st, pullback = layer.pullback(x, ps, packed)
    dx, dps = pullback(dy)
    assert new_st["cu_seqlens"] is packed["cu_seqlens"]
    total = {name: np.zeros_like(leaf) for name, leaf in ps.items()}
    for start, stop in pairwise(BOUNDS):
        part, _, part_pullback = layer.pullback(x[start:stop], ps, st)
        np.testing.assert_array_equal(part, y[start:stop])
        part_dx, part_dps = part_pullback(dy[start:stop])
        if dx is not None:
            np.testing.assert_array_equal(part_dx, dx[start:stop])
        for name in total:
            total[name] += part_dps[name]
    for name in total:
        np.testing.assert_allclose(dps[name], total[name], rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(layer(x[None], ps, packed)[0][0], y)
    assert (layer(x, ps, with_segments(packed, None))[0] != y).any()
    with pytest.raises(ValueError, match="cu_seqlens needs a batch of 1 or none, got a batch of 2"):
        layer(np.stack([x, x]), ps, packed)
    with pytest.raises(ValueError, match="cu_seqlens must end at the length of x, 10, got 11"):
        layer(x[:10], ps, packed)


@pytest.mark.parametrize("previous", [0, 2])
def test_tokens_are_checked(rng, previous):
    layer = Embedding(9, 4, previous=previous)
    ps, st = setup(rng, layer)
    for bad, got in (([0, 9], "0 to 9"), ([-1, 3], "-1 to 3")):
        with pytest.raises(ValueError, match=rf"tokens must be in \[0, 9\), got {got}"):
            layer(np.array(bad), ps, st)
    for bad in (np.zeros(3), np.zeros(3, bool), [0, 1]):
        with pytest.raises(TypeError, match="x must be a numpy array of integer tokens"):
            layer(bad, ps, st)
    if previous:
        with pytest.raises(ValueError, match=r"shape \(seq,\) or \(batch, seq\), got \(1, 1, 1\)"):
            layer(np.zeros((1, 1, 1), int), ps, st)


def test_initial_tables_have_the_same_scale(rng):
    ps, _ = setup(rng, Embedding(500, 40, previous=2))
    assert [round(float(table.std()), 3) for table in (ps["weight"], *ps["previous"])] == [0.02] * 3
    with pytest.raises(ValueError, match="previous must be at least 0, got -1"):
        Embedding(3, 3, previous=-1)


def test_positions_are_added(rng):
    layer = PositionalEmbedding(5, 3)
    ps, st = setup(rng, layer, np.float64)
    x = rng.standard_normal((2, 4, 3))
    y, _, pullback = layer.pullback(x, ps, st)
    np.testing.assert_array_equal(y, x + ps["weight"][:4])
    dx, dps = pullback(x)
    np.testing.assert_array_equal(dx, x)
    np.testing.assert_allclose(dps["weight"], np.concatenate([x.sum(0), np.zeros((1, 3))]), rtol=1e-14)
    with pytest.raises(ValueError, match="sequences must have at most 5 positions, got 6"):
        layer(np.ones((6, 3)), ps, st)
    with pytest.raises(ValueError, match=r"shape \(seq, dim\) or \(batch, seq, dim\), got shape \(3,\)"):
        layer(np.ones(3), ps, st)
    assert (layer(np.ones((6, 3)), ps, with_segments(st, [0, 1, 6]))[0][1:] == 1 + ps["weight"]).all()


def test_segments_reach_every_layer_of_a_model(rng):
    model = Chain(Embedding(9, 4, previous=2), PositionalEmbedding(8, 4), Dense(4, 2))
    ps, st = setup(rng, model, np.float64)
    tokens = rng.integers(0, 9, 10)
    y, _ = model(tokens, ps, with_segments(st, [0, 3, 10]))
    np.testing.assert_allclose(y[3:], model(tokens[3:], ps, st)[0], rtol=1e-12, atol=1e-14)
