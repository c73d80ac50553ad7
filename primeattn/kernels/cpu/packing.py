"""Packing: copies the rows of a call into panels.

Packed rows begin on a cache line, fill whole lines, and have zero rows around each run, so that one vector
path serves every layout, head_dim and ragged end. Where there are enough stages for all workers, each worker
takes one stage after the other and packs it just before it computes, while the rows are in its cache.
Otherwise all workers pack together, piece by piece, before any of them computes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.addresses import atomic_add, view
from primeattn.compiled.handover import pause
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import LINE
from primeattn.kernels.cpu.slots import SLOT_BYTES, make_slots
from primeattn.kernels.cpu.tiles import (
    ALONE,
    ZERO,
    Packed,
    ahead,
    copy_row,
    dot_group,
    row_address,
    zero_rows,
)

# Counters of a call: pieces drawn, pieces packed, tasks or stages drawn, workers begun.
PIECES, PACKED, WORK, WORKERS = (np.int64(i) for i in range(4))


class Packs(NamedTuple):
    """Packed rows of a stage: those of its keys, and in a two-pass backward those of its queries."""

    keys: Packed
    values: Packed
    queries: Packed  # scale * q
    douts: Packed
    minus_lse: int  # address of -lse by packed query
    minus_delta: int  # and of dlse - rowsum(dout * out)


def packs_bytes(key_rows: int, query_rows: int, lines: int, size: int) -> int:
    """Bytes of packed rows; see ``packs_of``."""
    return 2 * (key_rows + query_rows) * lines * LINE + 2 * -(-query_rows * size // LINE) * LINE


@part_njit
def packs_of(job, stage, worker):
    """Where the rows of a stage are packed, if ``worker`` takes it."""
    at, width = job.packs + worker * job.packs_bytes, job.lines * LINE
    values = at + job.key_rows * width
    queries = values + job.key_rows * width
    douts = queries + job.query_rows * width
    minus_lse = douts + job.query_rows * width
    minus_delta = minus_lse + (job.query_rows * job.size + LINE - 1) // LINE * LINE
    key, query = (ZERO, ZERO) if job.whole else (stage.key_row, stage.query_row)
    return Packs(
        Packed(at + key * width, stage.key_rows),
        Packed(values + key * width, stage.key_rows),
        Packed(queries + query * width, stage.query_rows),
        Packed(douts + query * width, stage.query_rows),
        minus_lse + query * job.size,
        minus_delta + query * job.size,
    )


@part_njit
def _pack_keys(one, job, sequence, panel, piece, packs):
    source = sequence.k_row + panel.first - sequence.k_start + piece.start
    k = row_address(job.k, sequence.batch, panel.head, source)
    v = row_address(job.v, sequence.batch, panel.head, source)
    row = panel.row + piece.start
    zero_rows(one, job, packs.keys, row - piece.zeros, piece.zeros)
    zero_rows(one, job, packs.values, row - piece.zeros, piece.zeros)
    for i in range(piece.count):
        copy_row(one, job, k + i * job.k.row, ahead(i, piece.count, job.k.row), packs.keys, row + i, one)
        copy_row(one, job, v + i * job.v.row, ahead(i, piece.count, job.v.row), packs.values, row + i, one)


@part_njit
def minus_lse_and_delta(one, job, b, h, r, later, douts, row, spare, spare_row, eight):
    """-lse and dlse - rowsum(dout * out) of a query; for a row without keys, -inf, which gives p = 0.

    Memory is asked for the row of out ``later`` bytes further on. dout is row ``row`` of ``douts``. The
    sum uses a spare row and ``eight`` numbers, and adds in the same order as dP: if one key has all the
    weight, out is its value, and dP - delta is 0 (in rows of one chunk).
    """
    lse = view(row_address(job.lse, b, h, r), ZERO + 1, one)[0]
    out = row_address(job.out, b, h, r)
    copy_row(one, job, out, later, spare, spare_row, one)
    eight[:] = 0
    two, target = (spare_row, spare_row), np.int64(eight.ctypes.data)
    dot_group(one, ALONE, job, douts, row, spare, two, ZERO, target, ZERO, ZERO + 1, ZERO)
    minus_delta = -eight[0]
    if job.dlse.address != 0:
        minus_delta += view(row_address(job.dlse, b, h, r), ZERO + 1, one)[0]
    return (-lse if lse > -np.inf or lse != lse else lse), minus_delta


@part_njit
def _pack_queries(one, scale, job, sequence, panel, piece, packs, eight):
    """Pack scale * q and dout, and for each query -lse and dlse - rowsum(dout * out)."""
    minus_lse = view(packs.minus_lse, packs.queries.rows, one)
    minus_delta = view(packs.minus_delta, packs.queries.rows, one)
    row = panel.row + piece.start
    zero_rows(one, job, packs.queries, row - piece.zeros, piece.zeros)
    zero_rows(one, job, packs.douts, row - piece.zeros, piece.zeros)
    minus_lse[row - piece.zeros : row] = -np.inf
    minus_delta[row - piece.zeros : row] = 0
    b, h, n = sequence.batch, panel.head, piece.count
    for t in range(n):
        i, r = row + t, sequence.q_row + piece.start + t
        dout, later = row_address(job.dout, b, h, r), ahead(t, n, job.out.row)
        copy_row(one, job, dout, ahead(t, n, job.dout.row), packs.douts, i, one)
        minus_lse[i], minus_delta[i] = minus_lse_and_delta(
            one, job, b, h, r, later, packs.douts, i, packs.queries, i, eight
        )
        q = row_address(job.q, b, h, r)
        copy_row(one, job, q, ahead(t, n, job.q.row), packs.queries, i, scale)


@part_njit
def draw(job, counter):
    """Draw the next number from a counter that the workers of a call share."""
    return atomic_add(job.counters + 8 * counter, ZERO + 1)


@part_njit
def open_scratch(one, job, worker):
    """A worker's scratch: two Slots, and the address of the rest."""
    at = job.scratch + worker * job.scratch_bytes
    return make_slots(one, at), make_slots(one, at + SLOT_BYTES), at + 2 * SLOT_BYTES


