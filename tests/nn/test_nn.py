"""What every layer owes: gradients, causality, memory, states, errors, repr."""

import copy
import math
import pickle
import threading
from dataclasses import dataclass

import numpy as np
import pytest

import primeattn.nn as nn
from primeattn import sequences, tree
from primeattn.bench.step import allocation
from primeattn.check import check_gradients
from primeattn.kernels import get_num_threads, set_num_threads
from primeattn.nn import (
    Chain,
    Dense,
    Dropout,
    Embedding,
    Layer,
    LayerNorm,
    MianChowlaSelfAttention,
    Parameter,
    PositionalEmbedding,
    PrimeSelfAttention,
    RMSNorm,
    SkipConnection,
    SparseIndexAttention,
    SquareSelfAttention,
    Tied,
    gelu,
    relu,
    setup,
    silu,
)
from primeattn.patterns import Pattern
from primeattn.workspace import Workspace

BATCH, SEQ, DIM, VOCAB = 2, 14, 8, 7

LAYERS = [
    Dense(DIM, 5),
    Dense(DIM, 3, bias=False),
    LayerNorm(DIM),
    RMSNorm(DIM, eps=1e-3),
    relu,
    gelu,
    silu,
    Dropout(0.3),
    Embedding(VOCAB, 5),
    Embedding(VOCAB, 5, previous=2),
    PositionalEmbedding(20, DIM),
    SkipConnection(Dense(DIM, DIM)),
    Chain(Dropout(0.5)),
    PrimeSelfAttention(DIM, heads=2),
    SquareSelfAttention(DIM, heads=4, kv_heads=2, window=0, global_tokens=0, bias=True),
    MianChowlaSelfAttention(DIM, global_tokens=30),
    SparseIndexAttention(DIM, [Pattern("primes", window=1), Pattern([5, 2], global_tokens=1)], heads=2),
    Chain(
        Embedding(VOCAB, DIM, previous=1),
        PositionalEmbedding(20, DIM),
        Dropout(0.1),
        SkipConnection(Chain(LayerNorm(DIM), PrimeSelfAttention(DIM, heads=4, window=1, global_tokens=1))),
        SkipConnection(Chain(RMSNorm(DIM), Dense(DIM, 12), gelu, Dense(12, DIM, init=nn.Normal(0.1)))),
        LayerNorm(DIM),
        head=Dense(DIM, VOCAB),
    ),
    Tied(
        Embedding(VOCAB, DIM, previous=1),
        Chain(Dropout(0.1), SkipConnection(PrimeSelfAttention(DIM, heads=2)), RMSNorm(DIM)),
    ),
]
every_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: " ".join(repr(layer).split()))


def takes_tokens(layer):
    layer = layer.embedding if isinstance(layer, Tied) else layer
    return isinstance(next(iter(layer.values()), None) if isinstance(layer, Chain) else layer, Embedding)


def example(layer, rng, dtype=np.float64, seq=SEQ):
    ps, st = setup(rng, layer, dtype)
    ps = tree.map(lambda leaf: (leaf + 0.1 * rng.standard_normal(leaf.shape)).astype(dtype), ps)
    if takes_tokens(layer):
        return rng.integers(0, VOCAB, (BATCH, seq)), ps, st
    return rng.standard_normal((BATCH, seq, DIM)).astype(dtype), ps, st


def leaves(dx, dps):
    return ([] if dx is None else [dx]) + list(tree.flatten(dps).values())


@every_layer
def test_gradients(layer, rng):
    x, ps, st = example(layer, rng)
    errors = check_gradients(layer, x[:, :9], ps, st, max_entries=12)
    assert len(errors) == len(tree.flatten(ps)) + (not takes_tokens(layer))


