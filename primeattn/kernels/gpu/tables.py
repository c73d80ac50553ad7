"""What all GPU kernels read of a launch: one array of numbers with its tables, and where each of them is.

It opens with the number of query heads of a key head, with where each table begins, and with the strides
(batch, head, row) of each array in bytes.
"""

from __future__ import annotations

from collections import namedtuple
from typing import NamedTuple

import numba
import numpy as np

from primeattn.kernels import call as calls
from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import VECTOR_BYTES

__all__ = [
    "ARRAYS", "FIELDS", "KEPT_PLANS", "MAX_HEAD_DIM", "ROUTE", "SEQUENCE", "Layout", "Route", "address",
    "check_limits", "lay_out", "lower_bound", "rows_from",
]  # fmt: skip

KEPT_PLANS = 64
MAX_HEAD_DIM = 512
MAX_HEADS = 65535  # of a grid
MAX_POSITION = 2**31 - 2

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


def lay_out(strides, group, parts) -> tuple[np.ndarray, dict[str, int]]:
    """One array of FIELDS and then the tables in ``parts``, and where each of these begins.

    ``group`` is the number of query heads of a key head.
    """
    header = np.zeros(max(FIELDS) + 3, np.int64)
    header[FIELDS.group] = group
    for name, field in zip(ARRAYS, FIELDS[-len(ARRAYS) :], strict=True):
        header[field : field + 3] = strides.get(name, 0)
    ends = header.size + np.cumsum([part.size for part in parts.values()])
    at = {name: int(end) - part.size for (name, part), end in zip(parts.items(), ends, strict=True)}
    for name in parts.keys() & set(FIELDS._fields):
        header[getattr(FIELDS, name)] = at[name]
    return np.concatenate([header, *(part.reshape(-1) for part in parts.values())]), at


@device_function
def address(plan, base, field, batch, head, row, lane):
    """Address of a lane's part of a row of the array whose strides begin at ``field``."""
    return base + batch * plan[field] + head * plan[field + 1] + row * plan[field + 2] + lane * VECTOR_BYTES


@device_function
def rows_from(plan, base, field, batch, head, row, lane):
    """Address of a lane's part of a row, and the bytes from it to that of the next row."""
    return address(plan, base, field, batch, head, row, lane), numba.int32(plan[field + 2])


@device_function
def lower_bound(plan, begin, count, value):
    """Number of the ``count`` increasing entries from ``begin`` on that are below ``value``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if plan[begin + middle] < value:
            low = middle + 1
        else:
            high = middle
    return low
