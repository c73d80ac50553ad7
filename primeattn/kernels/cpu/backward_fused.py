"""Backward in one pass: five products per pair, where two passes need seven.

The probabilities of a tile and their gradients serve dq, dk and dv at once. So each row of dk and dv must
belong to one worker: it takes whole stages, each in a fixed order, so that results repeat for any number of
threads.

dk and dv of a tile are computed key by key. Key row c meets slot u in row r = c - rows[u] of the block, so
the weights of eight slots are shifted against each other: they are transposed to columns, one per slot with
zeros around, and read back as rows at eight shifts. Copies of q and dout have zero rows around them.
"""

from __future__ import annotations

from typing import NamedTuple

from primeattn.compiled.addresses import view
from primeattn.compiled.handover import enter, leave
from primeattn.compiled.jit import cached_njit, part_njit
from primeattn.compiled.simd import GROUP, LINE, transpose8
from primeattn.compiled.unowned import unowned
from primeattn.kernels.cpu.packing import (
    WORK,
    WORKERS,
    draw,
    minus_lse_and_delta,
    open_scratch,
    pack_keys,
    packs_of,
)
from primeattn.kernels.cpu.slots import SLOT_BYTES, SLOTS, Slots, query_tile
from primeattn.kernels.cpu.terms import (
    add_sums,
    begin_sums,
    drop_keys_of_queries,
    open_room,
    sum_tile,
    terms_of_queries,
    through_cap,
)
from primeattn.kernels.cpu.tiles import (
    ALONE,
    RUN,
    ZERO,
    Packed,
    add_rows,
    ahead,
    axpy_group,
    axpys,
    carry,
    copy_row,
    dots,
    exp_product,
    group_bytes,
    mask,
    row_address,
    step_of,
    tile_group,
    write_row,
    zero_rows,
)

ADDED = 1024  # numbers that are added up before the sum is carried over


class Scratch(NamedTuple):
    """A worker's memory. ``q`` and ``dout`` hold a block, with a block of zero rows on either side."""

    block: int  # most rows in a block of this sequence
    dq: Packed
    total_dq: Packed
    q: Packed
    dout: Packed
    dk: Packed  # rows of all keys, from row ``block`` on
    dv: Packed
    s: int  # tiles of scores
    ds: int
    minus_lse: int  # one number per row of the block
    minus_delta: int
    columns: int  # weights by slot, a column of ``span`` numbers each
    zeros: int  # one more column, of zeros
    weights: int  # weights by key row
    total_dk: Packed  # only where sums are long
    total_dv: Packed
    span: int


