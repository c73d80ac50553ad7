"""Packing: copies the rows of a call into panels.

Packed rows begin on a cache line, fill whole lines, and have zero rows around each run, so that one vector
path serves every layout, head_dim and ragged end. All workers of a call pack together, piece by piece, before
any of them computes.
"""

from __future__ import annotations

import numpy as np

from primeattn.compiled.handover import pause
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import LINE, atomic_add, view
from primeattn.kernels.cpu.plan import LOCAL_SPACE
from primeattn.kernels.cpu.slots import SLOT_BYTES, make_slots
from primeattn.kernels.cpu.tiles import ZERO, Packed, copy_row, dot_group, row_address, zero_rows

# Counters of a call: pieces drawn, pieces packed, tasks drawn, workers begun.
PIECES, PACKED, TASKS, WORKERS = (np.int64(i) for i in range(4))


@part_njit
def packed_keys(job):
    """Keys and values of all panels."""
    return Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)


@part_njit
def packed_queries(job):
    """scale * q and dout of all panels."""
    return Packed(job.queries, job.query_rows), Packed(job.douts, job.query_rows)


@part_njit
def _copy_keys(one, job, sequence, panel, start, count, keys, values):
    """Pack ``count`` rows of a panel from its row ``start`` on."""
    source = sequence.k_row + panel.first - sequence.k_start + start
    k = row_address(job.k, sequence.batch, panel.head, source)
    v = row_address(job.v, sequence.batch, panel.head, source)
    row = panel.row + start
    for i in range(count):
        copy_row(one, job, k + i * job.k.row, keys, row + i, one)
        copy_row(one, job, v + i * job.v.row, values, row + i, one)


@part_njit
def _pack_keys(one, job, sequences, panels, piece):
    panel = panels[piece.panel]
    keys, values = packed_keys(job)
    row = panel.row + piece.start - piece.zeros
    zero_rows(one, job, keys, row, piece.zeros)
    zero_rows(one, job, values, row, piece.zeros)
    _copy_keys(one, job, sequences[panel.sequence], panel, piece.start, piece.count, keys, values)


@part_njit
def pack_local(one, job, tables, sequence, route, scratch):
    """Pack the panels of a short sequence in a worker's scratch; return its packed keys and values."""
    keys = Packed(scratch, LOCAL_SPACE)
    values = Packed(scratch + LOCAL_SPACE * job.lines * LINE, LOCAL_SPACE)
    key_panel = tables.key_panels[route.keys]
    for side in (keys, values):
        zero_rows(one, job, side, ZERO, key_panel.row)
        zero_rows(one, job, side, key_panel.row + key_panel.count, key_panel.row)
    for number in (route.keys, route.globals):
        panel = tables.key_panels[number]
        _copy_keys(one, job, sequence, panel, ZERO, panel.count, keys, values)
    return keys, values


@part_njit
def minus_lse_and_delta(one, job, b, h, r, douts, row, spare, spare_row, eight):
    """-lse and dlse - rowsum(dout * out) of a query; for a row without keys, -inf, which gives p = 0.

    dout is row ``row`` of ``douts``. The sum uses a spare row and ``eight`` numbers, and adds in the same
    order as dP: if one key has all the weight, out is its value, and dP - delta is 0 (in rows of one chunk).
    """
    lse = view(row_address(job.lse, b, h, r), ZERO + 1, one)[0]
    out = row_address(job.out, b, h, r)
    copy_row(one, job, out, spare, spare_row, one)
    eight[:] = 0
    two = spare_row, spare_row
    dot_group(one, job, douts, row, spare, two, ZERO, np.int64(eight.ctypes.data), ZERO, ZERO + 1, ZERO)
    minus_delta = -eight[0]
    if job.dlse.address != 0:
        minus_delta += view(row_address(job.dlse, b, h, r), ZERO + 1, one)[0]
    return (-lse if lse > -np.inf or lse != lse else lse), minus_delta


@part_njit
def _pack_queries(one, scale, job, sequences, panels, piece, eight):
    """Pack scale * q and dout, and for each query -lse and dlse - rowsum(dout * out)."""
    panel = panels[piece.panel]
    sequence = sequences[panel.sequence]
    queries, douts = packed_queries(job)
    minus_lse = view(job.minus_lse, job.query_rows, one)
    minus_delta = view(job.minus_delta, job.query_rows, one)
    row = panel.row + piece.start
    zero_rows(one, job, queries, row - piece.zeros, piece.zeros)
    zero_rows(one, job, douts, row - piece.zeros, piece.zeros)
    minus_lse[row - piece.zeros : row] = -np.inf
    minus_delta[row - piece.zeros : row] = 0
    b, h = sequence.batch, panel.head
    for i in range(row, row + piece.count):
        r = sequence.q_row + piece.start + i - row
        dout = row_address(job.dout, b, h, r)
        copy_row(one, job, dout, douts, i, one)
        minus_lse[i], minus_delta[i] = minus_lse_and_delta(one, job, b, h, r, douts, i, queries, i, eight)
        copy_row(one, job, row_address(job.q, b, h, r), queries, i, scale)


@part_njit
def draw(job, counter):
    """Draw the next number from a counter that the workers of a call share."""
    return atomic_add(job.counters + 8 * counter, ZERO + 1)


@part_njit
def open_scratch(one, job):
    """Claim a worker's scratch: two Slots, and the address of the rest."""
    at = job.scratch + draw(job, WORKERS) * job.scratch_bytes
    return make_slots(one, at), make_slots(one, at + SLOT_BYTES), at + 2 * SLOT_BYTES


@part_njit
def pack_keys(one, job, tables):
    """Pack keys, together with the other workers, until none are left; return the first number past them."""
    while True:
        p = draw(job, PIECES)
        if p >= tables.key_pieces.size:
            return p
        _pack_keys(one, job, tables.sequences, tables.key_panels, tables.key_pieces[p])
        draw(job, PACKED)


@part_njit
def pack_queries(one, scale, job, tables, p, eight):
    """Pack queries from number ``p`` on, as returned by ``pack_keys``; ``eight`` are spare numbers."""
    while p - tables.key_pieces.size < tables.query_pieces.size:
        piece = tables.query_pieces[p - tables.key_pieces.size]
        _pack_queries(one, scale, job, tables.sequences, tables.query_panels, piece, eight)
        draw(job, PACKED)
        p = draw(job, PIECES)


@part_njit
def wait(job, pieces):
    """Wait until the other workers have packed the pieces they drew."""
    turn = ZERO
    while atomic_add(job.counters + 8 * PACKED, ZERO) < pieces:
        turn = pause(turn)
