"""Records that the compiled CPU kernels read: the tables of a plan, and one call as numbers.

A *panel* is a run of consecutive rows of one sequence and head, packed into one space of rows per side (keys,
queries). A *piece* is a part of a panel that is packed at once, a *route* says where the keys of a query
head are, and a *task* is a block of rows that one worker computes.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np

from primeattn.kernels.call import ARRAYS

__all__ = ["ARRAY", "JOB", "PANEL", "PIECE", "ROUTE", "TASK", "Tables", "make_job"]


def _record(*names):
    return np.dtype([(name, np.int64) for name in names])


PANEL = _record(
    "sequence",  # index of the sequence
    "head",  # a key head, or a query head
    "row",  # packed row of the first position
    "first",  # first position
    "count",  # positions
)

PIECE = _record(
    "panel",
    "start",  # first row of the panel
    "count",  # rows
    "zeros",  # zero rows to write before them
)

ROUTE = _record(
    "begin",  # the head's offsets are offsets[begin:end]
    "end",
    "keys",  # panel of the keys that offsets reach: positions from G on
    "globals",  # panel of the global keys: positions below G
    "queries",  # panel of the queries, in a two-pass backward
)

TASK = _record(
    "sequence",
    "head",  # a query head, or a key head
    "first",  # first row of the block, counted within the sequence
    "count",  # rows
)


class Tables(NamedTuple):
    """The tables of a plan that the kernels read."""

    offsets: np.ndarray  # int64, those of all distinct patterns, concatenated
    sequences: np.ndarray  # SEQUENCE (sequences,)
    routes: np.ndarray  # ROUTE (sequences, query heads)
    key_panels: np.ndarray  # PANEL (panels of keys,)
    query_panels: np.ndarray  # PANEL (panels of queries,), empty unless the backward takes two passes
    key_pieces: np.ndarray  # PIECE (pieces,), empty if nothing is packed ahead
    query_pieces: np.ndarray  # PIECE (pieces,), empty unless in two passes
    query_tasks: np.ndarray  # TASK (blocks of queries,)
    key_tasks: np.ndarray  # TASK (blocks of keys,), empty unless in two passes


# An array of rows. Kernels take addresses and strides, so that another layout or read-only flag needs no
# compilation.
ARRAY = _record(
    "address",  # 0: the array was not given
    "batch",  # bytes from one entry of the batch to the next
    "head",  # from one head to the next
    "row",  # from one row to the next
)

# One call as numbers.
NONE = (0,) * 4  # of an array that was not given
NUMBERS = (
    "head_dim",  # numbers of a row
    "size",  # bytes of a number
    "lines",  # cache lines of a packed row
    "heads_per_key",  # query heads that read one key head
    "block",  # most rows in a block
    "gather",  # 1: each tile copies the rows it needs
    "local",  # 1: each task packs its own sequence; if both are 0, all rows are packed first
    "counters",  # address of the shared counters, see packing.py
    "keys",  # address of the packed keys
    "values",  # and values
    "key_rows",  # packed rows of either
    "queries",  # address of scale * q, packed
    "douts",  # and of dout
    "query_rows",  # packed rows of either
    "minus_lse",  # address of -lse by packed query
    "minus_delta",  # and of dlse - rowsum(dout * out)
    "scratch",  # address of the first worker's scratch
    "scratch_bytes",  # of each worker's
)
JOB = np.dtype([*((name, ARRAY) for name in ARRAYS), *((name, np.int64) for name in NUMBERS)])


def make_job(arrays, numbers) -> np.ndarray:
    """One JOB record of arrays and of NUMBERS by name; those that are not given are 0."""
    rows = [(a.ctypes.data, *a.strides) if (a := arrays.get(name)) is not None else NONE for name in ARRAYS]
    flat = [*chain.from_iterable(row[:4] for row in rows), *(numbers.get(name, 0) for name in NUMBERS)]
    return np.array(flat, np.int64).view(JOB)