@part_njit
def pack_keys(one, job, tables, stage, packs):
    """Pack the keys of a stage."""
    sequence = tables.sequences[stage.sequence]
    for p in range(stage.key_piece, stage.key_piece + stage.key_pieces):
        piece = tables.key_pieces[p]
        _pack_keys(one, job, sequence, tables.key_panels[piece.panel], piece, packs)


@part_njit
def pack_queries(one, scale, job, tables, stage, packs, eight):
    """Pack the queries of a stage; ``eight`` are spare numbers."""
    sequence = tables.sequences[stage.sequence]
    for p in range(stage.query_piece, stage.query_piece + stage.query_pieces):
        piece = tables.query_pieces[p]
        _pack_queries(one, scale, job, sequence, tables.query_panels[piece.panel], piece, packs, eight)


@part_njit
def pack_all_keys(one, job, tables):
    """Pack the keys of all stages, together with the other workers; return the first number past them."""
    while True:
        p = draw(job, PIECES)
        if p >= tables.key_pieces.size:
            return p
        piece = tables.key_pieces[p]
        panel = tables.key_panels[piece.panel]
        stage = tables.stages[panel.stage]
        _pack_keys(one, job, tables.sequences[stage.sequence], panel, piece, packs_of(job, stage, ZERO))
        draw(job, PACKED)


@part_njit
def pack_all_queries(one, scale, job, tables, p, eight):
    """Pack the queries of all stages from number ``p`` on, as returned by ``pack_all_keys``."""
    while p - tables.key_pieces.size < tables.query_pieces.size:
        piece = tables.query_pieces[p - tables.key_pieces.size]
        panel = tables.query_panels[piece.panel]
        stage = tables.stages[panel.stage]
        sequence, packs = tables.sequences[stage.sequence], packs_of(job, stage, ZERO)
        _pack_queries(one, scale, job, sequence, panel, piece, packs, eight)
        draw(job, PACKED)
        p = draw(job, PIECES)


@part_njit
def wait(job, pieces):
    """Wait until the other workers have packed the pieces they drew."""
    turn = ZERO
    while atomic_add(job.counters + 8 * PACKED, ZERO) < pieces:
        turn = pause(turn)


@part_njit
def draw_tasks(job, tables):
    """Draw work: the numbers of its tasks, from the first to before the last; none if nothing is left.

    It is one task, or all of a stage.
    """
    number = draw(job, WORK)
    while job.whole and number < tables.stages.size and tables.stages[number].tasks == 0:
        number = draw(job, WORK)
    if not job.whole:
        return min(number, tables.tasks.size), min(number + 1, tables.tasks.size)
    if number >= tables.stages.size:
        return ZERO, ZERO
    stage = tables.stages[number]
    return stage.task, stage.task + stage.tasks
