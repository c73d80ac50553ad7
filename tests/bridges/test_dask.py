import numpy as np
import pytest

import primeattn as pa

da = pytest.importorskip("dask.array")

import dask  # noqa: E402

import primeattn.dask as bridge  # noqa: E402

PRIMES = pa.Pattern("primes", window=3, global_tokens=2)
SQUARES = pa.Pattern("squares", window=3, global_tokens=2)
RELATIVE = 2e-6  # of sums in another order, against the largest number


def arrays(rng, heads=2, kv_heads=2, n=300, batch=1, head_dim=8, dtype=np.float32):
    """q, k, v and dout."""
    shapes = [(batch, count, n, head_dim) for count in (heads, kv_heads, kv_heads, heads)]
    return [rng.standard_normal(shape, dtype) for shape in shapes]


def cut(array, batch=1, heads=1, rows=None):
    return da.from_array(array, chunks=(batch, heads, rows or array.shape[2], *array.shape[3:]))


def whole(q, k, v, dout, pattern, dlse=None, **options):
    """out, lse and gradients of one call on whole arrays."""
    out, lse = pa.attention(q, k, v, pattern, **options)
    grads = [np.empty_like(array) for array in (q, k, v)]
    biases = {name: options[name] for name in ("offset_bias", "global_bias") if name in options}
    dbiases = {f"d{name}": np.empty_like(bias) for name, bias in biases.items()}
    inputs = dout, q, k, v, out, lse, pattern
    pa.sparse_index_kernel_backward(*grads, *inputs, dlse=dlse, **options, **dbiases)
    return out, lse, *grads, *dbiases.values()


def by_blocks(q, k, v, dout, pattern, dlse=None, merge=False, scheduler="sync", **options):
    """The same of Dask arrays."""
    out, lse = bridge.attention(q, k, v, pattern, merge=merge, **options)
    inputs = dout, q, k, v, out, lse, pattern
    grads = bridge.attention_backward(*inputs, dlse=dlse, merge=merge, **options)
    return dask.compute(out, lse, *grads, scheduler=scheduler)


def assert_close(results, expected):
    for result, exact in zip(results, expected, strict=True):
        assert result.shape == exact.shape and result.dtype == exact.dtype
        largest = np.abs(exact).max(where=np.isfinite(exact), initial=0)  # lse is -inf of rows without keys
        np.testing.assert_allclose(result, exact, rtol=0, atol=RELATIVE * largest)


@pytest.mark.parametrize(
    "pattern",
    [PRIMES, SQUARES, pa.Pattern(None, window=20, global_tokens=3), [PRIMES, SQUARES, SQUARES, PRIMES]],
    ids=["primes", "squares", "window", "per_head"],
)
@pytest.mark.parametrize("key_rows", [None, 70])
def test_queries_by_blocks_have_the_bits_of_one_call(rng, pattern, key_rows):
    q, k, v, dout = arrays(rng, heads=4, batch=2, n=700)
    rows = bridge.chunks_of_equal_pairs(pattern, 700, 4)
    blocks = cut(q, heads=2, rows=rows), cut(k, rows=key_rows), cut(v), cut(dout, heads=4)
    results, expected = by_blocks(*blocks, pattern), whole(q, k, v, dout, pattern)
    for result, exact in zip(results[:3], expected[:3], strict=True):  # out, lse, dq
        np.testing.assert_array_equal(result, exact)
    assert_close(results, expected)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranges_of_keys_and_of_queries_add_up(rng, merge, dtype):
    q, k, v, dout = arrays(rng, heads=4, kv_heads=2, dtype=dtype)
    dlse = rng.standard_normal(q.shape[:3]).astype(dtype)
    # Chunks of single query heads: those of one key head stay together.
    blocks = cut(q, rows=100), cut(k, rows=75), cut(v, rows=75), cut(dout)
    results = by_blocks(*blocks, PRIMES, dlse=cut(dlse), merge=merge)
    assert_close(results, whole(q, k, v, dout, PRIMES, dlse=dlse))


