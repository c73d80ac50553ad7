"""Options of attention layers, all together, against a dense formula in float64; and hooks of one's own."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

import primeattn as pa
from primeattn import tree

pytestmark = pytest.mark.usefixtures("one_head_at_a_time")

PATTERNS = [
    pa.Pattern("primes", window=2, global_tokens=1),
    pa.Pattern("squares"),
    pa.Pattern(None, window=5),
]


def random_layer(rng):
    heads = int(rng.choice([1, 2, 4]))
    patterns = [PATTERNS[rng.integers(3)] for _ in range(heads)]
    head_dim = int(rng.choice([2, 3, 6]))
    turning = head_dim > 3 or head_dim == 2
    return pa.SparseIndexAttention(
        8,
        patterns if rng.integers(2) else patterns[0],
        heads=heads,
        kv_heads=int(rng.choice([k for k in (1, 2, 4) if heads % k == 0])),
        head_dim=head_dim,
        v_dim=[None, 1, 2, 5][rng.integers(4)],
        scale=[None, 0.3][rng.integers(2)],
        rotary=[None, 50.0][rng.integers(2)] if turning else None,
        qk_norm=bool(rng.integers(2)),
        sinks=bool(rng.integers(2)),
        offset_bias=[None, 0, 7, 500][rng.integers(4)],
        alibi=bool(rng.integers(2)),
        softcap=[None, 1.5][rng.integers(2)],
        bias=bool(rng.integers(2)),
    )


def dense(layer, x, ps, segments):
    """The layer on x (batch, seq, dims) with matrices of scores."""
    h, g, d, seq = layer.heads, layer.kv_heads, layer.head_dim, x.shape[1]
    qkv = x @ ps["Wi"]["weight"] + ps["Wi"].get("bias", 0)
    columns = np.split(qkv, [h * d, (h + g) * d], axis=2)
    columns = zip(columns, (h, g, g), strict=True)
    q, k, v = (a.reshape(len(x), seq, n, -1).transpose(0, 2, 1, 3) for a, n in columns)
    if layer.qk_norm:
        q, k = (
            a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-5) * ps[name]["scale"]
            for a, name in ((q, "q_norm"), (k, "k_norm"))
        )
    place = np.arange(seq) - np.repeat(segments[:-1], np.diff(segments))
    if layer.rotary:
        half = layer.rotary_dims // 2
        turn = np.exp(1j * np.outer(place, layer.rotary ** (-np.arange(half) / half)))

        def turned(a):
            z = (a[..., :half] + 1j * a[..., half : 2 * half]) * turn
            return np.concatenate([z.real, z.imag, a[..., 2 * half :]], axis=-1)

        q, k = turned(q), turned(k)
    same = np.equal.outer(*[np.repeat(np.arange(len(segments) - 1), np.diff(segments))] * 2)
    out = np.empty((*q.shape[:3], layer.v_dim))
    for head in range(h):
        mask = np.zeros((seq, seq), bool)
        for a, b in itertools.pairwise(segments):
            mask[a:b, a:b] = layer.pattern_of(head).to_dense(b - a)
        scale = d**-0.5 if layer.scale is None else layer.scale
        scores = scale * q[:, head] @ k[:, head * g // h].swapaxes(1, 2)
        scores = scores if layer.softcap is None else layer.softcap * np.tanh(scores / layer.softcap)
        scores = scores + bias_of_pairs(layer, head, ps, place)
        weights = np.where(mask & same, np.exp(scores), 0)
        total = weights.sum(-1, keepdims=True)
        if layer.sinks:
            total += np.exp(ps["sinks"][head])
        out[:, head] = weights / total @ v[:, head * g // h]
    y = out.transpose(0, 2, 1, 3).reshape(len(x), seq, -1)
    return y @ ps["Wo"]["weight"] + ps["Wo"].get("bias", 0)


def bias_of_pairs(layer, head, ps, place):
    """What is added to the score of each pair; the slopes are those of the paper for 1, 2 and 4 heads."""
    bias = np.zeros((len(place), len(place)))
    slopes = {1: [2**-8], 2: [2**-4, 2**-8], 4: [2**-2, 2**-4, 2**-6, 2**-8]}[layer.heads]
    pattern, near = layer.pattern_of(head), layer.offset_bias
    for i, a in enumerate(place):
        for j, b in enumerate(place[: i + 1]):
            if layer.alibi:
                bias[i, j] -= slopes[head] * (a - b)
            if near is not None and b < pattern.global_tokens:
                bias[i, j] += ps["global_bias"][head, b]
            elif near is not None and a >= b:
                known = pattern.offsets(near + 1)
                at = np.searchsorted(pattern.offsets(61), a - b)
                bias[i, j] += ps["offset_bias"][head, min(at, len(known) - 1)]
    return bias


def example(rng, layer, dtype):
    ps, st = pa.setup(rng, layer, dtype)
    return tree.map(lambda p: (p + 0.2 * rng.standard_normal(p.shape)).astype(dtype), ps), st


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", range(40))
def test_options_against_the_dense_formula(seed, dtype):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng)
    ps, st = example(rng, layer, dtype)
    packed, seq = bool(rng.integers(2)), int(rng.integers(1, 60))
    segments = np.array([0, *np.sort(rng.integers(0, seq + 1, 2)), seq]) if packed else np.array([0, seq])
    x = rng.standard_normal((1 if packed else int(rng.integers(1, 4)), seq, 8)).astype(dtype)
    y, _ = layer(x, ps, pa.with_segments(st, segments) if packed else st)
    expected = dense(layer, x.astype(np.float64), tree.map(lambda p: p.astype(np.float64), ps), segments)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12 if dtype is np.float64 else 2e-5)


@pytest.mark.parametrize("seed", range(100, 112))
def test_gradients_of_options(seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng)
    ps, st = example(rng, layer, np.float64)
    if seed % 3 == 0:
        st = pa.with_segments(st, [0, 4, 4, 11])
    errors = pa.check_gradients(layer, rng.standard_normal((1, 11, 8)), ps, st, tol=2e-6)
    assert {f"ps/{path}" for path in tree.flatten(ps)} | {"x"} == errors.keys()


def test_options_left_out_add_no_parameters_and_print_nothing():
    layer = pa.PrimeSelfAttention(8, heads=2)
    assert repr(layer) == "PrimeSelfAttention(8, heads=2)" and list(layer.parameters()) == ["Wi", "Wo"]
    turned = pa.PrimeSelfAttention(8, heads=2, rotary=10000.0, sinks=True, qk_norm=True)
    assert repr(turned) == "PrimeSelfAttention(8, heads=2, rotary=10000.0, qk_norm=True, sinks=True)"
    assert tree.flatten(pa.setup(np.random.default_rng(0), turned)[0]).keys() == {
        "Wi/weight", "Wo/weight", "q_norm/scale", "k_norm/scale", "sinks",
    }  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"rotary": 100.0, "qk_norm": True, "sinks": True, "scale": 0.4},
        {"offset_bias": 7, "alibi": True, "softcap": 1.0},
        {"offset_bias": 90, "global_tokens": 0},
    ],
)
@pytest.mark.parametrize("segments", [None, np.array([0, 11, 30])])
def test_the_probabilities_of_a_layer_with_options(options, segments, rng):
    layer = pa.PrimeSelfAttention(8, heads=2, **options)
    ps, st = example(rng, layer, np.float64)
    x, st = rng.standard_normal((30, 8)), pa.with_segments(st, segments)
    v = (x @ ps["Wi"]["weight"])[:, 16:].reshape(30, 2, 4)
    parts = [pa.analysis.attention_map(layer, x, ps, st, head) @ v[:, head] for head in range(2)]
    np.testing.assert_allclose(
        np.concatenate(parts, axis=1) @ ps["Wo"]["weight"], layer(x, ps, st)[0], atol=1e-12
    )


@dataclass(frozen=True, repr=False)
class Gated(pa.PrimeSelfAttention):
    """Each head's output is weighed by a learned number, and queries are scaled by another."""

    def parameters(self):
        return {**super().parameters(), "gate": pa.Parameter((self.heads,), pa.nn.ones)}

    def prepare(self, q, k, v, ps, positions, memory):
        saved = super().prepare(q, k, v, ps, positions, memory)
        q *= 2
        return saved

    def prepare_backward(self, dq, dk, dv, saved, ps, memory):
        dq *= 2
        return super().prepare_backward(dq, dk, dv, saved, ps, memory)

    def finish(self, out, lse, ps, memory):
        result, saved = super().finish(out, lse, ps, memory)
        return result * ps["gate"][:, None], (result, saved)

    def finish_backward(self, dresult, saved, ps, memory):
        result, saved = saved
        dgate = (dresult * result).sum(axis=(0, 1, 3))
        dout, dlse, dps = super().finish_backward(dresult * ps["gate"][:, None], saved, ps, memory)
        return dout, dlse, {**dps, "gate": dgate}


