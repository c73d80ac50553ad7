"""The tables of a launch, which all GPU kernels read.

Those of the call are one array of numbers. It opens with the number of query heads of a key head, with where
each table begins, and with the strides (batch, head, row) of each array in bytes. What depends on the
patterns alone, and is much longer, is kept in *lists* of its own, which calls of about the same length share.
"""

from __future__ import annotations

from collections import namedtuple
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from primeattn.kernels import call as calls
from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import VECTOR_BYTES, entry

__all__ = [
    "ARRAYS", "FIELDS", "KEPT_PLANS", "MAX_HEAD_DIM", "MAX_POSITION", "ROUTE", "SEQUENCE", "Layout", "Route",
    "address", "check_limits", "lay_out", "lower_bound", "roomy", "rounded", "rows_from",
]  # fmt: skip

KEPT_PLANS = 64
MAX_HEAD_DIM = 512
MAX_HEADS = 65535  # of a grid
MAX_POSITION = 2**31 - 2
MIN_GRAIN = 256  # positions

# An entry of a table has the numbers of a sequence, or of the route of a query head.
ARRAYS = (*calls.ARRAYS, "lse_delta")
SEQUENCE = namedtuple("Sequence", calls.SEQUENCE.names)(*range(len(calls.SEQUENCE.names)))
Route = namedtuple("Route", "begin count global_tokens key_head")
ROUTE = Route(*range(4))
TABLES = ("group", "sequences", "routes", "query_tiles", "key_tiles")
FIELDS = namedtuple("Fields", TABLES + ARRAYS)(
    *range(len(TABLES)), *range(len(TABLES), len(TABLES) + 3 * len(ARRAYS), 3)
)


class Layout(NamedTuple):
    """Rows of the arrays of a call: what kernels are compiled for."""

    storage: str
    head_dim: int
    aligned: bool


def check_limits(call):
    """Raise where a launch would not fit its registers, grid or 32-bit numbers."""
    heads, head_dim = len(call.patterns), call.head_dim
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"q: expected head_dim up to {MAX_HEAD_DIM} on the GPU, got {head_dim}")
    if heads > MAX_HEADS:
        raise ValueError(f"q: expected up to {MAX_HEADS} heads on the GPU, got {heads}")
    for start, count in (("q_start", "n_q"), ("k_start", "n_k")):
        end = int((call.sequences[start] + call.sequences[count]).max(initial=0))
        if end > MAX_POSITION:
            raise ValueError(f"{start}: expected positions up to {MAX_POSITION} on the GPU, got {end}")
    for name, array in call.arrays.items():
        if array.ndim == 4 and array.shape[2] > 1 and abs(array.strides[2]) >= 2**31:
            raise ValueError(
                f"{name}: expected rows less than 2**31 bytes apart on the GPU, got {array.strides[2]}"
            )


def lay_out(strides, group, parts) -> np.ndarray:
    """One array of FIELDS and then the tables in ``parts``.

    ``group`` is the number of query heads of a key head.
    """
    header = np.zeros(max(FIELDS) + 3, np.int64)
    header[FIELDS.group] = group
    for name, field in zip(ARRAYS, FIELDS[-len(ARRAYS) :], strict=True):
        header[field : field + 3] = strides.get(name, 0)
    at = header.size
    for name, part in parts.items():
        header[getattr(FIELDS, name)], at = at, at + part.size
    return np.concatenate([header, *(part.reshape(-1) for part in parts.values())])


def rounded(patterns, n) -> int:
    """``n`` or up to a quarter more: one of four lengths an octave, unless a sequence ends before."""
    longer = _multiple(n, _grain(n))
    return longer if _reach_to(patterns, 0, longer) else n


def roomy(patterns, low, high) -> tuple[int, int]:
    """A range of distances around ``low`` to ``high - 1``, the same for calls of about the same length.

    It is the range itself where a sequence ends before.
    """
    grain = max(_grain(high - low), MIN_GRAIN)
    wide = low // grain * grain, min(_multiple(high, grain), MAX_POSITION + 1)
    return wide if _reach_to(patterns, *wide) else (low, high)


def _grain(n) -> int:
    return 1 << max(n.bit_length() - 3, 0)


def _multiple(n, grain) -> int:
    return -(-n // grain) * grain


@lru_cache(KEPT_PLANS)
def _reach_to(patterns, low, high) -> bool:
    try:
        for pattern in dict.fromkeys(patterns):
            pattern.offsets_between(low, high)
    except ValueError:
        return False
    return True


@device_function
def address(plan, base, field, batch, head, row, lane):
    """Address of a lane's part of a row of the array whose strides begin at ``field``."""
    base += batch * entry(plan, field) + head * entry(plan, field + 1)
    return base + row * entry(plan, field + 2) + lane * VECTOR_BYTES


@device_function
def rows_from(plan, base, field, batch, head, row, lane):
    """Address of a lane's part of a row, and the bytes from it to that of the next row."""
    return address(plan, base, field, batch, head, row, lane), numba.int32(entry(plan, field + 2))


@device_function
def lower_bound(table, begin, count, value):
    """Number of the ``count`` increasing entries from ``begin`` on that are below ``value``.

    Often all are, or none. So both ends are looked at first, with two loads side by side: in the search each
    load waits for the one before.
    """
    low, high = numba.int32(0), numba.int32(count)
    if high > 0:
        first, last = entry(table, begin), entry(table, begin + count - 1)
        if last < value:
            low = high
        elif value <= first:
            high = numba.int32(0)
    while low < high:
        middle = numba.int32((low + high) >> 1)
        if entry(table, begin + middle) < value:
            low = numba.int32(middle + 1)
        else:
            high = middle
    return low
