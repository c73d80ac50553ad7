"""Which packed rows a tile reads: the slots of a block of queries, or of keys, tile by tile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import GROUP, LINE, view

SLOTS = 128  # most slots of a tile: its scores are rescaled once
SLOT_BYTES = 3 * 8 * SLOTS + LINE  # of one Slots


class Slots(NamedTuple):
    """Which packed rows a tile reads, and for which rows of the block."""

    rows: np.ndarray
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray  # GROUP numbers: zeros that the scores of a group begin with, and spare


@part_njit
def make_slots(like, address):
    """Room for the slots of a tile in ``SLOT_BYTES`` at an address, and numbers of the dtype of ``like``."""
    integer, size = np.int64(1), 8 * SLOTS
    rows, low = view(address, SLOTS, integer), view(address + size, SLOTS, integer)
    high, start = view(address + 2 * size, SLOTS, integer), view(address + 3 * size, GROUP, like)
    return Slots(rows, low, high, start)


@part_njit
def _offset_slots(slots, offsets, begin, count, sign, base, panel_row, panel_count, n):
    """Slots for ``offsets[begin : begin + count]``: row r meets number base + r + sign * offset of a panel.

    The panel has ``panel_count`` rows from packed row ``panel_row`` on, with zero rows around it. Returns the
    number of groups. Slots that fill up the last group exist for no row and read the zero rows at the start.
    """
    groups = (count + GROUP - 1) // GROUP
    for u in range(groups * GROUP):
        if u < count:
            number = base + sign * offsets[begin + u]
            slots.rows[u] = panel_row + number
            slots.low[u] = max(0, -number)
            slots.high[u] = min(n, panel_count - number)
        else:
            slots.rows[u] = slots.low[u] = slots.high[u] = 0
    return groups


@part_njit
def _fixed_slots(slots, panel_row, first, count, n, reach, sign):
    """Slots for ``count`` fixed rows of a panel from number ``first`` on, for the rows on their causal side.

    Number t exists for r >= t - reach where sign is +1 (a key for later queries) and for r <= t - reach where
    it is -1 (a query for earlier keys). Returns the number of groups.
    """
    groups = (count + GROUP - 1) // GROUP
    for u in range(groups * GROUP):
        if u < count:
            slots.rows[u] = panel_row + first + u
            edge = first + u - reach
            slots.low[u] = max(0, edge) if sign > 0 else 0
            slots.high[u] = n if sign > 0 else min(n, edge + 1)
        else:
            slots.rows[u] = slots.low[u] = slots.high[u] = 0
    return groups


@part_njit
def _below(offsets, limit):
    """How many of the sorted ``offsets`` are below ``limit``."""
    low, high = 0, offsets.size
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


@part_njit
def query_tile(slots, offsets, t, position, n, moving, fixed):
    """Slots of tile t of the n queries from ``position`` on: (groups, step), no groups past the last tile.

    First come the tiles of offsets, which move through one panel, then those of the globals, the other one.
    """
    base = position - moving.first
    begin = _below(offsets, base - moving.count + 1)
    end = _below(offsets, base + n) if moving.count > 0 else begin
    tiles = (end - begin + SLOTS - 1) // SLOTS
    if t < tiles:
        begin += t * SLOTS
        count = min(SLOTS, end - begin)
        return _offset_slots(slots, offsets, begin, count, -1, base, moving.row, moving.count, n), 1
    first = (t - tiles) * SLOTS
    reach = position - fixed.first
    count = min(SLOTS, min(fixed.count, reach + n) - first)
    return _fixed_slots(slots, fixed.row, first, max(count, 0), n, reach, 1), 0


@part_njit
def key_tile(slots, offsets, t, position, n, asking, moving):
    """Slots of tile t of the n keys from ``position`` on: the queries that read them, (groups, step).

    Key j of a moving panel is read by the queries j + d, a global key by all queries from its own on.
    """
    base = position - asking.first
    if moving:
        begin = _below(offsets, 1 - base - n) + t * SLOTS
        count = min(SLOTS, _below(offsets, asking.count - base) - begin)
        groups = _offset_slots(slots, offsets, begin, max(count, 0), 1, base, asking.row, asking.count, n)
        return groups, 1
    first = max(base, 0) + t * SLOTS
    count = min(SLOTS, asking.count - first)
    return _fixed_slots(slots, asking.row, first, max(count, 0), n, base, -1), 0
