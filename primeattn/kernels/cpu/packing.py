"""Packing: what a call is in numbers, and how its rows come into packed panels.

Packed rows begin on a cache line, are as wide as whole lines, and have zero rows around each run, so that
every layout, head_dim and ragged end goes through one vector path. All workers of a call pack together, piece
by piece, before any of them computes.
"""

from __future__ import annotations

import numpy as np

from primeattn.compiled.handover import pause
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import LINE, atomic_add, view
from primeattn.kernels.cpu.plan import LOCAL_SPACE
from primeattn.kernels.cpu.slots import SLOT_BYTES, make_slots
from primeattn.kernels.cpu.tiles import ZERO, Packed, chunk_address, chunk_lines, dot_group, zero_rows

PIECES, PACKED, TASKS, WORKERS = (np.int64(i) for i in range(4))  # counters: drawn, packed, drawn, at work


@part_njit
def copy_row(like, job, source, packed, row, factor):
    """Pack ``factor`` times the head_dim numbers at an address, and zeros behind them."""
    end = source + job.head_dim * job.size
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        target = view(chunk_address(packed, done, width, row), width * LINE // job.size, like)
        given = min(width * LINE, end - source) // job.size
        numbers = view(source, given, like)
        for c in range(given):
            target[c] = numbers[c] * factor
        for c in range(given, target.size):
            target[c] = 0
        source += width * LINE
        done += width


@part_njit
def write_row(like, job, packed, row, target, factor):
    """Write ``factor`` times the first head_dim numbers of a packed row to an address."""
    end = target + job.head_dim * job.size
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        given = min(width * LINE, end - target) // job.size
        source = view(chunk_address(packed, done, width, row), given, like)
        numbers = view(target, given, like)
        for c in range(given):
            numbers[c] = source[c] * factor
        target += width * LINE
        done += width


@part_njit
def _copy_keys(like, job, sequence, panel, start, count, keys, values):
    """Pack ``count`` rows of a panel from its row ``start`` on."""
    source = sequence.k_row + panel.first - sequence.k_start + start
    k = job.k + sequence.batch * job.k_batch + panel.head * job.k_head + source * job.k_row
    v = job.v + sequence.batch * job.v_batch + panel.head * job.v_head + source * job.v_row
    row = panel.row + start
    for i in range(count):
        copy_row(like, job, k + i * job.k_row, keys, row + i, like)
        copy_row(like, job, v + i * job.v_row, values, row + i, like)


@part_njit
def _pack_keys(like, job, sequences, panels, piece):
    panel = panels[piece.panel]
    keys, values = Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)
    row = panel.row + piece.start - piece.zeros
    zero_rows(like, job, keys, row, piece.zeros)
    zero_rows(like, job, values, row, piece.zeros)
    _copy_keys(like, job, sequences[panel.sequence], panel, piece.start, piece.count, keys, values)


@part_njit
def pack_local(like, job, sequence, moving, fixed, scratch):
    """Pack the panels of a short sequence in a worker's scratch; return its packed keys and values."""
    keys = Packed(scratch, LOCAL_SPACE)
    values = Packed(scratch + LOCAL_SPACE * job.lines * LINE, LOCAL_SPACE)
    for side in (keys, values):
        zero_rows(like, job, side, ZERO, moving.row)
        zero_rows(like, job, side, moving.row + moving.count, moving.row)
    for panel in (moving, fixed):
        _copy_keys(like, job, sequence, panel, ZERO, panel.count, keys, values)
    return keys, values


@part_njit
def query_numbers(like, job, b, h, r, douts, row, spare, spare_row, eight):
    """-lse and dlse - rowsum(dout * out) of a query; a row without keys (lse = -inf) is to have p = 0.

    dout is row ``row`` of ``douts``. The sum is taken in the order of dP, in a spare row and ``eight``
    numbers: where one key has all weight, out is its value, and dP - delta is 0 (in rows of one chunk).
    """
    lse = view(job.lse + b * job.lse_batch + h * job.lse_head + r * job.lse_row, ZERO + 1, like)[0]
    out = job.out + b * job.out_batch + h * job.out_head + r * job.out_row
    copy_row(like, job, out, spare, spare_row, like)
    eight[:] = 0
    two = spare_row, spare_row
    dot_group(like, job, douts, row, spare, two, ZERO, np.int64(eight.ctypes.data), ZERO, ZERO + 1, ZERO)
    minus_delta = -eight[0]
    if job.dlse != 0:
        minus_delta += view(
            job.dlse + b * job.dlse_batch + h * job.dlse_head + r * job.dlse_row, ZERO + 1, like
        )[0]
    return (-lse if lse > -np.inf or lse != lse else lse), minus_delta


@part_njit
def _pack_queries(like, scale, job, sequences, panels, piece, eight):
    """Pack scale * q and dout, and per query -lse and dlse - rowsum(dout * out)."""
    panel = panels[piece.panel]
    sequence = sequences[panel.sequence]
    queries, douts = Packed(job.queries, job.query_rows), Packed(job.douts, job.query_rows)
    minus_lse = view(job.minus_lse, job.query_rows, like)
    minus_delta = view(job.minus_delta, job.query_rows, like)
    row = panel.row + piece.start
    zero_rows(like, job, queries, row - piece.zeros, piece.zeros)
    zero_rows(like, job, douts, row - piece.zeros, piece.zeros)
    minus_lse[row - piece.zeros : row] = -np.inf
    minus_delta[row - piece.zeros : row] = 0
    b, h = sequence.batch, panel.head
    for i in range(row, row + piece.count):
        r = sequence.q_row + piece.start + i - row
        dout = job.dout + b * job.dout_batch + h * job.dout_head + r * job.dout_row
        copy_row(like, job, dout, douts, i, like)
        minus_lse[i], minus_delta[i] = query_numbers(like, job, b, h, r, douts, i, queries, i, eight)
        copy_row(like, job, job.q + b * job.q_batch + h * job.q_head + r * job.q_row, queries, i, scale)


@part_njit
def draw(job, counter):
    """The next number of one of the counters that the workers of a call share."""
    return atomic_add(job.counters + 8 * counter, ZERO + 1)


@part_njit
def open_scratch(like, job):
    """Two rooms for slots and the address of the rest of the scratch of a worker that begins."""
    at = job.scratch + draw(job, WORKERS) * job.scratch_bytes
    return make_slots(like, at), make_slots(like, at + SLOT_BYTES), at + 2 * SLOT_BYTES


@part_njit
def pack_keys(like, job, tables):
    """Pack keys, together with the other workers, until none are left; return the number drawn then."""
    while True:
        p = draw(job, PIECES)
        if p >= tables.key_pieces.size:
            return p
        _pack_keys(like, job, tables.sequences, tables.key_panels, tables.key_pieces[p])
        draw(job, PACKED)


@part_njit
def pack_queries(like, scale, job, tables, p, eight):
    """Pack queries from number ``p`` on, which ``pack_keys`` has returned; ``eight`` are spare numbers."""
    while p - tables.key_pieces.size < tables.query_pieces.size:
        piece = tables.query_pieces[p - tables.key_pieces.size]
        _pack_queries(like, scale, job, tables.sequences, tables.query_panels, piece, eight)
        draw(job, PACKED)
        p = draw(job, PIECES)


@part_njit
def wait(job, pieces):
    """Return when all is packed; what other workers have drawn they are working on."""
    turn = ZERO
    while atomic_add(job.counters + 8 * PACKED, ZERO) < pieces:
        turn = pause(turn)
