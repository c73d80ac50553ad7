"""Random calls of the kernels, and how they are held against the dense float64 reference."""

import numpy as np

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.call import BFLOAT16
from primeattn.kernels.halves import rounded, widened

HEAD_DIMS = (1, 3, 8, 20, 32, 64, 80, 128)
CONFIGURATIONS = 240
FORWARD = {np.float32: 5e-6, np.float64: 1e-12}
BACKWARD = {np.float32: 1e-4, np.float64: 1e-10}
ROUNDING = {np.dtype(np.float16): (2**-11, 2**-25), BFLOAT16: (2**-8, 0)}  # relative, and of tiny numbers


def random_pattern(rng, n):
    sequence = rng.choice(["primes", "squares", "mian_chowla", "array", "none", "all"])
    if sequence == "array":
        sequence = rng.choice(np.arange(1, 700), size=int(rng.integers(1, 60)), replace=False)
    elif sequence == "all":
        sequence = np.arange(1, 601)
    elif sequence == "none":
        sequence = None
    else:
        sequence = str(sequence)
    global_tokens = int(rng.choice([0, int(rng.integers(0, 11)), n + 5], p=[0.4, 0.5, 0.1]))
    return pa.Pattern(sequence, window=int(rng.integers(0, 21)), global_tokens=global_tokens)


def strided(rng, shape, dtype):
    """Normal numbers in one of several layouts with a contiguous last axis."""
    batch, heads, n, d = shape
    layout = rng.integers(4)
    if layout == 0:
        return normal(rng, shape, dtype)
    if layout == 1:  # (batch, seq, heads, head_dim) buffer
        return normal(rng, (batch, n, heads, d), dtype).transpose(0, 2, 1, 3)
    if layout == 2:  # columns of a wider buffer, off the alignment of a vector
        return normal(rng, (batch, n, heads, d + 3), dtype).transpose(0, 2, 1, 3)[..., 1 : d + 1]
    return normal(rng, (batch, heads, 2 * n + 1, d), dtype)[:, :, 1::2][:, :, ::-1]


def normal(rng, shape, dtype):
    return rounded(rng.standard_normal(shape), dtype)


def random_terms(rng, dtype, heads, pattern, n):
    """Some of the options that add to scores, for distances below n, and dropout."""
    patterns = pattern if isinstance(pattern, list) else [pattern]
    offsets = max(p.offsets(n).size for p in patterns) + int(rng.choice([0, 7]))
    global_tokens = max(p.global_tokens for p in patterns)
    options = {
        "offset_bias": normal(rng, (heads, offsets), dtype),
        "global_bias": normal(rng, (heads, global_tokens), dtype),
        "slopes": rounded(rng.uniform(0, 20 / n, heads), dtype),  # so that float32 holds the scores well
        "softcap": float(rng.choice([0.5, 2, 30])),
    }
    options = {name: value for name, value in options.items() if rng.random() < 0.6}
    if rng.random() < 0.4:
        options["dropout"] = float(rng.choice([0.1, 0.5, 0.9]))
        options["dropout_seed"] = int(rng.integers(2**64, dtype=np.uint64))
    return options


def random_case(seed, terms=False, dtype=None):
    """Arrays, pattern and options of one random configuration; with ``terms``, scores are more than q·k."""
    rng = np.random.default_rng(seed)
    dtype = dtype or (np.float32, np.float64)[seed % 2]
    d = int(rng.choice(HEAD_DIMS))
    kv_heads, group = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    heads = kv_heads * group
    n_q = int(rng.choice([1, int(rng.integers(1, 601)), int(rng.choice([2, 63, 64, 65, 127, 131, 600]))]))
    n_k, batch, options = n_q, int(rng.integers(1, 3)), {}
    kind = rng.choice(["plain", "starts", "array starts", "packed"])
    if kind == "packed":
        batch = 1
        inner = np.sort(rng.integers(0, n_q + 1, size=int(rng.integers(0, 6))))
        options["cu_seqlens"] = np.concatenate([[0], inner, [n_q]]).astype(rng.choice(["i4", "i8", "u2"]))
    elif kind != "plain":
        n_k = int(rng.integers(1, 601))
        shape = batch if kind == "array starts" else ()
        starts = [rng.integers(-150, 300, size=shape) for _ in range(2)]
        options["q_start"], options["k_start"] = (
            int(s) if s.shape == () else s for s in map(np.asarray, starts)
        )
    longest = max(n_q, n_k) + 300
    pattern = random_pattern(rng, longest)
    if rng.random() < 0.3:
        pattern = [random_pattern(rng, longest) for _ in range(heads)]
    if rng.random() < 0.3:
        options["scale"] = float(rng.uniform(-0.5, 0.5))
    if terms:
        options |= random_terms(rng, dtype, heads, pattern, longest)
    q = strided(rng, (batch, heads, n_q, d), dtype)
    k, v = (strided(rng, (batch, kv_heads, n_k, d), dtype) for _ in range(2))
    for array, start in ((q, "q_start"), (k, "k_start"), (v, "k_start")):
        spoil_padding(array, options.get(start, 0))
    return rng, dtype, (q, k, v), pattern, options