@pytest.mark.parametrize("options", [{}, {"rotary": 30.0, "sinks": True}])
def test_a_variant_is_a_few_lines(options, rng):
    layer = Gated(8, heads=2, **options)
    ps, st = example(rng, layer, np.float64)
    x = rng.standard_normal((2, 15, 8))
    pa.check_gradients(layer, x, ps, st, tol=2e-6)
    plain = pa.PrimeSelfAttention(8, heads=2, scale=1.0, **options)
    y, _ = plain(x, {name: leaf for name, leaf in ps.items() if name != "gate"}, st)
    same, _ = layer(x, {**ps, "gate": np.ones(2)}, st)
    np.testing.assert_allclose(same, y, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"head_dim": 0}, ValueError, "head_dim must be at least 1, got 0"),
        ({"head_dim": 2.0}, TypeError, r"head_dim must be an integer, got 2\.0"),
        ({"v_dim": 0}, ValueError, "v_dim must be at least 1, got 0"),
        ({"heads": 3}, ValueError, "heads must divide dims, got heads=3, dims=8; or give head_dim"),
        ({"scale": -1}, ValueError, r"scale must be in \[0, inf\), got -1"),
        ({"scale": "1"}, TypeError, "scale must be a number, got '1'"),
        ({"rotary": 0}, ValueError, "rotary must be above 0, got 0"),
        ({"rotary": True}, TypeError, "rotary must be a number, got True"),
        ({"rotary_dims": 4}, ValueError, "rotary_dims needs rotary, got rotary_dims=4"),
        ({"rotary": 10.0, "rotary_dims": 3}, ValueError, "rotary_dims must be even and at most head_dim"),
        ({"rotary": 10.0, "rotary_dims": 10}, ValueError, "got rotary_dims=10, head_dim=8"),
        ({"rotary": 10.0, "head_dim": 3}, ValueError, "got rotary_dims=3, head_dim=3"),
        ({"qk_norm": 1}, TypeError, "qk_norm must be True or False, got 1"),
        ({"alibi": 2}, TypeError, "alibi must be True or False, got 2"),
        ({"softcap": 0.0}, ValueError, "softcap must be above 0, got 0"),
        ({"softcap": -1.0}, ValueError, r"softcap must be in \[0, inf\), got -1.0"),
        ({"offset_bias": -1}, ValueError, "offset_bias must be at least 0, got -1"),
        ({"offset_bias": 2.5}, TypeError, "offset_bias must be an integer, got 2.5"),
        ({"sinks": None}, TypeError, "sinks must be True or False, got None"),
    ],
)
def test_bad_options(options, error, match):
    with pytest.raises(error, match=match):
        pa.PrimeSelfAttention(8, **options)
