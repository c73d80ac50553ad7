from itertools import pairwise

import numpy as np
import pytest

from primeattn import kernels
from primeattn.nn import (
    MianChowlaSelfAttention,
    Normal,
    PrimeSelfAttention,
    SparseIndexAttention,
    SquareSelfAttention,
    setup,
)
from primeattn.patterns import Pattern
from primeattn.tree import flatten, map, with_segments
from primeattn.workspace import Workspace

PRIMES, SQUARES = {2, 3, 5, 7, 11, 13, 17, 19, 23}, {1, 4, 9, 16, 25}


def keys(i, window, global_tokens, sequence):
    return [j for j in range(i + 1) if j < global_tokens or i - j <= window or i - j in sequence]


def naive(layer, masks, x, ps):
    """Loop over samples, heads and queries, straight from the definition; masks[h] = (W, G, S)."""
    d, h, g = layer.dims // layer.heads, layer.heads, layer.kv_heads
    y = np.zeros(x.shape)
    for b in range(len(x)):
        qkv = x[b] @ ps["Wi"]["weight"] + ps["Wi"].get("bias", 0)
        attended = np.zeros(x[b].shape)
        for head in range(h):
            group = head // (h // g)
            q = qkv[:, head * d : (head + 1) * d]
            k = qkv[:, (h + group) * d : (h + group + 1) * d]
            v = qkv[:, (h + g + group) * d : (h + g + group + 1) * d]
            for i in range(len(q)):
                visible = keys(i, *masks[head])
                p = np.exp(k[visible] @ q[i] / np.sqrt(d))
                attended[i, head * d : (head + 1) * d] = p @ v[visible] / p.sum()
        y[b] = attended @ ps["Wo"]["weight"] + ps["Wo"].get("bias", 0)
    return y


CASES = [
    (PrimeSelfAttention(8), [(3, 2, PRIMES)]),
    (PrimeSelfAttention(8, heads=4, window=0, global_tokens=0), [(0, 0, PRIMES)] * 4),
    (SquareSelfAttention(12, heads=4, kv_heads=2, bias=True), [(3, 2, SQUARES)] * 4),
    (MianChowlaSelfAttention(8, heads=2, kv_heads=1, window=1), [(1, 2, {1, 2, 4, 8, 13, 21})] * 2),
    (
        SparseIndexAttention(
            9, (Pattern(None, window=2), Pattern([7, 3]), Pattern("primes", global_tokens=40)), heads=3
        ),
        [(2, 0, ()), (0, 0, {3, 7}), (0, 40, PRIMES)],
    ),
]


def example(layer, rng, dtype=np.float64, shape=(2, 25)):
    ps, st = setup(rng, layer, dtype)
    ps = map(lambda leaf: (leaf + 0.1 * rng.standard_normal(leaf.shape)).astype(dtype), ps)
    return rng.standard_normal((*shape, layer.dims)).astype(dtype), ps, st


@pytest.mark.parametrize(("dtype", "tol"), [(np.float64, 1e-12), (np.float32, 5e-6)])
@pytest.mark.parametrize(("layer", "masks"), CASES, ids=[repr(layer) for layer, _ in CASES])
def test_output_against_the_definition(layer, masks, rng, dtype, tol):
    x, ps, st = example(layer, rng, dtype)
    y, _ = layer(x, ps, st)
    expected = naive(layer, masks, x.astype(np.float64), map(lambda leaf: leaf.astype(np.float64), ps))
    assert y.dtype == dtype
    np.testing.assert_allclose(y, expected, rtol=0, atol=tol)


def test_heads_really_split(rng):
    x, ps, st = example(PrimeSelfAttention(8), rng)
    one, four = (PrimeSelfAttention(8, heads=h)(x, ps, st)[0] for h in (1, 4))
    assert np.abs(one - four).max() > 1e-2


def test_constant_scores_give_the_plain_mean(rng):
    layer = PrimeSelfAttention(4)
    x, ps, st = example(layer, rng, shape=(12,))
    ps["Wi"]["weight"][:, :4] = 0  # q
    ps["Wo"]["weight"] = np.eye(4)
    v = x @ ps["Wi"]["weight"][:, 8:]
    means = [v[keys(i, 3, 2, PRIMES)].mean(axis=0) for i in range(12)]
    np.testing.assert_allclose(layer(x, ps, st)[0], means, rtol=1e-12)