@pytest.mark.parametrize("merge", [False, True])
def test_terms_of_scores_and_the_gradients_of_biases(rng, merge):
    patterns = [PRIMES, pa.Pattern("squares", window=2)]  # one without global tokens
    q, k, v, dout = arrays(rng, batch=2)
    options = {
        "offset_bias": rng.standard_normal((2, PRIMES.offsets(300).size), np.float32),
        "global_bias": rng.standard_normal((2, 2), np.float32),
        "slopes": np.array([0.01, 0.02], np.float32),
        "softcap": 3.0,
        "scale": 0.5,
    }
    blocks = cut(q, rows=80), cut(k), cut(v), cut(dout)
    results = by_blocks(*blocks, patterns, merge=merge, **options)
    assert len(results) == 7
    assert_close(results, whole(q, k, v, dout, patterns, **options))


def test_dropout_drops_the_same_pairs(rng):
    q, k, v, dout = arrays(rng)
    options = {"dropout": 0.3, "dropout_seed": 5}
    blocks = cut(q, heads=2, rows=80), cut(k), cut(v), cut(dout)
    results = by_blocks(*blocks, PRIMES, **options)
    assert_close(results, whole(q, k, v, dout, PRIMES, **options))
    with pytest.raises(ValueError, match=r"dropout: expected q in one chunk along batch and heads"):
        bridge.attention(cut(q), cut(k), cut(v), PRIMES, **options)


@pytest.mark.parametrize("q_start, k_start", [(200, 0), (150, 40), (0, 60), (-20, -20)])
def test_positions_of_first_query_and_first_key(rng, q_start, k_start):
    q, k, v, dout = arrays(rng)
    q, dout = q[:, :, :100], dout[:, :, :100]
    starts = {"q_start": q_start, "k_start": k_start}
    blocks = cut(q, rows=30), cut(k), cut(v), cut(dout)
    assert_close(by_blocks(*blocks, SQUARES, **starts), whole(q, k, v, dout, SQUARES, **starts))


def test_keys_that_no_offset_reaches_are_not_read(rng):
    read = []

    class Rows:
        """An array that remembers which rows were read."""

        shape, dtype, ndim = (1, 1, 800, 8), np.dtype(np.float32), 4

        def __getitem__(self, index):
            read.append(index[2].start)
            return np.zeros((1, 1, 100, 8), np.float32)

    k = da.from_array(Rows(), chunks=(1, 1, 100, 8), asarray=False, name="k")
    q, v = da.zeros((1, 1, 800, 8), chunks=(1, 1, 100, 8), dtype=np.float32), da.zeros_like(k)
    for pattern, expected in (
        (pa.Pattern(None, window=30), [600, 700]),
        (pa.Pattern(None, window=30, global_tokens=1), [0, 600, 700]),
        (pa.Pattern([350, 420]), [200, 300, 400, 700]),
    ):
        read.clear()
        out, _ = bridge.attention(q, k, v, pattern)
        out.blocks[0, 0, 7].compute(scheduler="sync")
        assert sorted(read) == expected


def test_arrays_at_any_address_and_with_any_strides(rng):
    q, k, v, dout = arrays(rng)

    def shifted(block):
        memory = np.empty(block.nbytes + 1, np.uint8)
        memory[1:] = np.frombuffer(block.tobytes(), np.uint8)
        return memory[1:].view(block.dtype).reshape(block.shape)

    assert not shifted(q).flags.aligned
    blocks = [cut(array, rows=100).map_blocks(shifted, meta=q[:0, :0, :0, :0]) for array in (q, k, v)]
    blocks[1] = blocks[1].map_blocks(np.asfortranarray)
    assert_close(by_blocks(*blocks, cut(dout), PRIMES), whole(q, k, v, dout, PRIMES))


def test_equal_calls_have_equal_names_and_others_have_not(rng):
    q, k, v, _ = map(cut, arrays(rng))
    name = bridge.attention(q, k, v, PRIMES)[0].name
    assert name == bridge.attention(q, k, v, pa.Pattern("primes", window=3, global_tokens=2))[0].name
    others = [bridge.attention(q, k, v, SQUARES), bridge.attention(q, k, v, PRIMES, scale=1.0)]
    others.append(bridge.attention(q, v, k, PRIMES))
    others += [bridge.attention(q, k, v, PRIMES, slopes=np.full(2, x, np.float32)) for x in (0, 1)]
    assert len({name, *(out.name for out, _ in others)}) == 6


