"""Terms of the score beside q·k, on tiles: the soft cap, biases, slopes; gradients of biases; and dropout.

All rows of a block meet an offset at the same distance, so that it adds one number to a column of the tile.
Fixed slots, of global keys, have a distance that changes from row to row.

The gradient of a bias is a sum over all pairs that have it. Each block of queries makes its own sums, in
float64, and adds them to those of its head and sequence; blocks do so in a fixed order, whichever worker has
them, so that results repeat bit for bit for any number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.addresses import atomic_add, view
from primeattn.compiled.handover import pause
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import GROUP, LINE
from primeattn.compiled.simd_scores import add_biases, cap_scores, column_sums, drop_pairs
from primeattn.kernels.cpu.slots import SLOTS
from primeattn.kernels.cpu.tiles import ALONE, ZERO, group_bytes, mask, step_of, tile_group

__all__ = [
    "Room",
    "Terms",
    "add_sums",
    "add_sums_in_turn",
    "add_tile",
    "begin_sums",
    "drop_keys_of_queries",
    "drop_queries_of_keys",
    "open_room",
    "room_bytes",
    "sum_tile",
    "terms_of_keys",
    "terms_of_queries",
    "through_cap",
]


class Terms(NamedTuple):
    """The terms of the scores of a call and its dropout, for one of its plans; None stands for none."""

    biases: np.ndarray  # BIAS (query heads,), empty if there is only a cap
    sums: np.ndarray  # SUM (sequences, query heads), empty if no gradient is wanted
    cap: np.ndarray  # one number, 0 for no cap
    drops: np.ndarray  # DROP (sequences, query heads), empty without dropout
    kept: np.ndarray  # one number, the weight of pairs that are not dropped
    places: np.ndarray  # of a worker's Room, bytes from its scratch to its numbers, tiles and sums


class Room(NamedTuple):
    """A worker's memory for terms."""

    by_slot: int  # eight biases, by slot
    distances: int  # eight distances, by slot
    zero: int  # the number 0
    eight: int  # eight numbers in float64
    queries: int  # eight positions of queries, by slot
    keys: int  # and of keys
    rates: int  # tile of the derivatives of capped scores
    spare: int  # one more tile, where a backward has dropout
    sums: int  # sums of a block, in float64: by offset, then by global key


NUMBERS = 6 * LINE  # bytes of those before the tiles


