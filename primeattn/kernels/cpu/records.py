"""Records that the compiled CPU kernels read: the tables of a plan, and one call as numbers.

A *stage* is all work on one key head of a sequence: its keys and values, and the query heads that read them.
A *panel* is a run of consecutive rows of one sequence and head; the panels of a stage are packed into one
space of rows per side (keys, queries). A *piece* is a part of a panel that is packed at once, a *route* says
where the keys of a query head are, and a *task* is a block of rows that one worker computes.
"""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np

from primeattn.kernels.call import ARRAYS, HALF_DTYPES

__all__ = ["ARRAY", "JOB", "PANEL", "PIECE", "ROUTE", "STAGE", "TASK", "Tables", "halves_of", "make_job"]


def record(*names):
    return np.dtype([(name, np.int64) for name in names])


STAGE = record(
    "sequence",
    "head",  # a key head
    "key_row",  # where all stages are packed before any is computed: its first row,
    "key_rows",  # and its rows
    "query_row",
    "query_rows",
    "key_piece",  # its first piece of keys,
    "key_pieces",  # and the number of its pieces
    "query_piece",
    "query_pieces",
    "task",  # its first task
    "tasks",
)

PANEL = record(
    "stage",
    "head",  # a key head, or a query head
    "row",  # row of the first position in the space of its stage
    "first",  # first position
    "count",  # positions
)

PIECE = record(
    "panel",
    "start",  # first row of the panel
    "count",  # rows
    "zeros",  # zero rows to write before them
)

ROUTE = record(
    "begin",  # the head's offsets are offsets[begin:end]
    "end",
    "keys",  # panel of the keys that offsets reach: positions from G on
    "globals",  # panel of the global keys: positions below G
    "queries",  # panel of the queries, in a two-pass backward
)

TASK = record(
    "stage",
    "keys",  # 1: a block of keys, 0: of queries
    "sequence",
    "head",  # a key head, or a query head
    "first",  # first row of the block, counted within the sequence
    "count",  # rows
)


class Tables(NamedTuple):
    """The tables of a plan that the kernels read."""

    offsets: np.ndarray  # int64, those of all distinct patterns, concatenated
    sequences: np.ndarray  # SEQUENCE (sequences,)
    stages: np.ndarray  # STAGE (sequences x key heads,)
    routes: np.ndarray  # ROUTE (sequences, query heads)
    key_panels: np.ndarray  # PANEL (panels of keys,)
    query_panels: np.ndarray  # PANEL (panels of queries,), empty unless the backward takes two passes
    key_pieces: np.ndarray  # PIECE (pieces,) by stage
    query_pieces: np.ndarray  # PIECE (pieces,) by stage, empty unless in two passes
    tasks: np.ndarray  # TASK (blocks,) by stage; in two passes, blocks of keys come before those of queries


# An array of rows. Kernels take addresses and strides, so that another layout or read-only flag needs no
# compilation.
ARRAY = record(
    "address",  # 0: the array was not given
    "batch",  # bytes from one entry of the batch to the next
    "head",  # from one head to the next
    "row",  # from one row to the next
)

# One call as numbers.
NONE = (0,) * 4  # of an array that was not given
NUMBERS = (
    "head_dim",  # numbers of a row
    "size",  # bytes of a number, packed or computed
    "halves",  # 0: so are those of the caller's rows; else these are float16 (1) or bfloat16 (2)
    "lines",  # cache lines of a packed row
    "heads_per_key",  # query heads that read one key head
    "block",  # most rows in a block
    "gather",  # 0: rows are packed before any task; else each tile takes what it needs, see gathering.py
    "whole",  # 1: a worker takes whole stages and packs them; 0: all rows are packed before any task
    "counters",  # address of the shared counters, see packing.py
    "key_rows",  # rows of the space of keys: the longest stage's if stages are whole, else those of all
    "query_rows",  # and of queries
    "packs",  # address of the packed rows: the first worker's if stages are whole, else those of all
    "packs_bytes",  # of each worker's, or 0
    "scratch",  # address of the first worker's scratch
    "scratch_bytes",  # of each worker's
)
JOB = np.dtype([*((name, ARRAY) for name in ARRAYS), *((name, np.int64) for name in NUMBERS)])


def halves_of(dtype) -> int:
    """What ``halves`` of a JOB is for rows of ``dtype``."""
    return HALF_DTYPES.index(dtype) + 1 if dtype in HALF_DTYPES else 0


def make_job(arrays, numbers) -> np.ndarray:
    """One JOB record of arrays and of NUMBERS by name; those that are not given are 0."""
    rows = [(a.ctypes.data, *a.strides) if (a := arrays.get(name)) is not None else NONE for name in ARRAYS]
    flat = [*chain.from_iterable(row[:4] for row in rows), *(numbers.get(name, 0) for name in NUMBERS)]
    return np.array(flat, np.int64).view(JOB)
