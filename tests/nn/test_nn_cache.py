"""Calls that continue: pieces of any length give what one call gives."""

from functools import partial

import numpy as np
import pytest

import primeattn as pa
from primeattn import tree
from primeattn.kernels.gpu import device
from primeattn.nn import biases
from primeattn.nn._memory import Memory

PATTERNS = [
    pa.Pattern("primes", window=3, global_tokens=2),
    pa.Pattern("squares", window=1, global_tokens=20),
    pa.Pattern(None, window=4),
]


def random_model(rng):
    """Embedding, positions, and attention with random options."""
    heads = int(rng.choice([2, 4]))
    options = {
        "heads": heads,
        "kv_heads": int(rng.choice([1, heads])),
        "head_dim": int(rng.choice([4, 6])),
        "v_dim": [None, 3, 8][rng.integers(3)],
        "rotary": [None, 100.0][rng.integers(2)],
        "qk_norm": bool(rng.integers(2)),
        "sinks": bool(rng.integers(2)),
        "scale": [None, 0.7][rng.integers(2)],
        "offset_bias": [None, 0, 9][rng.integers(3)],
        "alibi": bool(rng.integers(2)),
        "softcap": [None, 2.0][rng.integers(2)],
    }
    patterns = [PATTERNS[rng.integers(3)] for _ in range(heads)]
    attention = pa.SparseIndexAttention(8, patterns if rng.integers(2) else patterns[0], **options)
    positions = [pa.PositionalEmbedding(300, 8)] if rng.integers(2) else []
    embedding = pa.Embedding(16, 8, previous=int(rng.integers(3)), init=pa.nn.Normal(1.0))
    block = pa.SkipConnection(pa.Chain(pa.RMSNorm(8), attention))
    if rng.integers(2):
        return pa.Tied(embedding, pa.Chain(*positions, block, block))
    return pa.Chain(embedding, *positions, block, block, pa.Dense(8, 5))


def check_schedule(seed, dtype):
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    ps, st = pa.setup(rng, model, dtype)
    ps = tree.map(lambda p: (p + 0.1 * rng.standard_normal(p.shape)).astype(dtype), ps)
    batch, longest = int(rng.integers(1, 4)), int(rng.integers(1, 120))
    missing = rng.integers(0, longest, batch) * int(rng.integers(2))  # padding on the left
    tokens = rng.integers(0, 16, (batch, longest))
    cached = pa.with_cache(model, st, batch, longest + int(rng.integers(9)), start=-missing, dtype=dtype)
    parts, begin, workspace = [], 0, pa.Workspace() if rng.integers(2) else None
    while begin < longest:
        end = min(begin + int(rng.choice([1, 1, 2, rng.integers(1, 60)])), longest)
        y, cached = model(tokens[:, begin:end], ps, cached, workspace=workspace)
        parts.append(y.copy())
        begin = end
    y = np.concatenate(parts, axis=1)
    for b in range(batch):
        alone, _ = model(tokens[b : b + 1, missing[b] :], ps, st)
        error, size = np.abs(y[b, missing[b] :] - alone[0]).max(), max(np.abs(alone).max(), 1)
        assert error <= (2e-6 if dtype == np.float32 else 1e-14) * size


def test_random_schedules_equal_one_call(one_head_at_a_time):
    for seed in range(12):
        check_schedule(seed, np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 20))
def test_many_random_schedules_equal_one_call(first):
    for seed in range(first, first + 20):
        check_schedule(seed, (np.float32, np.float64)[seed % 2])


@pytest.fixture
def one(rng):
    model = pa.Chain(pa.Embedding(9, 8, previous=1), pa.PositionalEmbedding(20, 8), pa.PrimeSelfAttention(8))
    ps, st = pa.setup(rng, model)
    return model, ps, st


def test_states_are_not_changed_and_continue_once(one, rng):
    model, ps, st = one
    first = pa.with_cache(model, st, 1, 12)
    tokens = rng.integers(0, 9, (1, 10))
    _, second = model(tokens[:, :4], ps, first)
    used = {path: leaf for path, leaf in tree.flatten(first).items() if path.endswith("used")}
    assert all(int(leaf) == 0 for leaf in used.values()) and len(used) == 3
    with pytest.raises(ValueError, match=r"continued already, with 4 more tokens; copy_cache\(st\)"):
        model(tokens[:, :4], ps, first)
    other = pa.copy_cache(second)
    one_way, _ = model(tokens[:, 4:], ps, second)
    other_way, _ = model(tokens[:, ::-1][:, :3], ps, other)
    whole, _ = model(tokens, ps, st)
    np.testing.assert_allclose(one_way, whole[:, 4:], atol=2e-6)
    mixed = np.concatenate([tokens[:, :4], tokens[:, ::-1][:, :3]], axis=1)
    np.testing.assert_allclose(other_way, model(mixed, ps, st)[0][:, 4:], atol=2e-6)


