from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from primeattn.analysis import attention, attention_map, entropy
from primeattn.nn import Dense, PrimeSelfAttention, SparseIndexAttention, setup
from primeattn.patterns import Pattern
from primeattn.tree import map, with_segments

PER_HEAD = (
    Pattern("primes", window=3, global_tokens=2),
    Pattern(None, window=5),
    Pattern([7]),
    Pattern(None),
)
LAYERS = [
    PrimeSelfAttention(8),
    SparseIndexAttention(12, Pattern("squares", window=2, global_tokens=1), heads=6, kv_heads=2, bias=True),
    SparseIndexAttention(8, PER_HEAD, heads=4, kv_heads=1),
    SparseIndexAttention(3, Pattern("primes", global_tokens=100), bias=True),
]


def example(layer, rng, dtype=np.float64, shape=(2, 41)):
    ps, st = setup(rng, layer, dtype)
    ps = map(lambda leaf: (leaf + 0.3 * rng.standard_normal(leaf.shape)).astype(dtype), ps)
    return rng.standard_normal((*shape, layer.dims)).astype(dtype), ps, st


def dense(layer, x, ps, head, boundaries):
    """The probabilities as an array, and the mask, from the definition in float64; x is (seq, dims)."""
    d, n = layer.dims // layer.heads, len(x)
    wi = {name: leaf.astype(np.float64) for name, leaf in ps["Wi"].items()}
    qkv = (x.astype(np.float64) @ wi["weight"] + wi.get("bias", 0)).reshape(n, -1, d)
    group = head * layer.kv_heads // layer.heads
    pattern = layer.pattern if isinstance(layer.pattern, Pattern) else layer.pattern[head]
    mask = np.zeros((n, n), bool)
    for start, stop in pairwise(boundaries):
        mask[start:stop, start:stop] = pattern.to_dense(stop - start)
    scores = np.where(mask, qkv[:, head] @ qkv[:, layer.heads + group].T / np.sqrt(d), -np.inf)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True), mask