@every_layer
def test_a_flipped_sign_fails_the_check(layer, rng, monkeypatch):
    x, ps, st = example(layer, rng)
    paths = list(tree.flatten(ps)) + ([] if takes_tokens(layer) else ["dx"])
    right = type(layer).backward
    for wrong in paths:

        def backward(self, *args, wrong=wrong):
            dx, dps = right(self, *args)
            if self is not layer:
                return dx, dps
            flipped = tree.map_with_path(lambda path, g: -g if path == wrong else g, dps)
            return (-dx if wrong == "dx" else dx), flipped

        with monkeypatch.context() as patch, pytest.raises(AssertionError, match=wrong[1:]):
            patch.setattr(type(layer), "backward", backward)
            check_gradients(layer, x[:, :9], ps, st, max_entries=4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_layer
def test_causality(layer, rng, dtype):
    x, ps, st = example(layer, rng, dtype)
    y, _ = layer(x, ps, st)
    for t in (0, 1, 6, SEQ - 1):
        changed = x.copy()
        changed[:, t] = (x[:, t] + 1) % VOCAB if takes_tokens(layer) else rng.standard_normal(DIM)
        y_changed, _ = layer(changed, ps, st)
        np.testing.assert_array_equal(y_changed[:, :t], y[:, :t])
        assert (y_changed[:, t] != y[:, t]).any()


@every_layer
def test_samples_do_not_mix(layer, rng):
    x, ps, st = example(layer, rng)
    changed = x.copy()
    changed[1] = x[0]
    before, after = layer(x, ps, st)[0], layer(changed, ps, st)[0]
    np.testing.assert_array_equal(after[0], before[0])


@every_layer
def test_unbatched_is_a_batch_of_one(layer, rng):
    x, ps, st = example(layer, rng)
    st = tree.test_mode(st)
    y, _, pullback = layer.pullback(x[0], ps, st)
    y_batch, _, pullback_batch = layer.pullback(x[:1], ps, st)
    dy = rng.standard_normal(y.shape)
    assert y.shape == y_batch.shape[1:]
    for a, b in zip([y, *leaves(*pullback(dy))], [y_batch, *leaves(*pullback_batch(dy[None]))], strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_layer
def test_one_workspace_two_forwards_then_two_backwards(layer, rng, dtype):
    x, ps, st = example(layer, rng, dtype)
    xs, ws, held, places = (x, x[::-1].copy()), Workspace(), [], []
    for _ in range(3):
        results, expected = [], []
        for store, workspace in ((results, ws), (expected, None)):
            calls = [layer.pullback(x, ps, st, workspace=workspace) for x in xs]
            dys = [np.cos(y) for y, _, _ in calls]
            store += [y for y, _, _ in calls]
            for (_, _, pullback), dy in zip(calls, dys, strict=True):
                store += leaves(*pullback(dy))
            if workspace is ws:
                pullback_of_ws = pullback
        for a, b in zip(results, expected, strict=True):
            assert a.dtype == b.dtype == dtype
            np.testing.assert_array_equal(a, b)
        for i, a in enumerate(results):
            assert not any(np.shares_memory(a, b) for b in [*results[:i], *xs, *dys])
        held.append(ws.nbytes)
        places.append({a.__array_interface__["data"][0] for a in results})
        ws.reset()
        with pytest.raises(RuntimeError, match="made before workspace"):
            pullback_of_ws(dys[0])
    assert 0 < held[0] == held[1] == held[2]
    assert places[0] == places[1] == places[2]


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "layer",
    [
        Dense(DIM, DIM),
        LayerNorm(DIM),
        RMSNorm(DIM),
        relu,
        gelu,
        silu,
        Dropout(0.3),
        Embedding(VOCAB, DIM, previous=2),
        PositionalEmbedding(16384, DIM),
        SkipConnection(Chain(LayerNorm(DIM), SquareSelfAttention(DIM, heads=2, bias=True))),
    ],
    ids=lambda layer: " ".join(repr(layer).split()),
)
def test_a_workspace_leaves_nothing_to_allocate(layer, rng, dtype):
    x, ps, st = example(layer, rng, dtype, seq=16384)
    dy, ws = rng.standard_normal((*x.shape[:2], DIM)).astype(dtype), Workspace()

    def call():
        ws.reset()
        layer.pullback(x, ps, st, workspace=ws)[2](dy)

    assert allocation(call) < BATCH * 16384 * 4  # one number per token, 128 KB: buffers of NumPy have 64


@pytest.mark.parametrize("layer", [LayerNorm(64), RMSNorm(64), relu, gelu, silu], ids=repr)
def test_threads_change_nothing(layer, rng):
    x, dy = rng.standard_normal((2, 5, 2000, 64), dtype=np.float32)
    (ps, st), before, results = setup(rng, layer), get_num_threads(), []
    try:
        for threads in (1, 3):
            set_num_threads(threads)
            y, _, pullback = layer.pullback(x, ps, st)
            results.append([y, *leaves(*pullback(dy))])
    finally:
        set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@every_layer
def test_a_pullback_is_repeatable_and_its_results_are_fresh(layer, rng):
    x, ps, st = example(layer, rng)
    arguments = copy.deepcopy((x, ps, st))
    y, new_st, pullback = layer.pullback(x, ps, st)
    dy = rng.standard_normal(y.shape)
    given = dy.copy()
    first = leaves(*pullback(dy))
    values = [a.copy() for a in first]
    y += 1
    for a in first:
        assert a.flags.writeable and not any(np.shares_memory(a, b) for b in (x, y, dy))
        a.fill(np.nan)
    for a, b in zip(leaves(*pullback(dy)), values, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(dy, given)
    np.testing.assert_equal((x, ps, st), arguments)
    assert tree.flatten(new_st).keys() == tree.flatten(st).keys()


@every_layer
def test_strides_do_not_matter(layer, rng):
    x, ps, st = example(layer, rng)
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    backwards = np.asfortranarray(x)
    y, _, pullback = layer.pullback(x, ps, st)
    dy = rng.standard_normal(y.shape)
    expected = [y, *leaves(*pullback(dy))]
    for other in (strided, backwards):
        y, _, pullback = layer.pullback(other, ps, st)
        for a, b in zip([y, *leaves(*pullback(np.asfortranarray(dy)))], expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@every_layer
def test_a_layer_is_a_value(layer, rng):
    names = {name: getattr(nn, name) for name in nn.__all__}
    names |= {"Pattern": Pattern} | {name: getattr(sequences, name) for name in sequences.__all__}
    twin = eval(repr(layer), names)
    assert twin == layer and hash(twin) == hash(layer)
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert sum(other == layer for other in LAYERS) == 1
    for name in ("dim", "new"):
        with pytest.raises(AttributeError):
            setattr(layer, name, 3)


@every_layer
def test_parameter_count(layer, rng):
    ps, _ = setup(rng, layer)
    assert layer.parameter_count == sum(leaf.size for leaf in tree.flatten(ps).values())
    assert all(leaf.dtype == np.float32 for leaf in tree.flatten(ps).values())


@every_layer
def test_setup_depends_on_the_generator_alone(layer):
    (ps, st), (ps_again, st_again) = (setup(np.random.default_rng(5), layer) for _ in range(2))
    np.testing.assert_equal((ps, st), (ps_again, st_again))
    ps64, _ = setup(np.random.default_rng(5), layer, np.float64)
    for a, b in zip(tree.flatten(ps).values(), tree.flatten(ps64).values(), strict=True):
        np.testing.assert_array_equal(a, b.astype(np.float32))


@every_layer
def test_wrong_arguments_are_refused(layer, rng):
    x, ps, st = example(layer, rng)
    for bad in (x.tolist(), x.astype(bool), x.astype(complex), x.astype(np.float16)):
        with pytest.raises(TypeError, match=r"x must be"):
            layer(bad, ps, st)
    with pytest.raises(TypeError, match=r"ps: expected a dict .* got NoneType"):
        layer(x, None, st)
    with pytest.raises(ValueError, match=r"ps: .* unexpected \['other'\]"):
        layer(x, {**ps, "other": np.zeros(1)}, st)
    with pytest.raises(ValueError, match=r"expected a state with keys .* got .*'other'"):
        layer(x, ps, {**st, "other": 1})
    with pytest.raises(ValueError, match=r"expected a state with keys .* got NoneType"):
        layer(x, ps, None)
    with pytest.raises(TypeError, match="workspace: expected a Workspace or None, got int"):
        layer(x, ps, st, workspace=3)
    for path, leaf in tree.flatten(ps).items():
        for bad, error, match in [
            (leaf[None], ValueError, f"ps/{path}: expected shape .*, got "),
            (leaf.astype(int), TypeError, f"ps/{path}: expected dtype float.*, got int64"),
            (leaf.tolist(), TypeError, f"ps/{path}: expected an array .* got list"),
        ]:
            with pytest.raises(error, match=match):
                layer(x, tree.map_with_path(lambda p, a, path=path, bad=bad: bad if p == path else a, ps), st)
    y, _, pullback = layer.pullback(x, ps, st)
    for bad, error, match in [
        (y[:1], ValueError, "dy: expected shape .* got"),
        (y.astype(np.float32), TypeError, "dy: expected dtype float64, got float32"),
        (1.0, TypeError, "dy: expected an array .* got float"),
    ]:
        with pytest.raises(error, match=match):
            pullback(bad)


@every_layer
def test_another_dtype_is_refused_with_the_cure(layer, rng):
    x, ps, st = example(layer, rng, np.float32)
    if layer.parameter_count and not takes_tokens(layer):
        cure = (
            r"x is float64 but the parameters are float32; pass x.astype\(np.float32\) or set up with dtype"
        )
        with pytest.raises(TypeError, match=cure):
            layer(x.astype(np.float64), ps, st)


@every_layer
def test_a_workspace_of_another_thread_is_refused(layer, rng):
    x, ps, st = example(layer, rng)
    ws, errors = Workspace(), []
    _, _, pullback = layer.pullback(x, ps, st, workspace=ws)
    dy = np.ones_like(layer(x, ps, st)[0])

    def use():
        for call in (lambda: layer(x, ps, st, workspace=ws), lambda: pullback(dy)):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    with ws.guard():
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    assert len(errors) == 2 and "another thread" in errors[0]


def test_the_whole_call_holds_the_workspace():
    ws, errors = Workspace(), []

    def use():
        try:
            ws.take((1,), np.float32)
        except RuntimeError as error:
            errors.append(str(error))

    @dataclass(frozen=True, repr=False)
    class Intruded(Layer):
        def forward(self, x, ps, st, memory):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            return memory.copy(x), st, None

        def backward(self, dy, saved, ps, memory):
            self.forward(dy, ps, {}, memory)
            return memory.copy(dy), {}

    Intruded()(np.ones(3), {}, {}, workspace=ws)
    assert len(errors) == 1
    _, _, pullback = Intruded().pullback(np.ones(3), {}, {}, workspace=ws)
    assert len(errors) == 2
    pullback(np.ones(3))
    assert len(errors) == 3 and "another thread" in errors[2]


def test_setup_refuses(rng):
    with pytest.raises(TypeError, match=r"rng: expected a numpy.random.Generator, got int"):
        setup(0, Dense(2, 2))
    with pytest.raises(TypeError, match="layer: expected a Layer, got type"):
        setup(rng, Dense)
    with pytest.raises(TypeError, match="dtype: expected float32 or float64, got float16"):
        setup(rng, Dense(2, 2), np.float16)
    with pytest.raises(ValueError, match=r"ps/weight: expected shape \(2, 3\), got \(3,\)"):
        setup(rng, Dense(2, 3, init=lambda rng, shape, dtype: np.zeros(3, dtype)))


def test_a_layer_without_forward_says_so():
    @dataclass(frozen=True, repr=False)
    class Nothing(Layer):
        pass

    with pytest.raises(NotImplementedError, match="Nothing defines no forward"):
        Nothing()(np.ones(1), {}, {})


@pytest.mark.parametrize(
    ("declared", "match"),
    [
        (np.ones(3), r"Own.parameters: expected a nested dict of Parameter, got ndarray"),
        ({"w": {"u": [3]}}, r"Own.parameters/w/u: expected a nested dict of Parameter, got list"),
        ({"w": Parameter(3, np.zeros)}, r"Own.parameters/w: expected a shape such as \(8,\), got 3"),
        ({"w": Parameter((2.5,), np.zeros)}, "Own.parameters/w: size: expected an integer, got 2.5"),
        ({"w": Parameter((3,), "ones")}, "Own.parameters/w: expected init to be a function, got 'ones'"),
    ],
)
def test_wrong_declarations_are_named(declared, match, rng):
    class Own(Layer):
        def parameters(self):
            return declared

    with pytest.raises(TypeError, match=match):
        setup(rng, Own())


@pytest.mark.parametrize(("found", "got"), [((1, 2), "2 values"), (np.ones(3), "ndarray")])
def test_a_forward_that_returns_something_else_is_named(found, got, rng):
    @dataclass(frozen=True, repr=False)
    class Own(Layer):
        def forward(self, x, ps, st, memory):
            return found

    for layer in (Own(), Chain(Own(), relu)):
        ps, st = setup(rng, layer)
        with pytest.raises(
            TypeError, match=rf"Own.forward: expected it to return \(y, st, saved\), got {got}"
        ):
            layer(np.ones((1, 3)), ps, st)


def test_setup_draws_parameters_of_a_known_size():
    model = Chain(Dense(3, 4), LayerNorm(4), PrimeSelfAttention(4, heads=2), RMSNorm(4), Embedding(5, 4))
    assert model.parameter_count == (12 + 4) + 8 + (48 + 16) + 4 + 20
    assert math.prod(Dense(3, 4).parameters()["weight"].shape) == 12