def spoil_padding(array, start):
    """Put NaN in the rows of positions below 0."""
    for entry, first in zip(array, np.broadcast_to(start, len(array)), strict=True):
        entry[:, : max(-first, 0)] = rounded(np.array(np.nan), array.dtype)


def largest_error(a, b):
    assert np.isfinite(a).all()
    return np.abs(a - b).max(initial=0)


def check_against_the_reference(seed, kernel=None, terms=False):
    """Forward and backward of one random configuration."""
    rng, dtype, (q, k, v), pattern, options = random_case(seed, terms)
    expected, expected_lse = reference.forward(q, k, v, pattern, **options)
    out, lse = strided(rng, q.shape, dtype), np.empty((3, *q.shape[:3]), dtype)[1]
    got = pa.sparse_index_kernel(out, lse, q, k, v, pattern, kernel=kernel, **options)
    assert got[0] is out and got[1] is lse
    larger = 1 / (1 - options.get("dropout", 0))  # the weights that dropout leaves
    assert largest_error(out, expected) < FORWARD[dtype] * larger, seed
    empty = expected_lse == -np.inf
    assert np.array_equal(lse == -np.inf, empty), seed
    assert largest_error(lse[~empty], expected_lse[~empty]) < 2 * FORWARD[dtype], seed

    dout = strided(rng, q.shape, dtype)
    dlse = rng.standard_normal(lse.shape).astype(dtype) if seed % 3 else None
    for array in (dout, dlse)[: 1 if dlse is None else 2]:
        spoil_padding(array, options.get("q_start", 0))
    expected = reference.backward(dout, q, k, v, out, lse, pattern, dlse=dlse, **options)
    buffers = [strided(rng, a.shape, dtype) for a in (q, k, v)]
    biases = [name for name in ("offset_bias", "global_bias") if name in options]
    gradients = {f"d{name}": np.full_like(options[name], 7) for name in biases}
    got = pa.sparse_index_kernel_backward(
        *buffers, dout, q, k, v, out, lse, pattern, dlse=dlse, kernel=kernel, **options, **gradients
    )
    names, got = ("dq", "dk", "dv", *gradients), (*got, *gradients.values())
    for name, a, b in zip(names, got, expected, strict=True):
        scale = np.abs(b).max(initial=0.05)  # where one key is seen, dq and dk are exactly zero
        assert largest_error(a, b) <= BACKWARD[dtype] * scale, (seed, name)


def check_halves_against_the_reference(seed, dtype, kernel=None, terms=False):
    """As above, of float16 or bfloat16: results are as exact as those of float32, and rounded once."""
    rng, _, rows, pattern, options = random_case(seed, terms, dtype)
    wide = {name: widened(a) if hasattr(a, "dtype") else a for name, a in options.items()}
    expected, expected_lse = reference.forward(*map(widened, rows), pattern, **wide)
    q, (out, lse) = rows[0], (strided(rng, rows[0].shape, dtype), np.empty(rows[0].shape[:3], np.float32))
    pa.sparse_index_kernel(out, lse, *rows, pattern, kernel=kernel, **options)
    larger = 1 / (1 - options.get("dropout", 0))  # the weights that dropout leaves
    check_rounded(out, expected, FORWARD[np.float32] * larger, seed)
    empty = expected_lse == -np.inf
    assert np.array_equal(lse == -np.inf, empty), seed
    assert largest_error(lse[~empty], expected_lse[~empty]) < 2 * FORWARD[np.float32], seed

    dout, dlse = strided(rng, q.shape, dtype), rng.standard_normal(lse.shape, dtype=np.float32)
    for array in (dout, dlse):
        spoil_padding(array, options.get("q_start", 0))
    given = [*map(widened, (dout, *rows, out)), lse]
    expected = reference.backward(*given, pattern, dlse=dlse, **wide)
    buffers = [strided(rng, a.shape, dtype) for a in rows]
    biases = [name for name in ("offset_bias", "global_bias") if name in options]
    gradients = {f"d{name}": np.empty_like(options[name]) for name in biases}
    options |= {"dlse": dlse, "kernel": kernel, **gradients}
    pa.sparse_index_kernel_backward(*buffers, dout, *rows, out, lse, pattern, **options)
    for name, a, b in zip(
        ("dq", "dk", "dv", *gradients), (*buffers, *gradients.values()), expected, strict=True
    ):
        check_rounded(a, b, BACKWARD[np.float32] * np.abs(b).max(initial=0.05), (seed, name))


def check_rounded(array, expected, error, about):
    """Raise unless an array of 16-bit numbers is within ``error`` and one rounding of what is expected."""
    relative, least = ROUNDING[array.dtype]
    array = widened(array)
    assert np.isfinite(array).all(), about
    assert (np.abs(array - expected) <= error + relative * (np.abs(expected) + error) + least).all(), about
