"""Random small calls with a NaN or an infinity in one row of the input."""

import numpy as np

import primeattn as pa
from primeattn.kernels import reference

GRADIENTS = ("dq", "dk", "dv")


def random_case(rng, terms):
    """Arrays, pattern and options of a small call, often with rows without keys and keys without queries."""
    group, kv_heads, d = int(rng.choice([1, 3])), int(rng.choice([1, 2, 8])), int(rng.choice([3, 8, 40]))
    n_q = int(rng.choice([1, 2, 8, 30, 70]))
    n_k, batch, options = n_q, 1, {}
    kind = rng.choice(["plain", "starts", "packed", "decode"])
    if kind == "starts":
        n_k = int(rng.integers(1, 90))
        options = {"q_start": int(rng.integers(-20, 60)), "k_start": int(rng.integers(-20, 30))}
    elif kind == "decode":  # few queries, many keys: the forward copies the rows that it needs
        n_q, n_k = int(rng.integers(1, 4)), 400
        options = {"q_start": int(rng.integers(0, 400))}
    elif kind == "packed" and n_q > 2:
        cuts = np.sort(rng.integers(0, n_q + 1, 2))
        options = {"cu_seqlens": np.array([0, *cuts, n_q])}
    offsets = None if rng.integers(3) == 0 else np.unique(rng.integers(1, 100, 8))
    global_tokens = int(rng.choice([0, 1, 8, 20]))
    pattern = pa.Pattern(offsets, window=int(rng.integers(0, 4)), global_tokens=global_tokens)
    dtype = (np.float32, np.float64)[rng.integers(2)]
    shapes = {"q": (batch, kv_heads * group, n_q, d), "k": (batch, kv_heads, n_k, d)}
    shapes |= {"v": shapes["k"], "dout": shapes["q"], "dlse": shapes["q"][:3]}
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    if terms:
        heads = kv_heads * group
        offsets = pattern.offsets(n_q + n_k + 500).size
        known = {"offset_bias": rng.standard_normal((heads, offsets)).astype(dtype)}
        known["global_bias"] = rng.standard_normal((heads, global_tokens)).astype(dtype)
        known |= {"slopes": rng.uniform(0, 0.1, heads).astype(dtype), "softcap": 2.0}
        known["dropout"] = 0.5
        options |= {name: value for name, value in known.items() if rng.integers(2) == 0}
    return arrays, pattern, options


def poison(rng, array, value):
    """Put ``value`` into one row, at one place or all along; rows of numbers have but one place."""
    row = tuple(int(rng.integers(size)) for size in array.shape[:3])
    array[row if array.ndim == 3 or rng.integers(2) else (*row, int(rng.integers(array.shape[3])))] = value


def bad_rows(array):
    """Rows with a NaN or infinity; of lse and of biases, the numbers themselves."""
    return ~np.isfinite(array).all(-1) if array.ndim == 4 else ~np.isfinite(array)


def check_poison(seed, kernel=None, terms=True):
    """One random call with NaN or infinity in a row: bad rows of outputs are those of the reference."""
    rng = np.random.default_rng(seed)
    arrays, pattern, options = random_case(rng, terms)
    name, value = str(rng.choice([*arrays, "lse"])), float(rng.choice([np.nan, np.nan, np.inf, -np.inf]))
    if name != "lse":
        poison(rng, arrays[name], value)
    q, k, v, dout, dlse = arrays.values()
    about = seed, name, value, pattern, options, q.shape, k.shape
    with np.errstate(all="ignore"):
        out, lse = reference.forward(q, k, v, pattern, **options)
        got_out, got_lse = pa.attention(q, k, v, pattern, kernel=kernel, **options)
        np.testing.assert_array_equal(bad_rows(got_out), bad_rows(out), str(about))
        np.testing.assert_array_equal(got_lse == -np.inf, lse == -np.inf, str(about))
        np.testing.assert_array_equal(np.isfinite(got_lse), np.isfinite(lse), str(about))
        if name == "lse":
            poison(rng, got_lse, np.nan)  # as merging with another range of keys may give
        given = dout, q, k, v, got_out, got_lse
        expected = reference.backward(*given, pattern, dlse=dlse, **options)
        got = {f"d{name}": np.full_like(a, 7) for name, a in zip("qkv", (q, k, v), strict=True)}
        biases = [bias for bias in ("offset_bias", "global_bias") if bias in options]
        got |= {f"d{bias}": np.full_like(options[bias], 7) for bias in biases}
        pa.sparse_index_kernel_backward(
            **got,
            **dict(zip(("dout", "q", "k", "v", "out", "lse"), given, strict=True)),
            **{"pattern": pattern, "dlse": dlse, "kernel": kernel} | options,
        )
    for (which, a), b in zip(got.items(), expected, strict=True):
        np.testing.assert_array_equal(bad_rows(a), bad_rows(b), f"{which} {about}")