def test_chunks_of_equal_pairs():
    pattern = pa.Pattern("primes", window=3)
    sizes = bridge.chunks_of_equal_pairs([pattern, pattern], 5000, 6)
    ends = np.cumsum([0, *sizes])
    pairs = np.diff([pattern.num_pairs(end) for end in ends.tolist()])
    assert len(sizes) == 6 and ends[-1] == 5000
    assert pairs.max() - pairs.min() < 2 * len(pattern.offsets(5000))
    assert bridge.chunks_of_equal_pairs(pattern, 3, 10) == (1, 1, 1)
    with pytest.raises(TypeError, match="pattern: expected a Pattern"):
        bridge.chunks_of_equal_pairs("primes", 5000, 6)


@pytest.mark.parametrize(
    "changes, error, message",
    [
        (
            {"cu_seqlens": [0, 300]},
            TypeError,
            "cu_seqlens: Dask arrays have no such option; they have q_start",
        ),
        ({"workspace": None}, TypeError, "workspace: Dask arrays have no such option"),
        ({"merge": 1}, TypeError, "merge: expected True or False, got 1"),
        ({"softcap": -1.0}, ValueError, "softcap: expected a number above 0"),
        ({"dropout": None}, TypeError, "dropout: expected a number, got NoneType"),
        ({"q_start": np.array([0])}, TypeError, "q_start: expected an integer"),
        ({"kernel": "wheel"}, ValueError, "kernel: expected None or 'tiles' or 'scalar' on the CPU"),
        ({"pattern": "primes"}, TypeError, "pattern: expected a Pattern or one per head"),
        ({"offset_bias": np.zeros((2, 9), np.float32)}, ValueError, r"offset_bias: expected shape \(2, 64\)"),
        ({"slopes": da.zeros(2)}, TypeError, "slopes: expected a NumPy array, got Array"),
        ({"q": np.zeros((1, 2, 300, 8))}, TypeError, "q: expected a Dask array, got ndarray"),
        ({"k": da.zeros((1, 2, 300, 8))}, TypeError, "k: expected the dtype of q, float32, got float64"),
        ({"k": da.zeros((2, 2, 300, 8), dtype=np.float32)}, ValueError, "k: expected batch 1 as in q, got 2"),
        ({"v": da.zeros((2, 300, 8), dtype=np.float32)}, ValueError, "v: expected 4 axes"),
        (
            {"v": da.zeros((1, 2, 300, 8), dtype=np.float16)},
            TypeError,
            "v: expected float32 or float64, got float16",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(changes, error, message):
    zeros = da.zeros((1, 2, 300, 8), dtype=np.float32)
    with pytest.raises(error, match=message):
        bridge.attention(**{"q": zeros, "k": zeros, "v": zeros, "pattern": PRIMES, **changes})


def test_wrong_arguments_of_the_backward():
    q = da.zeros((1, 2, 300, 8), dtype=np.float32)
    arguments = {"dout": q, "q": q, "k": q, "v": q, "out": q, "lse": q[..., 0], "pattern": PRIMES}
    for name, wrong, message in (
        ("lse", q, r"lse: expected shape \(1, 2, 300\), got \(1, 2, 300, 8\)"),
        ("dlse", q[..., 0].astype(float), "dlse: expected float32, got float64"),
        ("out", None, "out: expected a Dask array, got NoneType"),
        ("dout", q[:, :, q[0, 0, :, 0] > 0], "dout: expected chunks of known"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            bridge.attention_backward(**{**arguments, name: wrong})


def test_empty_arrays():
    for shape in ((0, 1, 4, 8), (1, 1, 0, 8)):
        zeros = da.zeros(shape, dtype=np.float32)
        results = by_blocks(zeros, zeros, zeros, zeros, PRIMES)
        assert [array.shape for array in results] == [shape, shape[:3], shape, shape, shape]