def scratch_bytes(block: int, lines: int, size: int, n_k: int, added: int) -> int:
    """Bytes of one worker's scratch for the longest sequence; a row of dk adds up at most ``added``
    numbers. See ``_split``."""
    keys = n_k + 2 * block + GROUP
    rows = 2 * block + 2 * (3 * block + GROUP) + (4 if added > ADDED else 2) * keys
    tiles = 2 * (SLOTS // GROUP) * (block * GROUP * size + LINE)
    numbers = 2 * block + (GROUP + 1) * (3 * block + 2 * GROUP) + GROUP * (2 * block + 2 * GROUP)
    return rows * lines * LINE + tiles + -(-numbers * size // LINE) * LINE + 2 * SLOT_BYTES


@part_njit
def _split(job, scratch, n_q, n_k):
    block, row = min(job.block, (max(n_q, 1) + GROUP - 1) // GROUP * GROUP), job.lines * LINE
    padded, keys, span = 3 * block + GROUP, n_k + 2 * block + GROUP, 3 * block + 2 * GROUP
    dq = scratch
    q = dq + 2 * block * row
    dout = q + padded * row
    dk = dout + padded * row
    dv = dk + keys * row
    s = dv + keys * row
    ds = s + SLOTS // GROUP * group_bytes(job)
    numbers = ds + SLOTS // GROUP * group_bytes(job)
    columns = numbers + 2 * block * job.size
    zeros = columns + GROUP * span * job.size
    weights = zeros + span * job.size
    end = -(-(weights + GROUP * (2 * block + 2 * GROUP) * job.size) // LINE) * LINE
    return Scratch(
        block,
        Packed(dq, block),
        Packed(dq + block * row, block),
        Packed(q, padded),
        Packed(dout, padded),
        Packed(dk, keys),
        Packed(dv, keys),
        s,
        ds,
        numbers,
        numbers + block * job.size,
        columns,
        zeros,
        weights,
        Packed(end, keys),
        Packed(end + keys * row, keys),
        span,
    )


@part_njit
def _load_block(one, scale, job, sequence, head, first, n, room, eight):
    """Copy a block of queries into scratch: scale * q, dout, -lse and dlse - rowsum(dout * out).

    Rows of dq and ``eight`` are still free here and hold temporary values.
    """
    block, b, h = room.block, sequence.batch, head
    minus_lse, minus_delta = view(room.minus_lse, n, one), view(room.minus_delta, n, one)
    for r in range(n):
        row = sequence.q_row + first + r
        q, later = row_address(job.q, b, h, row), ahead(r, n, job.out.row)
        copy_row(one, job, q, ahead(r, n, job.q.row), room.q, block + r, scale)
        dout = row_address(job.dout, b, h, row)
        copy_row(one, job, dout, ahead(r, n, job.dout.row), room.dout, block + r, one)
        minus_lse[r], minus_delta[r] = minus_lse_and_delta(
            one, job, b, h, row, later, room.dout, block + r, room.dq, r, eight
        )
    zero_rows(one, job, room.q, block + n, block - n)
    zero_rows(one, job, room.dout, block + n, block - n)


@part_njit
def _transpose(one, job, s, room, n):
    """columns[u, block + r] = s[r, u] for the n rows of a group, zeros after them."""
    row, target = GROUP * job.size, room.columns + room.block * job.size
    sources = (s, s + row, s + 2 * row, s + 3 * row, s + 4 * row, s + 5 * row, s + 6 * row, s + 7 * row)
    for r in range(0, n, GROUP):
        transpose8(one, sources, r * row, target + r * job.size, room.span * job.size)
    for u in range(GROUP):
        view(target + (u * room.span + n) * job.size, room.block - n, one)[:] = 0


@part_njit
def _add_run(one, job, slots, u0, u1, room, shifted, x, shift, y, n):
    """x[shift + c] += sum over slots u0..u1 of weight[c - rows[u]] * y[c - rows[u]], for all key rows c."""
    low, count = slots.rows[u1], slots.rows[u0] - slots.rows[u1] + n
    at = shifted.low  # where each slot's column begins
    for u in range(GROUP):
        if u0 <= u <= u1:
            shifted.rows[u] = room.block + low - slots.rows[u]
            at[u] = room.columns + (u * room.span + shifted.rows[u]) * job.size
        else:  # any row that is read anyway, at weight 0
            shifted.rows[u], at[u] = room.block + low - slots.rows[u0], room.zeros
    sources = (at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7])
    row = GROUP * job.size
    for c in range(0, count, GROUP):
        transpose8(one, sources, c * job.size, room.weights + c * row, row)
    axpy_group(one, ALONE, job, x, low + shift, y, shifted.rows, ZERO, ZERO + 1, room.weights, ZERO, count)


@part_njit
def _add_globals(one, job, slots, room, shifted, x, shift, y):
    """x[shift + rows[u]] += sum over the rows r that see slot u of weight[r] * y[r].

    All queries read a global key: its sum is taken block by block in row 0 of x, which belongs to no key.
    One long chain of additions would lose a digit.
    """
    for u in range(GROUP):
        for r in range(slots.low[u] // GROUP * GROUP, slots.high[u], GROUP):
            for i in range(GROUP):
                shifted.rows[i] = room.block + r + i if r + i >= slots.low[u] else 0
            weights = room.columns + (u * room.span + room.block + r) * job.size
            axpy_group(one, ALONE, job, x, ZERO, y, shifted.rows, ZERO, ZERO, weights, ZERO, ZERO + 1)
        if slots.low[u] < slots.high[u]:
            add_rows(one, job, x, slots.rows[u] + shift, x, ZERO, ZERO + 1)


@part_njit
def _add_group(one, job, slots, g, step, room, shifted, x, shift, y, n):
    """Add to x the contribution of one group, whose weights are in the columns."""
    first = g * GROUP
    group = Slots(slots.rows[first:], slots.low[first:], slots.high[first:], slots.start)
    if step == 0:
        _add_globals(one, job, group, room, shifted, x, shift, y)
        return
    u = ZERO
    while u < GROUP and group.low[u] < group.high[u]:  # unused slots of the last group exist for no row
        end = u
        while end + 1 < GROUP and group.low[end + 1] < group.high[end + 1]:
            if group.rows[u] - group.rows[end + 1] > room.block:
                break  # too far apart for one pass over the keys
            end += 1
        _add_run(one, job, group, u, end, room, shifted, x, shift, y, n)
        u = end + 1


@part_njit
def _backward_stage(one, scale, job, tables, terms, stage, packs, slots, shifted, scratch, extra):
    """dk and dv of a key head, and dq of the query heads that read it."""
    sequence, kv_head = tables.sequences[stage.sequence], stage.head
    room = _split(job, scratch, sequence.n_q, sequence.n_k)
    keys, values = packs.keys, packs.values
    view(room.columns, (GROUP + 1) * room.span, one)[:] = 0
    zero_rows(one, job, room.q, ZERO, room.q.rows)
    zero_rows(one, job, room.dout, ZERO, room.dout.rows)
    zero_rows(one, job, room.dk, ZERO, room.dk.rows)
    zero_rows(one, job, room.dv, ZERO, room.dv.rows)
    b, n_k, added, carried = sequence.batch, sequence.n_k, ZERO, False
    for head in range(kv_head * job.heads_per_key, (kv_head + 1) * job.heads_per_key):
        route = tables.routes[stage.sequence, head]
        for first in range(0, sequence.n_q, room.block):
            n = min(room.block, sequence.n_q - first)
            if added > ADDED * sequence.n_q:
                for total, x in ((room.total_dk, room.dk), (room.total_dv, room.dv)):
                    carry(one, job, total, x, room.block + n_k, not carried)
                added, carried = ZERO, True
            added += n * (route.end - route.begin)
            _load_block(one, scale, job, sequence, head, first, n, room, slots.start)
            zero_rows(one, job, room.dq, ZERO, n)
            t, position = ZERO, sequence.q_start + first
            if terms is not None:
                begin_sums(terms, extra, stage.sequence, head)
            while True:
                groups, moving, offset, fixed = query_tile(slots, tables, route, t, position, n)
                if groups == 0:
                    break
                if t > 0 and t % RUN == 0:
                    carry(one, job, room.total_dq, room.dq, n, t == RUN)
                dots(one, ALONE, job, room.q, room.block, keys, slots, groups, moving, room.s, n, False)
                dots(one, ALONE, job, room.dout, room.block, values, slots, groups, moving, room.ds, n, False)
                tile = slots, route, groups, moving, offset, fixed
                if terms is not None:
                    rates, s = extra.rates, room.s
                    terms_of_queries(one, ALONE, job, tables, terms, extra, rates, head, tile, position, s, n)
                    at_tile = stage.sequence, head, tile, position
                    drop_keys_of_queries(one, ALONE, job, tables, terms, extra, *at_tile, room.ds, n)
                exp_product(one, job, room.s, room.ds, groups, n, room.minus_lse, room.minus_delta, job.size)
                mask(one, ALONE, job, slots, groups, room.s, n, 0.0)
                mask(one, ALONE, job, slots, groups, room.ds, n, 0.0)
                if terms is not None:
                    sum_tile(one, job, terms, extra, stage.sequence, head, tile, room.ds, n)
                    through_cap(one, job, terms, extra, slots, groups, room.ds, n)
                    drop_keys_of_queries(one, ALONE, job, tables, terms, extra, *at_tile, s, n)
                axpys(one, ALONE, job, room.dq, ZERO, keys, slots, shifted, groups, moving, room.ds, n)
                for g in range(groups):
                    step = step_of(g, moving)
                    panel = tables.key_panels[route.keys if step == 1 else route.globals]
                    shift = room.block + panel.first - sequence.k_start - panel.row
                    _transpose(one, job, tile_group(job, room.s, g), room, n)
                    _add_group(one, job, slots, g, step, room, shifted, room.dv, shift, room.dout, n)
                    _transpose(one, job, tile_group(job, room.ds, g), room, n)
                    _add_group(one, job, slots, g, step, room, shifted, room.dk, shift, room.q, n)
                t += 1
            dq_rows = room.dq
            if t > RUN:
                carry(one, job, room.total_dq, room.dq, n, False)
                dq_rows = room.total_dq
            dq = row_address(job.dq, b, head, sequence.q_row + first)
            for r in range(n):
                write_row(one, job, dq_rows, r, dq + r * job.dq.row, scale)
            if terms is not None:
                add_sums(terms, extra, stage.sequence, head)
    dk_rows, dv_rows = room.dk, room.dv
    if carried:
        carry(one, job, room.total_dk, room.dk, room.block + n_k, False)
        carry(one, job, room.total_dv, room.dv, room.block + n_k, False)
        dk_rows, dv_rows = room.total_dk, room.total_dv
    dk = row_address(job.dk, b, kv_head, sequence.k_row)
    dv = row_address(job.dv, b, kv_head, sequence.k_row)
    for j in range(n_k):
        write_row(one, job, dk_rows, room.block + j, dk + j * job.dk.row, one)
        write_row(one, job, dv_rows, room.block + j, dv + j * job.dv.row, one)


@cached_njit
def backward(one, scale, jobs, tables, terms, word, helps):
    """Fill dq, dk and dv; ``one`` is 1 in the working dtype, and scale has that dtype too."""
    if not enter(word, helps):
        return
    job, tables, given = jobs[0], unowned(tables), unowned(terms)
    worker = draw(job, WORKERS)
    slots, shifted, scratch = open_scratch(one, job, worker)
    extra = open_room(one, job, given, worker)
    while True:
        number = draw(job, WORK)
        if number >= tables.stages.size:
            break
        stage = tables.stages[number]
        packs = packs_of(job, stage, worker)
        pack_keys(one, job, tables, stage, packs)
        _backward_stage(one, scale, job, tables, given, stage, packs, slots, shifted, scratch, extra)
    leave(word, helps)
