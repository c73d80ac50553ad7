"""Bad input: a TypeError or ValueError that names the argument, and nothing written."""

import numpy as np
import pytest

import primeattn as pa

PATTERN = pa.Pattern("primes", window=1, global_tokens=1)
SHAPE = (2, 4, 10, 8)


def arrays(**changes):
    """Arguments of a valid forward call, some of them replaced."""
    q = np.ones(SHAPE, np.float32)
    k, v = np.ones((2, 2, 10, 8), np.float32), np.ones((2, 2, 10, 8), np.float32)
    given = {"out": np.zeros_like(q), "lse": np.zeros(SHAPE[:3], np.float32), "q": q, "k": k, "v": v}
    return given | {"pattern": PATTERN} | changes


def backward_arrays(**changes):
    given = arrays()
    gradients = {f"d{name}": np.zeros_like(given[name]) for name in "qkv"}
    return gradients | {"dout": np.ones(SHAPE, np.float32)} | given | changes


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    """A copy one byte off the addresses of its dtype."""
    copy = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


ONES, HALF = np.ones(SHAPE, np.float32), np.ones((2, 2, 10, 8), np.float32)
PACKED = {name: np.ones((1, 2, 10, 8), np.float32) for name in ("out", "q", "k", "v")} | {
    "lse": np.ones((1, 2, 10), np.float32)
}
BIAS = np.zeros((4, 6), np.float32)  # the offsets of PATTERN below 10: 0, 1, 2, 3, 5, 7
BAD = [
    (
        ValueError,
        r"offset_bias: expected shape \(4, 6\) or longer, as pattern.offsets\(10\) has 6, got \(4, 5\)",
        {"offset_bias": BIAS[:, :5].copy()},
    ),
    (
        ValueError,
        r"expected shape \(4, 12\) or longer, .* got \(4, 6\)",
        {"offset_bias": BIAS, "q_start": 20},
    ),
    (ValueError, r"offset_bias: expected shape .* got \(6,\)", {"offset_bias": BIAS[0]}),
    (ValueError, r"offset_bias: expected shape .* got \(2, 6\)", {"offset_bias": BIAS[:2]}),
    (TypeError, "offset_bias: expected float32, got float64", {"offset_bias": BIAS.astype(float)}),
    (TypeError, "offset_bias: expected a NumPy array, got list", {"offset_bias": BIAS.tolist()}),
    (ValueError, r"global_bias: expected shape \(4, 1\), got \(4, 6\)", {"global_bias": BIAS}),
    (TypeError, "global_bias: expected float32, got int64", {"global_bias": np.ones((4, 1), int)}),
    (ValueError, r"slopes: expected shape \(4,\), got \(2,\)", {"slopes": BIAS[0, :2]}),
    (TypeError, "slopes: expected a NumPy array, got float", {"slopes": 0.5}),
    (TypeError, "dropout: expected a number, got NoneType", {"dropout": None}),
    (TypeError, "dropout: expected a number, got bool", {"dropout": False}),
    *(
        (ValueError, r"dropout: expected a probability in \[0, 1\), got", {"dropout": p})
        for p in (-0.1, 1, 1.5, np.nan)
    ),
    (TypeError, "dropout_seed: expected an integer, got 0.5", {"dropout_seed": 0.5}),
    (ValueError, "dropout_seed: expected an integer >= 0, got -1", {"dropout_seed": -1}),
    (ValueError, "dropout_seed: expected an integer <= ", {"dropout_seed": 2**64}),
    (TypeError, "softcap: expected a number or None, got str", {"softcap": "2"}),
    (TypeError, "softcap: expected a number or None, got bool", {"softcap": True}),
    *(
        (ValueError, "softcap: expected a number above 0, finite as its inverse is, got", {"softcap": cap})
        for cap in (0, -1.0, np.nan, np.inf, 1e-40, 1e40)
    ),
    (TypeError, "q: expected a NumPy array, got list", {"q": [[1.0]]}),
    (TypeError, "q: expected a NumPy array, got MaskedArray", {"q": np.ma.ones(SHAPE, np.float32)}),
    (ValueError, r"q: expected 4 axes .* got shape \(10, 8\)", {"q": ONES[0, 0]}),
    (TypeError, "q: expected float16, bfloat16, float32 or float64, got int64", {"q": np.ones(SHAPE, int)}),
    (TypeError, "q: expected float16, bfloat16, float32 or float64, got >f4", {"q": ONES.astype(">f4")}),
    (TypeError, "q: expected float16, .* got complex64", {"q": np.ones(SHAPE, np.complex64)}),
    (TypeError, "k: expected the dtype of q, float32, got float64", {"k": HALF.astype("f8")}),
    (TypeError, "k: expected the dtype of q, float16, got float32", {"q": ONES.astype("f2")}),
    (ValueError, "q: expected at least one head", {"q": ONES[:, :0]}),
    (ValueError, "head_dim >= 1", {"q": ONES[..., :0], "k": HALF[..., :0], "v": HALF[..., :0]}),
    (ValueError, "k: expected batch 2 as in q, got 1", {"k": HALF[:1]}),
    (ValueError, "k: expected head_dim 8 as in q, got 7", {"k": HALF[..., :7]}),
    (ValueError, "k: expected a number of heads that divides the 4 of q, got 3", {"k": ONES[:, :3]}),
    (ValueError, "k: expected a number of heads that divides the 4 of q, got 0", {"k": HALF[:, :0]}),
    (ValueError, r"v: expected the shape of k, .* got \(2, 2, 9, 8\)", {"v": HALF[:, :, :9]}),
    (ValueError, r"out: expected shape \(2, 4, 10, 8\), got \(2, 2, 10, 8\)", {"out": HALF.copy()}),
    (TypeError, "out: expected float32, got float64", {"out": ONES.astype("f8")}),
    (TypeError, "out: expected a NumPy array, got NoneType", {"out": None}),
    (ValueError, r"lse: expected shape \(2, 4, 10\), got", {"lse": np.ones((2, 4), "f4")}),
    (TypeError, "lse: expected float32, got float64", {"lse": np.ones((2, 4, 10))}),
    (ValueError, "out: expected aligned memory", {"out": unaligned(ONES)}),
    (ValueError, "lse: expected aligned memory", {"lse": unaligned(ONES[..., 0])}),
    (
        ValueError,
        "out: expected a contiguous last axis",
        {"out": np.ones((2, 4, 8, 10), "f4").swapaxes(2, 3)},
    ),
    (ValueError, "out: expected a writeable array", {"out": read_only(ONES)}),
    (ValueError, "lse: expected a writeable array", {"lse": read_only(ONES[..., 0])}),
    (
        ValueError,
        "out: expected distinct elements, got strides",
        {"out": np.lib.stride_tricks.as_strided(ONES.copy(), SHAPE, (1280, 320, 0, 4))},
    ),
    (
        ValueError,
        "out: expected distinct elements, got strides",
        {"out": np.lib.stride_tricks.as_strided(ONES.copy(), SHAPE, (1280, 320, 16, 4))},
    ),
    (TypeError, "pattern: expected a Pattern or one per head, got 'primes'", {"pattern": "primes"}),
    (TypeError, "pattern: expected a Pattern or one per head", {"pattern": [PATTERN, None]}),
    (ValueError, "pattern: expected one Pattern or 4, .* got 2", {"pattern": [PATTERN, PATTERN]}),
    (ValueError, "scale: expected a finite number, got nan", {"scale": float("nan")}),
    (ValueError, "scale: expected a finite number, got inf", {"scale": np.float32(np.inf)}),
    (TypeError, "scale: expected a number or None, got str", {"scale": "1"}),
    (TypeError, "scale: expected a number or None, got bool", {"scale": True}),
    (ValueError, r"q_start: expected a position below 2\*\*62 in size, got -4", {"q_start": -(2**62)}),
    (ValueError, r"k_start: expected a position below 2\*\*62 in size, got 46", {"k_start": 2**62}),
    (TypeError, "q_start: expected an integer, got 1.0", {"q_start": 1.0}),
    (TypeError, "q_start: expected integers, got float64", {"q_start": np.ones(2)}),
    (
        ValueError,
        r"k_start: expected positions below 2\*\*62 in size, got -9",
        {"k_start": np.array([0, -(2**63)])},
    ),
    (
        ValueError,
        r"q_start: expected an integer or shape \(2,\), got shape \(3,\)",
        {"q_start": np.arange(3)},
    ),
    (
        ValueError,
        "cu_seqlens: expected packed sequences in a batch of 1, got batch 2",
        {"cu_seqlens": [0, 10]},
    ),
    (ValueError, "cu_seqlens: expected to run from 0 to 10, got 0 to 9", PACKED | {"cu_seqlens": [0, 9]}),
    (ValueError, "cu_seqlens: expected to run from 0 to 10, got 1 to 10", PACKED | {"cu_seqlens": [1, 10]}),
    (
        ValueError,
        "cu_seqlens: expected increasing entries, got 7 before 3",
        PACKED | {"cu_seqlens": [0, 7, 3, 10]},
    ),
    (TypeError, "cu_seqlens: expected integers, got float64", PACKED | {"cu_seqlens": [0.0, 10.0]}),
    (ValueError, "cu_seqlens: expected 1 axis", PACKED | {"cu_seqlens": [[0, 10]]}),
    (
        ValueError,
        "q_start: expected 0 together with cu_seqlens, got 2",
        PACKED | {"cu_seqlens": [0, 10], "q_start": 2},
    ),
    (
        ValueError,
        "k_start: expected 0 together with cu_seqlens",
        PACKED | {"cu_seqlens": [0, 10], "k_start": np.array([1])},
    ),
    (
        ValueError,
        "cu_seqlens: expected as many keys as queries, got 10 queries and 9 keys",
        PACKED | {"cu_seqlens": [0, 10], "k": PACKED["k"][:, :, :9], "v": PACKED["v"][:, :, :9]},
    ),
    (TypeError, "workspace: expected a Workspace or None, got dict", {"workspace": {}}),
    (ValueError, "device: expected None or one of 'cpu', 'auto', 'cuda', got 'gpu'", {"device": "gpu"}),
    (RuntimeError, "device: no GPU can be used here: .*; install primeattn", {"device": "cuda"}),
    (
        ValueError,
        "kernel: expected None or one of 'tiles', .*'wheel', got 'fast'",
        {"kernel": "fast"},
    ),
    (ValueError, "stream: expected None on the CPU", {"stream": 0}),
]