def test_unbatched_input(rng):
    layer = pa.PrimeSelfAttention(8, heads=2, rotary=10.0)
    ps, st = pa.setup(rng, layer)
    x, cached = rng.standard_normal((7, 8), dtype=np.float32), pa.with_cache(layer, st, 1, 7)
    y, cached = layer(x[:5], ps, cached)
    y2, _ = layer(x[5:], ps, cached)
    np.testing.assert_allclose(np.concatenate([y, y2]), layer(x, ps, st)[0], atol=1e-6)


def test_a_cache_says_what_it_cannot_take(one, rng):
    model, ps, st = one
    cached = pa.with_cache(model, st, 2, 6)
    tokens = rng.integers(0, 9, (2, 7))
    with pytest.raises(ValueError, match="the cache is for a batch of 2, got one of 1"):
        model(tokens[:1, :3], ps, cached)
    with pytest.raises(ValueError, match="has room for 6 positions, got 0 and 7 more"):
        model(tokens, ps, cached)
    with pytest.raises(ValueError, match="a state with a cache has no pullback; see without_cache"):
        model.pullback(tokens[:, :3], ps, cached)
    with pytest.raises(ValueError, match="cu_seqlens and a cache do not go together"):
        model(tokens[:, :3], ps, pa.with_segments(cached, [0, 3]))
    with pytest.raises(ValueError, match="at most 20 positions, got 21"):
        pa.with_cache(model, st, 2, 21)
    with pytest.raises(TypeError, match="the cache is float32 but x is float64"):
        double = tree.map(lambda p: p.astype(np.float64), ps)
        model(tokens[:, :3], double, pa.with_cache(model, st, 2, 6))
    assert tree.flatten(pa.without_cache(cached)) == tree.flatten(st)


attention = partial(pa.PrimeSelfAttention, 8, heads=4)


@pytest.mark.parametrize(
    ("layer", "other", "match"),
    [
        (pa.PositionalEmbedding(20, 8), pa.PositionalEmbedding(40, 8), "at most 20 positions, got 30"),
        (pa.Embedding(9, 8, previous=2), pa.Embedding(9, 8, previous=3), r"sizes \(2,\), got .* \(3,\)"),
        (attention(), attention(head_dim=4), r"sizes \(4, 2\), got .* with \(4, 4\)"),
        # One key head would be written for both without a word.
        (attention(kv_heads=1), attention(kv_heads=2), r"sizes \(1, 2\), got .* with \(2, 2\)"),
    ],
)
def test_a_cache_of_another_layer_is_refused(layer, other, match, rng):
    ps, st = pa.setup(rng, layer)
    cached = pa.with_cache(other, st, 1, 30)
    x = np.ones((1, 3), int) if isinstance(layer, pa.Embedding) else np.ones((1, 3, 8), np.float32)
    with pytest.raises(ValueError, match=match):
        layer(x, ps, cached)
    assert all(int(leaf) == 0 for path, leaf in tree.flatten(cached).items() if path.endswith("filled"))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"batch": 0}, ValueError, "batch: expected an integer >= 1, got 0"),
        ({"capacity": 2.5}, TypeError, "capacity: expected an integer, got 2.5"),
        ({"start": 1}, ValueError, r"start: expected 0 or less, or an array \(2,\) of such, got 1"),
        ({"start": np.zeros(3, int)}, ValueError, r"start: expected 0 or less, or an array \(2,\)"),
        ({"dtype": np.float16}, TypeError, "dtype: expected float32 or float64, got float16"),
        ({"model": None}, TypeError, "model: expected a Layer, got NoneType"),
        ({"st": 3}, TypeError, "st: expected a nested dict, got int"),
    ],
)
def test_with_cache_refuses(change, error, match, one):
    model, _, st = one
    options = {"model": model, "st": st, "batch": 2, "capacity": 5, **change}
    with pytest.raises(error, match=match):
        pa.with_cache(**options)


def test_a_cache_on_the_gpu_needs_one(rng, monkeypatch):
    """What such a cache does is shown on the emulator of the GPU."""
    monkeypatch.setattr(device, "problem", lambda: "none is found")
    layer = pa.PrimeSelfAttention(8, device="cuda")
    with pytest.raises(RuntimeError, match="device: no GPU can be used here: none is found"):
        pa.with_cache(layer, layer.states(rng), 1, 4)


def test_biases_of_a_cache_have_few_sizes(rng):
    layer = pa.PrimeSelfAttention(8, offset_bias=3)
    ps, _ = pa.setup(rng, layer)
    memory = Memory()
    wide = [biases.terms(layer, ps, n, np.float32, memory, growing=True)["offset_bias"] for n in range(1, 99)]
    assert {a.shape[1] for a in wide} == {1, 2, 4, 8, 16, 32}
    for n, a in zip(range(1, 99), wide, strict=True):
        assert layer.pattern.offsets(n).size <= a.shape[1]


def test_no_tokens_at_all(one):
    model, ps, st = one
    cached, none = pa.with_cache(model, st, 2, 12), np.zeros((2, 0), int)
    y, cached = model(none, ps, cached)
    assert y.shape == (2, 0, 8)
    first, cached = model(np.ones((2, 3), int), ps, cached)
    _, cached = model(none, ps, cached)
    second, _ = model(np.ones((2, 2), int), ps, cached)
    whole, _ = model(np.ones((2, 5), int), ps, st)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, atol=2e-6)