def room_bytes(block: int, size: int, tiles: int, sums: int) -> tuple[int, int, int]:
    """Bytes before the tiles, before ``sums`` and after these."""
    end = NUMBERS + tiles * SLOTS // GROUP * (block * GROUP * size + LINE)
    return NUMBERS, end, end + -(-8 * sums // LINE) * LINE


@part_njit
def open_room(one, job, terms, worker):
    """A worker's Room, or None without terms."""
    if terms is not None:
        at, places = job.scratch + worker * job.scratch_bytes, terms.places
        first, row = at + places[0], GROUP * job.size
        view(first + 2 * row, GROUP, one)[:] = 0
        eight, tiles = first + 3 * LINE, at + places[1]
        spare = tiles if terms.cap[0] == 0 else tiles + SLOTS // GROUP * group_bytes(job)
        numbers = first, first + row, first + 2 * row, eight, eight + LINE, eight + 2 * LINE
        return Room(*numbers, tiles, spare, at + places[2])


@part_njit
def _cap_tile(one, terms, job, s, groups, n, rates):
    cap = terms.cap[0]
    if cap != 0:
        for g in range(groups):
            if rates is None:
                cap_scores(one, tile_group(job, s, g), None, cap, n)
            else:
                cap_scores(one, tile_group(job, s, g), tile_group(job, rates, g), cap, n)


@part_njit
def _number(one, address, i, size):
    """Number i of those at an address; 0 if there are none."""
    return view(address + i * size, ZERO + 1, one)[0] if address != 0 else one - one


@part_njit
def _fill_by_offset(one, job, room, bias, offsets, first, slots, g):
    """Fill the biases and distances of a group of moving slots; ``offsets`` count from number ``first``."""
    by_slot, distances = view(room.by_slot, GROUP, one), view(room.distances, GROUP, one)
    for i in range(GROUP):
        u = g * GROUP + i
        seen = slots.low[u] < slots.high[u]
        by_slot[i] = _number(one, bias.offset, first + u, job.size) if seen else 0
        distances[i] = offsets[first + u] if seen else 0


@part_njit
def terms_of_queries(one, heads, job, tables, terms, room, rates, head, tile, position, s, n):
    """Cap the scores of n queries from ``position`` on, and add biases and slopes.

    ``rates`` is a tile for the derivatives of the capped scores, or None.
    """
    slots, route, groups, moving, offset, fixed = tile
    together, row = len(heads), GROUP * job.size
    _cap_tile(one, terms, job, s, groups, n * together, rates)
    for i in range(together if terms.biases.size > 0 else 0):
        bias = terms.biases[head + i]
        slope = _number(one, bias.slope, ZERO, job.size)
        by_slot, distances = view(room.by_slot, GROUP, one), view(room.distances, GROUP, one)
        for g in range(groups):
            target = tile_group(job, s, g) + i * row
            step = ZERO
            if g < moving:
                _fill_by_offset(one, job, room, bias, tables.offsets[route.begin :], offset, slots, g)
            else:
                step += 1
                key = tables.key_panels[route.globals].first + fixed + (g - moving) * GROUP
                for u in range(GROUP):
                    seen = slots.low[g * GROUP + u] < slots.high[g * GROUP + u]
                    by_slot[u] = _number(one, bias.key, key + u, job.size) if seen else 0
                    distances[u] = position - key - u
            stride, by_slot_at, distances_at = row * together, room.by_slot, room.distances
            add_biases(one, target, stride, n, room.zero, ZERO, by_slot_at, slope, distances_at, step)


@part_njit
def terms_of_keys(one, job, tables, terms, room, head, tile, position, s, n):
    """As of queries, for a tile of n keys from ``position`` on: fixed slots are queries of global keys."""
    slots, route, groups, moving, offset, fixed = tile
    _cap_tile(one, terms, job, s, groups, n, room.rates)
    if terms.biases.size == 0:
        return
    bias = terms.biases[head]
    slope, row = _number(one, bias.slope, ZERO, job.size), GROUP * job.size
    by_slot, distances = view(room.by_slot, GROUP, one), view(room.distances, GROUP, one)
    for g in range(groups):
        by_row, row_step, step = room.zero, ZERO, ZERO
        if g < moving:
            _fill_by_offset(one, job, room, bias, tables.offsets[route.begin :], offset, slots, g)
        else:
            step -= 1
            if bias.key != 0:
                by_row, row_step = bias.key + position * job.size, job.size
            query = tables.query_panels[route.queries].first + fixed + g * GROUP
            by_slot[:] = 0
            for u in range(GROUP):
                distances[u] = query + u - position
        target = tile_group(job, s, g)
        add_biases(one, target, row, n, by_row, row_step, room.by_slot, slope, room.distances, step)


@part_njit
def _drop_group(one, job, terms, room, sequence, head, target, stride, n, query_step, key_step):
    drop = terms.drops[sequence, head]
    drop, kept = (drop.key, drop.other, drop.limit), terms.kept[0]
    drop_pairs(one, target, stride, n, room.queries, query_step, room.keys, key_step, drop, kept)


@part_njit
def drop_keys_of_queries(one, heads, job, tables, terms, room, sequence, head, tile, position, s, n):
    """Drop pairs of a tile of weights, or of their gradients, of n queries from ``position`` on."""
    if terms.drops.size == 0:
        return
    slots, route, groups, moving, offset, fixed = tile
    queries, keys = view(room.queries, GROUP, ZERO), view(room.keys, GROUP, ZERO)
    queries[:] = position
    together, row, one_row = len(heads), GROUP * job.size, ZERO + 1
    for g in range(groups):
        key = tables.key_panels[route.globals].first + fixed + (g - moving) * GROUP
        for i in range(GROUP):
            u = g * GROUP + i
            keys[i] = key + i
            if g < moving and slots.low[u] < slots.high[u]:
                keys[i] = position - tables.offsets[route.begin + offset + u]
        for i in range(together):
            target, key_step = tile_group(job, s, g) + i * row, step_of(g, moving)
            stride = together * row
            _drop_group(one, job, terms, room, sequence, head + i, target, stride, n, one_row, key_step)


@part_njit
def drop_queries_of_keys(one, job, tables, terms, room, sequence, head, tile, position, s, n):
    """As of queries, for a tile of n keys from ``position`` on: fixed slots are queries of global keys."""
    if terms.drops.size == 0:
        return
    slots, route, groups, moving, offset, fixed = tile
    queries, keys = view(room.queries, GROUP, ZERO), view(room.keys, GROUP, ZERO)
    keys[:] = position
    row, one_row = GROUP * job.size, ZERO + 1
    for g in range(groups):
        query = tables.query_panels[route.queries].first + fixed + g * GROUP
        for i in range(GROUP):
            u = g * GROUP + i
            queries[i] = query + i
            if g < moving and slots.low[u] < slots.high[u]:
                queries[i] = position + tables.offsets[route.begin + offset + u]
        target, query_step = tile_group(job, s, g), step_of(g, moving)
        _drop_group(one, job, terms, room, sequence, head, target, row, n, query_step, one_row)


@part_njit
def add_tile(one, job, s, t, groups, n):
    """s += t, n rows of two tiles."""
    for g in range(groups):
        total = view(tile_group(job, s, g), n * GROUP, one)
        part = view(tile_group(job, t, g), n * GROUP, one)
        for i in range(total.size):
            total[i] += part[i]


@part_njit
def sum_tile(one, job, terms, room, sequence, head, tile, ds, n):
    """Sum the gradients of a tile of scores, 0 where no slot exists, for their biases."""
    slots, _, groups, moving, offset, fixed = tile
    if terms.sums.size > 0:
        place, eight = terms.sums[sequence, head], view(room.eight, GROUP, 1.0)
        sums = view(room.sums, place.offsets + place.globals, 1.0)
        for g in range(groups):
            column_sums(one, tile_group(job, ds, g), n, room.eight)
            first = offset - place.begin if g < moving else place.offsets + fixed - moving * GROUP
            for i in range(GROUP):
                u = g * GROUP + i
                if slots.low[u] < slots.high[u]:
                    sums[first + u] = eight[i]


@part_njit
def through_cap(one, job, terms, room, slots, groups, ds, n):
    """Turn the gradients of capped scores, 0 where no slot exists, into those of scores."""
    if terms.cap[0] != 0:
        for g in range(groups):
            target = view(tile_group(job, ds, g), n * GROUP, one)
            rates = view(tile_group(job, room.rates, g), n * GROUP, one)
            for i in range(target.size):
                target[i] *= rates[i]
        mask(one, ALONE, job, slots, groups, ds, n, 0.0)


@part_njit
def begin_sums(terms, room, sequence, head):
    """Begin the sums of a block: those of a sequence and head, at 0."""
    if terms.sums.size > 0:
        place = terms.sums[sequence, head]
        view(room.sums, place.offsets + place.globals, 1.0)[:] = 0


@part_njit
def add_sums(terms, room, sequence, head):
    """Add the sums of a block to those of its sequence and head."""
    if terms.sums.size > 0:
        place = terms.sums[sequence, head]
        part = view(room.sums, place.offsets + place.globals, 1.0)
        total = view(place.at, part.size, 1.0)
        for i in range(part.size):
            total[i] += part[i]


@part_njit
def add_sums_in_turn(terms, room, sequence, head, turn):
    """As ``add_sums``, after all blocks with a lower turn, which other workers have drawn before."""
    if terms.sums.size > 0:
        place, waited = terms.sums[sequence, head], ZERO
        while atomic_add(place.turn, ZERO) < turn:
            waited = pause(waited)
        add_sums(terms, room, sequence, head)
        atomic_add(place.turn, ZERO + 1)