def test_shapes_of_the_parameters(rng):
    ps, st = setup(rng, SparseIndexAttention(12, Pattern("primes"), heads=6, kv_heads=2, bias=True))
    assert {path: leaf.shape for path, leaf in flatten(ps).items()} == {
        "Wi/weight": (12, 20),
        "Wi/bias": (20,),
        "Wo/weight": (12, 12),
        "Wo/bias": (12,),
    }
    assert setup(rng, PrimeSelfAttention(12))[0]["Wi"].keys() == {"weight"} and st == {"cu_seqlens": None}


@pytest.mark.parametrize("layer", [layer for layer, _ in CASES], ids=repr)
def test_segments_equal_separate_calls(layer, rng):
    bounds = [0, 9, 9, 10, 25]
    x, ps, st = example(layer, rng, shape=(1, 25))
    dy = rng.standard_normal(x.shape)
    packed = with_segments(st, bounds)
    y, new_st, pullback = layer.pullback(x, ps, packed)
    dx, dps = pullback(dy)
    assert new_st["cu_seqlens"] is packed["cu_seqlens"]
    total = map(np.zeros_like, ps)
    for start, stop in pairwise(bounds):
        if start < stop:
            part, _, part_pullback = layer.pullback(x[:, start:stop], ps, st)
            part_dx, part_dps = part_pullback(dy[:, start:stop])
            np.testing.assert_allclose(y[:, start:stop], part, rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(dx[:, start:stop], part_dx, rtol=1e-11, atol=1e-12)
            total = map(np.add, total, part_dps)
    for path, leaf in flatten(dps).items():
        np.testing.assert_allclose(leaf, flatten(total)[path], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(layer(x[0], ps, packed)[0], y[0], rtol=1e-12, atol=1e-13)
    assert np.abs(layer(x, ps, st)[0] - y).max() > 1e-3
    with pytest.raises(ValueError, match="cu_seqlens"):
        layer(x[:, :24], ps, packed)
    with pytest.raises(ValueError, match="cu_seqlens"):
        layer(np.concatenate([x, x]), ps, packed)


def test_the_kernel_sees_views_of_one_buffer(rng, monkeypatch):
    layer = PrimeSelfAttention(8, heads=4, kv_heads=2)
    x, ps, st = example(layer, rng)
    seen = {}

    def spy(name, kernel):
        def call(*args, **kwargs):
            seen[name] = args, kwargs
            return kernel(*args, **kwargs)

        return call

    for name in ("sparse_index_kernel", "sparse_index_kernel_backward"):
        monkeypatch.setattr(kernels, name, spy(name, getattr(kernels, name)))
    ws = Workspace()
    y, _, pullback = layer.pullback(x, ps, st, workspace=ws)
    pullback(y)
    (out, _, q, k, v, _), options = seen["sparse_index_kernel"]
    (dq, dk, dv, *_), options_backward = seen["sparse_index_kernel_backward"]
    for a, b, c in ((q, k, v), (dq, dk, dv)):
        assert a.shape == (2, 4, 25, 2) and b.shape == c.shape == (2, 2, 25, 2)
        assert a.strides == b.strides == c.strides == (25 * 16 * 8, 16, 16 * 8, 8)
        first = a.__array_interface__["data"][0]
        assert [m.__array_interface__["data"][0] - first for m in (b, c)] == [64, 96]
    assert out.strides == (25 * 8 * 8, 16, 64, 8)
    assert options["workspace"] is options_backward["workspace"] is ws


def test_results_are_bitwise_repeatable(rng):
    layer = PrimeSelfAttention(16, heads=2)
    x, ps, st = example(layer, rng, np.float32, shape=(2, 300))
    first, second = (
        [y, *flatten({"dx": dx, **dps}).values()]
        for y, _, pullback in (layer.pullback(x, ps, st) for _ in range(2))
        for dx, dps in [pullback(y)]
    )
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("length", [1, 2])
def test_short_sequences(length, rng):
    layer = PrimeSelfAttention(8, heads=2)
    x, ps, st = example(layer, rng, shape=(length,))
    np.testing.assert_allclose(
        layer(x, ps, st)[0], naive(layer, [(3, 2, PRIMES)] * 2, x[None], ps)[0], atol=1e-12
    )


def test_a_named_layer_is_its_pattern(rng):
    named = PrimeSelfAttention(8, heads=2, window=1, global_tokens=0)
    plain = SparseIndexAttention(8, Pattern("primes", window=1), heads=2)
    assert named.pattern == plain.pattern and named != plain and isinstance(named, SparseIndexAttention)
    x, ps, st = example(plain, rng)
    np.testing.assert_array_equal(named(x, ps, st)[0], plain(x, ps, st)[0])
    assert PrimeSelfAttention(8).pattern == Pattern("primes", window=3, global_tokens=2)
    assert SquareSelfAttention(8).pattern == Pattern("squares", window=3, global_tokens=2)
    assert MianChowlaSelfAttention(8).pattern == Pattern("mian_chowla", window=3, global_tokens=2)


def test_repr_shows_what_differs():
    assert repr(PrimeSelfAttention(64, heads=4, window=3, kv_heads=4)) == "PrimeSelfAttention(64, heads=4)"
    assert repr(SquareSelfAttention(64, heads=4, kv_heads=2, global_tokens=1, init=Normal(1))) == (
        "SquareSelfAttention(64, heads=4, kv_heads=2, init=Normal(std=1.0), global_tokens=1)"
    )
    pattern = Pattern("primes", window=2)
    assert repr(SparseIndexAttention(4, pattern)) == f"SparseIndexAttention(4, {pattern!r})"
    assert PrimeSelfAttention(8, heads=2) == PrimeSelfAttention(8, heads=np.int64(2), kv_heads=2)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: PrimeSelfAttention(8, seq_len_max=4096), TypeError, "seq_len_max.* not needed: any length"),
        (
            lambda: SparseIndexAttention(8, Pattern("primes"), seq_len_max=9),
            TypeError,
            "not needed: any length",
        ),
        (lambda: PrimeSelfAttention(8, heads=3), ValueError, "heads must divide dims, got heads=3, dims=8"),
        (lambda: PrimeSelfAttention(8, heads=4, kv_heads=3), ValueError, "got kv_heads=3, heads=4"),
        (lambda: PrimeSelfAttention(8, heads=2, kv_heads=4), ValueError, "kv_heads must divide heads"),
        (lambda: PrimeSelfAttention(8, heads=0), ValueError, "heads must be at least 1, got 0"),
        (lambda: PrimeSelfAttention(8, kv_heads=0), ValueError, "kv_heads must be at least 1, got 0"),
        (lambda: PrimeSelfAttention(8.0), TypeError, "dims must be an integer, got 8.0"),
        (lambda: PrimeSelfAttention(8, window=-1), ValueError, "window must be at least 0, got -1"),
        (
            lambda: PrimeSelfAttention(8, global_tokens=1.5),
            TypeError,
            "global_tokens must be an integer, got 1.5",
        ),
        (lambda: PrimeSelfAttention(8, bias="no"), TypeError, "bias must be True or False"),
        (
            lambda: SparseIndexAttention(8, "primes"),
            TypeError,
            "pattern must be a Pattern or one per head, got 'primes'",
        ),
        (
            lambda: SparseIndexAttention(8, [Pattern("primes")] * 2),
            ValueError,
            "expected one pattern or 1 of them, got 2",
        ),
        (lambda: SparseIndexAttention(8, []), ValueError, "expected one pattern or 1 of them, got 0"),
    ],
)
def test_configuration_refuses(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_input_is_checked(rng):
    layer = PrimeSelfAttention(8)
    x, ps, st = example(layer, rng)
    for bad in (x[0, 0], x[None]):
        with pytest.raises(
            ValueError, match=r"x must have shape \(seq, dim\) or \(batch, seq, dim\), got shape"
        ):
            layer(bad, ps, st)
    with pytest.raises(ValueError, match=r"x must have last axis 8, got shape \(2, 25, 7\)"):
        layer(x[..., :7], ps, st)
    with pytest.raises((ValueError, RuntimeError), match="device"):
        PrimeSelfAttention(8, device="abacus")(x, ps, st)
