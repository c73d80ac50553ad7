"""Which packed rows a tile reads: the slots of a block of queries, or of keys, tile by tile."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.addresses import view
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import GROUP, LINE

SLOTS = 128  # most slots in a tile, whose scores are rescaled once
SLOT_BYTES = 3 * 8 * SLOTS + 2 * LINE  # memory of one Slots


class Slots(NamedTuple):
    """Which packed rows a tile reads, and for which rows of the block."""

    rows: np.ndarray
    low: np.ndarray
    high: np.ndarray
    start: np.ndarray  # two GROUPs: the zeros that scores start from, and spare room


@part_njit
def make_slots(one, address):
    """Slots of a tile in the ``SLOT_BYTES`` at an address; ``start`` has the dtype of ``one``."""
    integer, size = np.int64(1), 8 * SLOTS
    rows, low = view(address, SLOTS, integer), view(address + size, SLOTS, integer)
    high, start = view(address + 2 * size, SLOTS, integer), view(address + 3 * size, 2 * GROUP, one)
    return Slots(rows, low, high, start)


@part_njit
def _offset_slots(slots, offsets, begin, count, sign, base, panel_row, panel_count, n):
    """Slots for ``offsets[begin : begin + count]``: row r meets number base + r + sign * offset of a panel.

    The panel has ``panel_count`` rows from packed row ``panel_row`` on, with zero rows around it. Returns the
    number of groups. Unused slots of the last group exist for no row and read the zero rows at the start.
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
def _global_slots(slots, at, panel_row, first, count, n, reach, sign):
    """Slots from number ``at`` on for ``count`` rows of a panel, the same for every row that may see them.

    They are those from number ``first`` on. Number t exists for r >= t - reach where sign is +1 (a key for
    later queries) and for r <= t - reach where it is -1 (a query for earlier keys). Returns the number of
    groups.
    """
    groups = (count + GROUP - 1) // GROUP
    for u in range(groups * GROUP):
        if u < count:
            slots.rows[at + u] = panel_row + first + u
            edge = first + u - reach
            slots.low[at + u] = max(0, edge) if sign > 0 else 0
            slots.high[at + u] = n if sign > 0 else min(n, edge + 1)
        else:
            slots.rows[at + u] = slots.low[at + u] = slots.high[at + u] = 0
    return groups


@part_njit
def _below(offsets, limit):
    """Number of the sorted ``offsets`` below ``limit``."""
    low, high = 0, offsets.size
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] < limit:
            low = middle + 1
        else:
            high = middle
    return low


@part_njit
def query_tile(slots, tables, route, t, position, n):
    """Fill the slots of tile t of the n queries from ``position`` on; return (groups, moving, offset, fixed).

    There are 0 groups past the last tile. Groups of offsets, which move along with the query, come first: the
    tile has ``moving`` of them, from number ``offset`` of the route on. Then come those of the globals, from
    row ``fixed`` of their panel on.

    The globals are in the first tiles, and offsets fill the room beside them and all later tiles. So the tile
    of a key, and with it the order of sums, depends on the query alone and not on where blocks of queries
    are cut: a block that does not see all globals lies before all other keys, and has no offsets.
    """
    offsets = tables.offsets[route.begin : route.end]
    key_panel, global_panel = tables.key_panels[route.keys], tables.key_panels[route.globals]
    base = position - key_panel.first
    begin = _below(offsets, base - key_panel.count + 1)
    end = _below(offsets, base + n) if key_panel.count > 0 else begin
    reach = position - global_panel.first
    seen = max(min(global_panel.count, reach + n), 0)
    first = min(t * SLOTS, seen)
    count = min(SLOTS, seen - first)
    room = SLOTS - (count + GROUP - 1) // GROUP * GROUP
    begin += max(t * SLOTS - (seen + GROUP - 1) // GROUP * GROUP, 0)
    row, rows = key_panel.row, key_panel.count
    moving = _offset_slots(slots, offsets, begin, max(min(room, end - begin), 0), -1, base, row, rows, n)
    fixed = _global_slots(slots, moving * GROUP, global_panel.row, first, count, n, reach, 1)
    return moving + fixed, moving, begin, first


@part_njit
def key_tile(slots, tables, route, t, position, n, by_offset):
    """Fill the slots of tile t of the n keys from ``position`` on; return as above.

    With ``by_offset``, key j is read by the queries j + d; else it is global and read by all from j on, from
    row ``fixed`` of the panel of queries.
    """
    offsets, query_panel = tables.offsets[route.begin : route.end], tables.query_panels[route.queries]
    base = position - query_panel.first
    if by_offset:
        begin = _below(offsets, 1 - base - n) + t * SLOTS
        count = min(SLOTS, _below(offsets, query_panel.count - base) - begin)
        row, rows = query_panel.row, query_panel.count
        groups = _offset_slots(slots, offsets, begin, max(count, 0), 1, base, row, rows, n)
        return groups, groups, begin, 0
    first = max(base, 0) + t * SLOTS
    count = min(SLOTS, query_panel.count - first)
    return _global_slots(slots, 0, query_panel.row, first, max(count, 0), n, base, -1), 0, 0, first