@pytest.mark.parametrize(("error", "match", "changes"), BAD)
def test_forward_refuses(error, match, changes):
    given = arrays(**changes)
    before = {name: a.copy() for name, a in given.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error, match=match):
        pa.sparse_index_kernel(**given)
    for name, a in before.items():
        np.testing.assert_array_equal(given[name], a)


@pytest.mark.parametrize("output", ["out", "lse"])
@pytest.mark.parametrize("other", ["q", "k", "v"])
def test_outputs_may_not_share_elements_with_inputs(output, other):
    given = arrays()
    buffer = np.ones(given["q"].size + 5, np.float32)
    given[other] = buffer[: given[other].size].reshape(given[other].shape)
    given[output] = buffer[5 : 5 + given[output].size].reshape(given[output].shape)
    with pytest.raises(ValueError, match=f"{output}: .* got elements shared with {other}"):
        pa.sparse_index_kernel(**given)


def test_interleaved_slices_of_one_buffer_are_distinct():
    buffer = np.ones((2, 10, 4, 4, 8), np.float32)
    out, q, k, v = (buffer[:, :, i].transpose(0, 2, 1, 3) for i in range(4))
    pa.sparse_index_kernel(out, None, q, k, v, PATTERN)


@pytest.mark.parametrize(
    ("error", "match", "changes"),
    [
        (TypeError, "lse: expected a NumPy array, got NoneType", {"lse": None}),
        (ValueError, r"dq: expected shape", {"dq": np.ones((2, 4, 9, 8), "f4")}),
        (TypeError, "dk: expected float32, got float64", {"dk": np.ones((2, 2, 10, 8))}),
        (ValueError, "dv: expected a writeable array", {"dv": read_only(HALF)}),
        (ValueError, r"dout: expected shape", {"dout": HALF}),
        (TypeError, "dlse: expected float32, got float64", {"dlse": np.ones(SHAPE[:3])}),
        (ValueError, r"out: expected shape", {"out": HALF}),
        (ValueError, "scale: expected a finite number, got nan", {"scale": np.nan}),
        (ValueError, r"offset_bias: expected shape \(4, 6\) or longer", {"offset_bias": BIAS[:, :5].copy()}),
        (ValueError, "doffset_bias: expected None without offset_bias, got an arr", {"doffset_bias": BIAS}),
        (ValueError, "dglobal_bias: expected None without global_bias", {"dglobal_bias": BIAS}),
        (
            ValueError,
            r"doffset_bias: expected shape \(4, 7\), got \(4, 6\)",
            {"offset_bias": np.zeros((4, 7), np.float32), "doffset_bias": BIAS},
        ),
        (
            ValueError,
            "doffset_bias: expected memory of its own, got elements shared with offset_bias",
            {"offset_bias": BIAS, "doffset_bias": BIAS},
        ),
        (
            ValueError,
            "dglobal_bias: expected a writeable array",
            {"global_bias": BIAS[:, :1].copy(), "dglobal_bias": read_only(BIAS[:, :1])},
        ),
        (ValueError, "dq: expected aligned memory", {"dq": unaligned(ONES)}),
        (ValueError, "dv: expected a contiguous last axis", {"dv": np.ones((2, 2, 10, 16), "f4")[..., ::2]}),
        (
            ValueError,
            "doffset_bias: expected contiguous, aligned memory",
            {"offset_bias": BIAS, "doffset_bias": np.zeros((6, 4), "f4").T},
        ),
    ],
)
def test_backward_refuses(error, match, changes):
    given = backward_arrays(**changes)
    with pytest.raises(error, match=match):
        pa.sparse_index_kernel_backward(**given)


