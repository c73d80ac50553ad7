"""Where a thread of the wheel kernels stands: its two rows of a block, and where what they meet lies.

A warp holds 16 rows of its block, thread 4 g + c of it rows g and g + 8 (see :mod:`.tensor`). Positions count
from the first key of the sequence, also those of queries.
"""

from __future__ import annotations

from collections import namedtuple
from typing import NamedTuple

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import entry
from primeattn.kernels.gpu.tables import FIELDS, ROUTE, SEQUENCE, rows_from

__all__ = [
    "TILE", "WHEEL_ROUTE", "Place", "find_keys", "find_place", "find_queries", "keys_of_head",
    "queries_of_head",
]  # fmt: skip

TILE = namedtuple("Tile", "sequence residue first")(*range(3))
# Its offsets are the singles. ``steps`` and ``key_steps`` are where the tables of its classes begin: for each
# class, where its steps begin and how many there are.
WHEEL_ROUTE = namedtuple("WheelRoute", (*ROUTE._fields, "steps", "key_steps"))(*range(len(ROUTE) + 2))


class Place(NamedTuple):
    """Place of a thread in its block."""

    lane: int
    c: int
    row: int  # of the block; the thread holds this one and the eighth after it
    residue: int  # class of the block
    first: int  # row of the class with which the block begins


class Queries(NamedTuple):
    """The two queries of a thread."""

    sequence: int  # where its entry in the tables begins
    batch: int
    row: int  # row of position 0, in the arrays
    first: int  # position of the sequence's first query
    last: int
    x0: int  # positions of the thread's rows, which may be beyond the queries
    x1: int
    i0: int  # positions of the queries nearest to them
    i1: int


class Keys(NamedTuple):
    """The two keys of a thread."""

    sequence: int
    batch: int
    row: int
    end: int  # number of keys
    x0: int
    x1: int
    j0: int
    j1: int


class KeysOfHead(NamedTuple):
    """Keys that the queries of a head meet: addresses and strides from the first one on."""

    route: int  # where it begins in the tables
    global_tokens: int  # how many of the keys are
    k: int
    k_stride: int
    v: int
    v_stride: int


class QueriesOfHead(NamedTuple):
    """Queries of a head that keys meet: positions, and addresses and strides from position 0 on."""

    route: int
    first: int
    last: int
    q: int
    q_stride: int
    dout: int
    dout_stride: int
    lse_delta: int
    lse_delta_stride: int


@device_function
def find_place(plan, tiles, warp):
    """Place of this thread, by a table of tiles; ``warp`` is which 16 rows of the block it holds part of."""
    lane = cuda.threadIdx.x & 31
    tile = entry(plan, tiles) + len(TILE) * cuda.blockIdx.x
    row, c = 16 * warp + (lane >> 2), lane & 3
    return Place(lane, c, row, entry(plan, tile + TILE.residue), entry(plan, tile + TILE.first))


@device_function
def find_queries(plan, wheel, row):
    """Queries of the thread with a row of the block and the eighth after it."""
    tile = entry(plan, FIELDS.query_tiles) + len(TILE) * cuda.blockIdx.x
    sequence = entry(plan, FIELDS.sequences) + len(SEQUENCE) * entry(plan, tile + TILE.sequence)
    first, last = span_of_queries(plan, sequence)
    x = entry(plan, tile + TILE.residue) + (entry(plan, tile + TILE.first) + row) * wheel
    x0, x1 = numba.int32(x), numba.int32(x + 8 * wheel)
    return Queries(
        sequence, entry(plan, sequence + SEQUENCE.batch), entry(plan, sequence + SEQUENCE.q_row) - first,
        first, last, x0, x1, min(max(x0, first), last), min(max(x1, first), last),
    )  # fmt: skip


@device_function
def find_keys(plan, wheel, row):
    """Keys of the thread with a row of the block and the eighth after it."""
    tile = entry(plan, FIELDS.key_tiles) + len(TILE) * cuda.blockIdx.x
    sequence = entry(plan, FIELDS.sequences) + len(SEQUENCE) * entry(plan, tile + TILE.sequence)
    x = entry(plan, tile + TILE.residue) + (entry(plan, tile + TILE.first) + row) * wheel
    batch = numba.int32(entry(plan, sequence + SEQUENCE.batch))
    row_0 = numba.int32(entry(plan, sequence + SEQUENCE.k_row))
    end = numba.int32(entry(plan, sequence + SEQUENCE.n_k))
    x0, x1 = numba.int32(x), numba.int32(x + 8 * wheel)
    j0, j1 = min(x0, numba.int32(end - 1)), min(x1, numba.int32(end - 1))
    return Keys(sequence, batch, row_0, end, x0, x1, j0, j1)


@device_function
def span_of_queries(plan, sequence):
    """Positions of the first and the last query of a sequence."""
    first = numba.int32(entry(plan, sequence + SEQUENCE.q_start) - entry(plan, sequence + SEQUENCE.k_start))
    return first, numba.int32(first + entry(plan, sequence + SEQUENCE.n_q) - 1)


@device_function
def keys_of_head(plan, k, v, sequence, head):
    """Keys of a sequence that a query head meets; ``k`` and ``v`` are addresses of the arrays."""
    route = entry(plan, FIELDS.routes) + len(WHEEL_ROUTE) * head
    batch = entry(plan, sequence + SEQUENCE.batch)
    k_start, k_row = entry(plan, sequence + SEQUENCE.k_start), entry(plan, sequence + SEQUENCE.k_row)
    global_tokens = numba.int32(max(entry(plan, route + WHEEL_ROUTE.global_tokens) - k_start, 0))
    key_head = entry(plan, route + WHEEL_ROUTE.key_head)
    k, k_stride = rows_from(plan, k, FIELDS.k, batch, key_head, k_row, 0)
    v, v_stride = rows_from(plan, v, FIELDS.v, batch, key_head, k_row, 0)
    return KeysOfHead(route, global_tokens, k, k_stride, v, v_stride)


@device_function
def queries_of_head(plan, q, dout, lse_delta, sequence, batch, head):
    """Queries of a sequence and head; ``q``, ``dout`` and ``lse_delta`` are addresses of the arrays."""
    first, last = span_of_queries(plan, sequence)
    row = entry(plan, sequence + SEQUENCE.q_row) - first
    q, q_stride = rows_from(plan, q, FIELDS.q, batch, head, row, 0)
    dout, dout_stride = rows_from(plan, dout, FIELDS.dout, batch, head, row, 0)
    lse_delta, lse_delta_stride = rows_from(plan, lse_delta, FIELDS.lse_delta, batch, head, row, 0)
    route = entry(plan, FIELDS.routes) + len(WHEEL_ROUTE) * head
    return QueriesOfHead(
        route, first, last, q, q_stride, dout, dout_stride, lse_delta, lse_delta_stride
    )  # fmt: skip
