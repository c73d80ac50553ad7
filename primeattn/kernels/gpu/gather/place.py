"""Where a thread of the gather kernels stands: its row, its share of the pairs, and what it may meet.

A block is ``threads // lanes`` groups. ``splits`` of them share one row (a query of the forward and of dq, a
key of dk and dv) and take its pairs in turns, a few at a time; their results are joined at the end in a fixed
order.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import entry
from primeattn.kernels.gpu.tables import FIELDS, ROUTE, SEQUENCE, Route

__all__ = ["KEYS", "QUERIES", "Place", "make_find_place", "route_of"]


class Side(NamedTuple):
    """Where a sequence's entry in the tables has its queries, or its keys."""

    row: int
    count: int
    start: int


QUERIES = Side(SEQUENCE.q_row, SEQUENCE.n_q, SEQUENCE.q_start)
KEYS = Side(SEQUENCE.k_row, SEQUENCE.n_k, SEQUENCE.k_start)


class Place(NamedTuple):
    """Place of a thread; ``first`` to ``here`` and ``begin`` to ``end`` are positions."""

    thread: int  # in the block
    lane: int  # in the group
    splits: int
    shift: int  # logarithm of the splits
    split: int  # the group's number among those that share the row
    writes: bool  # whether the group writes the results of the row
    number: int  # of the sequence
    batch: int
    row: int  # of the arrays
    first: int  # the block's first row
    last: int  # its last
    here: int  # this row
    other_row: int  # where the rows that may be met begin, in their arrays
    begin: int  # the first of them
    end: int  # one more than the last


@device_function
def route_of(plan, head):
    """Route of a query head, read at once: fewer registers are free later."""
    at = entry(plan, FIELDS.routes) + len(ROUTE) * head
    begin, count = entry(plan, at + ROUTE.begin), entry(plan, at + ROUTE.count)
    return Route(begin, count, entry(plan, at + ROUTE.global_tokens), entry(plan, at + ROUTE.key_head))


def make_find_place(lanes, tiles, side, other):
    """Device function ``find_place(plan, later, number)``: rows of one side by a table of tiles.

    They are those of tile ``number``, to meet rows of the other side. Queries are ``later`` positions behind
    those of the plan. A tile's entry is its sequence, its first row, the number of its rows and the logarithm
    of the splits.
    """

    lane_bits = lanes.bit_length() - 1

    @device_function
    def find_place(plan, later, number):
        thread = cuda.threadIdx.x
        lane, group = thread & (lanes - 1), thread >> lane_bits
        tile = entry(plan, tiles) + 4 * number
        sequence = entry(plan, FIELDS.sequences) + len(SEQUENCE) * entry(plan, tile)
        first_row = entry(plan, tile + 1)
        last_row = first_row + entry(plan, tile + 2) - 1
        shift = entry(plan, tile + 3)
        splits = 1 << shift
        split, row = group & (splits - 1), first_row + (group >> shift)
        writes = split == 0 and row <= last_row
        row = min(row, last_row)  # a group without a row repeats the last one
        batch, start = entry(plan, sequence + SEQUENCE.batch), entry(plan, sequence + side.start)
        if side.start == SEQUENCE.q_start:
            start += later
        count, begin = entry(plan, sequence + other.count), entry(plan, sequence + other.start)
        array_row, other_row = entry(plan, sequence + side.row) + row, entry(plan, sequence + other.row)
        return Place(
            thread, lane, splits, shift, split, writes, entry(plan, sequence + SEQUENCE.number), batch,
            array_row, start + first_row, start + last_row, start + row, other_row, begin, begin + count,
        )  # fmt: skip

    return find_place