def test_backward_outputs_may_not_share_elements():
    given = backward_arrays()
    given["dv"] = given["dk"]
    with pytest.raises(ValueError, match="dv: expected memory of its own, got elements shared with dk"):
        pa.sparse_index_kernel_backward(**given)
    given = backward_arrays()
    given["dq"] = given["dout"]
    with pytest.raises(ValueError, match="dq: expected memory of its own, got elements shared with dout"):
        pa.sparse_index_kernel_backward(**given)


def test_read_only_and_broadcast_inputs_are_fine(rng):
    q, k = rng.standard_normal((2, 1, 1, 10, 8), dtype=np.float32)
    v = np.broadcast_to(np.float32([1, 2, 3, 4, 5, 6, 7, 8]), k.shape)
    out, _ = pa.attention(read_only(q), read_only(k), v, PATTERN)
    np.testing.assert_allclose(out, v, rtol=1e-6)


LAYOUTS = {
    "unaligned": unaligned,
    "last axis strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "last axis reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "transposed": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_inputs_of_any_layout(layout, kernel, dtype, rng):
    """Kernels get copies of what they cannot read in place; biases go to the kernel of plain loops alone."""
    shapes = {"q": SHAPE, "k": (2, 2, 10, 8), "v": (2, 2, 10, 8)}
    if kernel == "scalar":
        shapes |= {"offset_bias": (4, 6), "global_bias": (4, 1), "slopes": (4,)}
    given = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    options = {"pattern": PATTERN, "kernel": kernel}
    out, lse = pa.attention(**given, **options)
    odd = {name: layout(a) if a.ndim > 1 else np.repeat(a, 2)[::2] for name, a in given.items()}
    assert all(map(np.array_equal, pa.attention(**odd, **options), (out, lse)))

    dout, dlse = rng.standard_normal(SHAPE).astype(dtype), rng.standard_normal(SHAPE[:3], dtype=np.float32)
    given |= {"dout": dout, "out": out, "lse": lse, "dlse": dlse}
    odd |= {name: layout(given[name]) for name in ("dout", "out", "lse", "dlse")}
    results = []
    for arguments in (given, odd):
        gradients = {f"d{name}": np.full_like(given[name], np.nan) for name in "qkv"}
        results.append(pa.sparse_index_kernel_backward(**gradients, **arguments, **options))
    assert all(map(np.array_equal, *results))


def test_gradients_of_a_sum_need_no_memory_of_their_own(rng):
    """As torch gives them: one number, seen with strides of 0."""
    q, k, v = rng.standard_normal((3, 1, 2, 70, 8))
    out, lse = pa.attention(q, k, v, PATTERN)
    results = []
    for dout in (np.ones_like(out), np.broadcast_to(1.0, out.shape)):
        gradients = map(np.empty_like, (q, k, v))
        results.append(pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, out, lse, PATTERN))
    assert all(map(np.array_equal, *results))


def test_nothing_is_copied_before_all_is_checked(monkeypatch):
    from primeattn.kernels import arguments

    copied, given = [], arrays(q=unaligned(ONES), lse=read_only(ONES[..., 0]))

    class Watched(np.ndarray):
        def copy(self, *_):
            copied.append(self.shape)

    monkeypatch.setattr(arguments, "is_array", lambda value: isinstance(value, np.ndarray))
    given["q"] = given["q"].view(Watched)
    with pytest.raises(ValueError, match="lse: expected a writeable array"):
        pa.sparse_index_kernel(**given)
    assert copied == []
    given["lse"] = np.ones(SHAPE[:3], np.float32)
    with pytest.raises(AttributeError):
        pa.sparse_index_kernel(**given)
    assert copied == [SHAPE]


def test_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="temperature"):
        pa.attention(ONES, HALF, HALF, PATTERN, temperature=0.1)
