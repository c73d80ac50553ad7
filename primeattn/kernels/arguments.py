"""Checks of the arguments of the kernels, which themselves run unchecked."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from primeattn.checks import as_int, integers, is_array, is_real, share_memory, shown
from primeattn.kernels.call import BIASES, DTYPES, HALF_DTYPES, SEQUENCE, Call, lse_dtype, reach
from primeattn.patterns import Pattern
from primeattn.workspace import Workspace

POSITIONS = 2**62  # limit of positions, also below 0: the sum or difference of two fits int64


def check_forward(target, arrays, options, workspace) -> Call:
    """Check a forward; ``arrays`` and ``options`` are dicts by the argument names of the public function."""
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    check_inputs(q, k, v)
    check_array("out", arrays["out"], q.shape, q.dtype)
    if "lse" in arrays:
        check_lse("lse", arrays["lse"], q)
    checked = _check_options(q, k, workspace, **options)
    _check_biases(arrays, *checked[:2])
    arrays = _check_memory(arrays, ("out", "lse"), target.resident)
    return Call(arrays, *checked, workspace, target, backward=False)


def check_backward(target, arrays, options, workspace) -> Call:
    """Check a backward; arguments as in :func:`check_forward`."""
    q, k, v = arrays["q"], arrays["k"], arrays["v"]
    check_inputs(q, k, v)
    for name, like in (("dq", q), ("dk", k), ("dv", v), ("dout", q), ("out", q)):
        check_array(name, arrays[name], like.shape, q.dtype)
    for name in ("lse", "dlse"):
        if name in arrays:
            check_lse(name, arrays[name], q)
    checked = _check_options(q, k, workspace, **options)
    _check_biases(arrays, *checked[:2])
    outputs = ("dq", "dk", "dv", "doffset_bias", "dglobal_bias")
    arrays = _check_memory(arrays, outputs, target.resident)
    return Call(arrays, *checked, workspace, target, backward=True)


def check_inputs(q, k, v):
    """Raise unless q, k and v fit together."""
    for name, array in (("q", q), ("k", k), ("v", v)):
        _check_array(name, array)
        if array.ndim != 4:
            raise ValueError(
                f"{name}: expected 4 axes (batch, heads, length, head_dim), got shape {array.shape}"
            )
        if array.dtype not in DTYPES and array.dtype not in HALF_DTYPES:
            raise TypeError(f"{name}: expected float16, bfloat16, float32 or float64, got {array.dtype}")
        if array.dtype != q.dtype:
            raise TypeError(f"{name}: expected the dtype of q, {q.dtype}, got {array.dtype}")
    (batch, heads, _, head_dim), (_, kv_heads, *_) = q.shape, k.shape
    if head_dim == 0 or heads == 0:
        raise ValueError(f"q: expected at least one head and head_dim >= 1, got shape {q.shape}")
    if k.shape[0] != batch:
        raise ValueError(f"k: expected batch {batch} as in q, got {k.shape[0]}")
    if k.shape[3] != head_dim:
        raise ValueError(f"k: expected head_dim {head_dim} as in q, got {k.shape[3]}")
    if kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"k: expected a number of heads that divides the {heads} of q, got {kv_heads}")
    if v.shape != k.shape:
        raise ValueError(f"v: expected the shape of k, {k.shape}, got {v.shape}")


def check_lse(name, array, q):
    """Raise unless ``array`` has one number per query, as lse and dlse do."""
    check_array(name, array, q.shape[:3], lse_dtype(q.dtype))


def _check_memory(arrays, outputs, resident):
    """Return the arrays, and copies of the inputs that kernels cannot read in place.

    Raise unless every output can be written in place, and shares no element with itself or another array.
    Where arrays are ``resident`` on the GPU, inputs are not copied, and raise, too.
    """
    outputs = [name for name in outputs if name in arrays]
    inputs = [name for name in arrays if name not in outputs]
    problems = {name: _problem_of_layout(name, array) for name, array in arrays.items()}
    for name in arrays if resident else outputs:
        if problems[name]:
            raise ValueError(f"{name}: expected {problems[name]}, got strides {arrays[name].strides}")
    for i, name in enumerate(outputs):
        array = arrays[name]
        if not array.flags.writeable:
            raise ValueError(f"{name}: expected a writeable array, got a read-only one")
        if _overlaps_itself(array):
            raise ValueError(f"{name}: expected distinct elements, got strides {array.strides}")
        for other in (*outputs[:i], *inputs):
            if share_memory(array, arrays[other]):
                raise ValueError(f"{name}: expected memory of its own, got elements shared with {other}")
    return arrays | {name: arrays[name].copy() for name in inputs if problems[name]}


def _problem_of_layout(name, array) -> str | None:
    """Return what kernels expect of the memory of an array that they cannot read or write in place."""
    aligned, contiguous = array.flags.aligned, array.flags.c_contiguous
    if name in BIASES:
        return None if aligned and contiguous else "contiguous, aligned memory"
    if not aligned:
        return "aligned memory"
    if array.ndim < 4 or contiguous or array.shape[-1] <= 1 or array.strides[-1] == array.itemsize:
        return None
    return "a contiguous last axis" if array.size else None


def _check_softcap(softcap, dtype) -> float | None:
    """Return ``softcap`` as a float; raise unless it is a positive number that can be divided by."""
    if softcap is None:
        return None
    if not is_real(softcap):
        raise TypeError(f"softcap: expected a number or None, got {type(softcap).__name__}")
    most = float(np.finfo(lse_dtype(dtype)).max)
    if not 4 / most <= softcap <= most:
        raise ValueError(f"softcap: expected a number above 0, finite as its inverse is, got {softcap}")
    return float(softcap)


def _check_biases(arrays, patterns, sequences):
    """Raise unless the biases and slopes, and the gradients of biases, fit the call."""
    heads, dtype = len(patterns), arrays["q"].dtype
    if "offset_bias" in arrays:
        _check_array("offset_bias", arrays["offset_bias"])
        _, distances = reach(sequences)
        least = max(pattern.offsets(distances).size for pattern in set(patterns))
        shape = arrays["offset_bias"].shape
        if len(shape) != 2 or shape[0] != heads or shape[1] < least:
            raise ValueError(
                f"offset_bias: expected shape ({heads}, {least}) or longer, as pattern.offsets({distances}) "
                f"has {least}, got {shape}"
            )
        check_array("offset_bias", arrays["offset_bias"], shape, dtype)
    if "global_bias" in arrays:
        shape = heads, max(pattern.global_tokens for pattern in patterns)
        check_array("global_bias", arrays["global_bias"], shape, dtype)
    if "slopes" in arrays:
        check_array("slopes", arrays["slopes"], (heads,), dtype)
    for name in ("offset_bias", "global_bias"):
        if f"d{name}" in arrays:
            if name not in arrays:
                raise ValueError(f"d{name}: expected None without {name}, got an array")
            check_array(f"d{name}", arrays[f"d{name}"], arrays[name].shape, dtype)


def _check_dropout(dropout) -> float:
    if not is_real(dropout):
        raise TypeError(f"dropout: expected a number, got {type(dropout).__name__}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
    return float(dropout)


def _check_options(
    q,
    k,
    workspace,
    pattern,
    scale=None,
    q_start=0,
    k_start=0,
    cu_seqlens=None,
    softcap=None,
    dropout=0.0,
    dropout_seed=0,
):
    """Check the other arguments; return patterns by head, SEQUENCE records, and the numbers of a Call."""
    if workspace is not None and not isinstance(workspace, Workspace):
        raise TypeError(f"workspace: expected a Workspace or None, got {type(workspace).__name__}")
    patterns = _check_patterns(pattern, q.shape[1])
    if scale is None:
        scale = 1 / math.sqrt(q.shape[3])
    elif not is_real(scale):
        raise TypeError(f"scale: expected a number or None, got {type(scale).__name__}")
    elif not abs(scale) <= float(np.finfo(lse_dtype(q.dtype)).max):
        raise ValueError(f"scale: expected a finite number, got {scale} for {lse_dtype(q.dtype)}")
    sequences = _check_sequences(q, k, q_start, k_start, cu_seqlens)
    softcap, dropout = _check_softcap(softcap, q.dtype), _check_dropout(dropout)
    seed = as_int("dropout_seed", dropout_seed, minimum=0, maximum=2**64 - 1)
    return patterns, sequences, float(scale), softcap, dropout, seed


def _check_array(name, array):
    if not is_array(array):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")


def check_array(name, array, shape, dtype):
    """Raise unless ``array`` is an array of the given shape and dtype."""
    _check_array(name, array)
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if array.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {array.dtype}")


def check_choice(name, value, known):
    if value is not None and (not isinstance(value, str) or value not in known):
        raise ValueError(f"{name}: expected None or one of {', '.join(map(repr, known))}, got {value!r}")


def _check_patterns(pattern, heads):
    if isinstance(pattern, Pattern):
        return (pattern,) * heads
    if not isinstance(pattern, (tuple, list)) or not all(isinstance(p, Pattern) for p in pattern):
        raise TypeError(f"pattern: expected a Pattern or one per head, got {shown(pattern)}")
    if len(pattern) != heads:
        raise ValueError(f"pattern: expected one Pattern or {heads}, one per head of q, got {len(pattern)}")
    return tuple(pattern)


def _check_sequences(q, k, q_start, k_start, cu_seqlens):
    """SEQUENCE records of the call: one per batch entry, or one per packed sequence."""
    batch, _, n_q, _ = q.shape
    n_k = k.shape[2]
    starts = {
        "q_start": _check_start("q_start", q_start, batch),
        "k_start": _check_start("k_start", k_start, batch),
    }
    if cu_seqlens is None:
        return _of_batch(batch, n_q, n_k, **starts)
    for name, start in starts.items():
        if np.any(start != 0):
            raise ValueError(f"{name}: expected 0 together with cu_seqlens, got {start}")
    ends = as_boundaries(cu_seqlens, n_q)
    if batch != 1:
        raise ValueError(f"cu_seqlens: expected packed sequences in a batch of 1, got batch {batch}")
    if n_k != n_q:
        raise ValueError(f"cu_seqlens: expected as many keys as queries, got {n_q} queries and {n_k} keys")
    table = np.zeros(ends.size - 1, SEQUENCE)
    table["q_row"] = table["k_row"] = ends[:-1]
    table["n_q"] = table["n_k"] = np.diff(ends)
    table["number"] = np.arange(table.size)
    return table[table["n_q"] > 0]


@lru_cache(64)
def _of_batch(batch, n_q, n_k, q_start, k_start):
    table = np.zeros(batch, SEQUENCE)
    table["batch"] = table["number"] = np.arange(batch)
    table["n_q"], table["n_k"] = n_q, n_k
    table["q_start"], table["k_start"] = q_start, k_start
    table = _without_padding(table)
    table.flags.writeable = False  # calls share it
    return table


def _without_padding(table):
    """``table`` with the rows of positions below 0 as sequences of their own, where nobody sees anybody."""
    parts = [table]
    for side in "qk":
        start, count = table[f"{side}_start"], table[f"n_{side}"]
        padding = np.clip(-start, 0, count)
        if padding.any():
            alone = np.zeros(table.size, SEQUENCE)
            alone["batch"], alone[f"n_{side}"] = table["batch"], padding
            parts.append(alone[padding > 0])
            table[f"{side}_row"] += padding
            count -= padding
        np.maximum(start, 0, out=start)
    return np.concatenate(parts) if len(parts) > 1 else table


def _check_start(name, start, batch) -> int | tuple[int, ...]:
    if not isinstance(start, np.ndarray):
        start = as_int(name, start)
        if abs(start) >= POSITIONS:
            raise ValueError(f"{name}: expected a position below 2**62 in size, got {start}")
        return start
    start = integers(name, start)
    if start.shape not in ((), (batch,)):
        raise ValueError(f"{name}: expected an integer or shape ({batch},), got shape {start.shape}")
    values = start.reshape(-1).tolist()
    for value in values:
        if abs(value) >= POSITIONS:
            raise ValueError(f"{name}: expected positions below 2**62 in size, got {value}")
    return tuple(values) if start.ndim else values[0]


def as_boundaries(cu_seqlens, n) -> np.ndarray:
    """Return ``cu_seqlens`` as int64; raise unless it rises from 0 to ``n``."""
    array = integers("cu_seqlens", cu_seqlens)
    if array.ndim != 1 or array.size < 2:
        raise ValueError(f"cu_seqlens: expected 1 axis and at least 2 entries, got shape {array.shape}")
    if array[0] != 0 or array[-1] != n:
        raise ValueError(f"cu_seqlens: expected to run from 0 to {n}, got {array[0]} to {array[-1]}")
    if np.any(np.diff(array) < 0):
        at = int(np.argmax(np.diff(array) < 0))
        raise ValueError(f"cu_seqlens: expected increasing entries, got {array[at]} before {array[at + 1]}")
    return array


def _overlaps_itself(array) -> bool:
    """Whether two indices may share an element: no if each axis fits in the next larger stride."""
    if array.size == 0:
        return False
    reach = array.itemsize
    for stride, size in sorted(
        (abs(st), n) for st, n in zip(array.strides, array.shape, strict=True) if n > 1
    ):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False