def check(layer, x, ps, st, tol, boundaries, batch=0):
    sample = x if x.ndim == 2 else x[batch]
    for head in range(layer.heads):
        p = attention_map(layer, x, ps, st, head, batch=batch)
        expected, mask = dense(layer, sample, ps, head, boundaries)
        assert isinstance(p, csr_matrix) and p.dtype == x.dtype and p.has_sorted_indices
        np.testing.assert_array_equal(csr_matrix((np.ones(p.nnz, bool), p.indices, p.indptr)).toarray(), mask)
        np.testing.assert_allclose(p.toarray(), expected, rtol=0, atol=tol)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(np.float64, 1e-13), pytest.param(np.float32, 3e-6, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_against_the_definition(layer, dtype, tol, rng):
    x, ps, st = example(layer, rng, dtype)
    for batch in range(2):
        check(layer, x, ps, st, tol, [0, 41], batch)
    check(layer, x[1], ps, st, tol, [0, 41])
    check(layer, x[:, :1], ps, st, tol, [0, 1])


@pytest.mark.parametrize("numbers", [1, 50, 1000])
def test_parts_meet_without_a_seam(numbers, rng, monkeypatch):
    monkeypatch.setattr(attention, "_NUMBERS", numbers)
    x, ps, st = example(LAYERS[1], rng)
    check(LAYERS[1], x, ps, st, 1e-13, [0, 41])


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_packed_sequences(layer, rng):
    boundaries = [0, 1, 1, 30, 41, 41]
    x, ps, st = example(layer, rng, shape=(1, 41))
    packed = with_segments(st, boundaries)
    check(layer, x, ps, packed, 1e-13, boundaries)
    check(layer, x[0], ps, packed, 1e-13, boundaries)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_it_is_what_the_layer_computes(layer, rng):
    x, ps, st = example(layer, rng)
    d, g = layer.head_dim, layer.kv_heads
    for batch in range(2):
        qkv = x[batch] @ ps["Wi"]["weight"] + ps["Wi"].get("bias", 0)
        v = qkv[:, (layer.heads + g) * d :].reshape(-1, g, d)
        heads = [
            attention_map(layer, x, ps, st, head, batch=batch) @ v[:, head * g // layer.heads]
            for head in range(layer.heads)
        ]
        y = np.concatenate(heads, axis=1) @ ps["Wo"]["weight"] + ps["Wo"].get("bias", 0)
        np.testing.assert_allclose(layer(x, ps, st)[0][batch], y, rtol=0, atol=1e-12)


def turned(x):
    """Rows of (batch, heads, seq, head_dim) turned by their positions, as rotary positions are."""
    angle = np.arange(x.shape[2])[:, None] / 3 ** np.arange(x.shape[3] // 2)
    a, b = x[..., ::2], x[..., 1::2]
    pairs = np.stack([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)
    return pairs.reshape(x.shape).astype(x.dtype)


@dataclass(frozen=True, repr=False)
class Turned(PrimeSelfAttention):
    """Queries and keys are turned on their way to the kernel."""

    def prepare(self, q, k, v, ps, positions, memory):
        q[...], k[...] = turned(q), turned(k)


@dataclass(frozen=True, repr=False)
class Sharper(PrimeSelfAttention):
    """Another scale, which no hook tells."""

    def _kernel(self, function, *arrays, memory, **options):
        function(*arrays, self.pattern, scale=3.0)


@dataclass(frozen=True, repr=False)
class Silent(PrimeSelfAttention):
    """A forward of its own."""

    def forward(self, x, ps, st, memory):
        return x @ ps["Wo"]["weight"], st, None


def test_a_layer_derived_from_these_is_seen_as_it_computes(rng):
    layer = Turned(8, heads=2)
    x, ps, st = example(layer, rng, shape=(41,))
    qkv = (x @ ps["Wi"]["weight"]).reshape(41, 6, 4).transpose(1, 0, 2)[None]
    q, k = turned(qkv[:, :2]), turned(qkv[:, 2:4])
    for head in range(2):
        scores = np.where(layer.pattern.to_dense(41), q[0, head] @ k[0, head].T / 2, -np.inf)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        got = attention_map(layer, x, ps, st, head).toarray()
        np.testing.assert_allclose(got, p / p.sum(axis=1, keepdims=True), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (Silent(8), "layer: expected one call of the kernel by SparseIndexAttention, got 0 in Silent"),
        (Sharper(8), r"layer: its scores are not those of its options, in Sharper"),
    ],
)
def test_a_layer_that_computes_otherwise_is_refused(layer, match, rng):
    with pytest.raises(ValueError, match=match):
        attention_map(layer, *example(layer, rng, shape=(41,)), 0)


@pytest.mark.slow  # compiles
def test_scores_that_overflow_or_underflow_the_exponential(rng):
    layer = PrimeSelfAttention(4)
    x, ps, st = example(layer, rng, np.float32, shape=(60,))
    p = attention_map(layer, 100 * x, ps, st, 0)
    assert p.nnz == layer.pattern.num_pairs(60) and (p.data == 0).any()
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)


def test_bad_input(rng):
    layer = PrimeSelfAttention(8, heads=2)
    x, ps, st = example(layer, rng)
    packed = with_segments(st, [0, 41])
    for error, match, arguments in (
        (TypeError, "layer: expected a SparseIndexAttention, got Dense", (Dense(8, 8), x, ps, st, 0)),
        (ValueError, "head: expected less than 2, got 2", (layer, x, ps, st, 2)),
        (ValueError, "head: expected an integer >= 0, got -1", (layer, x, ps, st, -1)),
        (TypeError, "head: expected an integer, got 0.0", (layer, x, ps, st, 0.0)),
        (TypeError, "x is float32 but the parameters are float64", (layer, x.astype("f4"), ps, st, 0)),
        (ValueError, "x must have last axis 8", (layer, x[..., :7], ps, st, 0)),
        (ValueError, "expected at least one token, got shape", (layer, x[:, :0], ps, st, 0)),
        (ValueError, "ps: .*Wi", (layer, x, {}, st, 0)),
        (ValueError, "expected a state with keys", (layer, x, ps, {}, 0)),
        (ValueError, "x: expected a batch of 1 with packed sequences, got 2", (layer, x, ps, packed, 0)),
        (ValueError, "cu_seqlens: expected to run from 0 to 40", (layer, x[0, :40], ps, packed, 0)),
    ):
        with pytest.raises(error, match=match):
            attention_map(*arguments)
    for batch, of in ((2, x), (1, x[0])):
        with pytest.raises(ValueError, match=f"batch: expected less than {batch}, got {batch}"):
            attention_map(layer, of, ps, st, 0, batch=batch)


def test_entropy_of_known_distributions():
    rows = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.5, 0], [0.25, 0.25, 0.25, 0.25]]
    for dtype in (np.float32, np.float64):
        np.testing.assert_allclose(
            entropy(csr_matrix(np.array(rows, dtype))), np.log([1, 2, 2**1.5, 4]), rtol=1e-7
        )
    stored_zero = csr_matrix(([1.0, 0.0, 1.0], [0, 0, 1], [0, 1, 3]))
    np.testing.assert_array_equal(entropy(stored_zero), [0, 0])
    mask = Pattern("primes", window=3).to_csr(50).astype(float)
    uniform = mask.multiply(1 / mask.sum(axis=1)).tocoo()
    np.testing.assert_allclose(entropy(uniform), np.log(np.diff(mask.indptr)), rtol=1e-13)


@pytest.mark.parametrize(
    ("p", "error", "match"),
    [
        (np.eye(3), TypeError, "probabilities: expected a sparse matrix, got ndarray"),
        (csr_matrix((2, 3)), ValueError, r"expected shape \(n, n\) with n >= 1, got \(2, 3\)"),
        (csr_matrix([[-1.0]]), ValueError, "expected numbers from 0 to 1, got -1.0 to -1.0"),
        (csr_matrix([[np.nan]]), ValueError, "expected numbers from 0 to 1, got nan"),
    ],
)
def test_entropy_of_what_is_no_map(p, error, match):
    with pytest.raises(error, match=match):
        entropy(p)
