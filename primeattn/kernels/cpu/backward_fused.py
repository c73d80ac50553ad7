"""Backward in one pass: five products per pair where two passes need seven.

The probabilities of a tile and their gradients serve dq, dk and dv at once. Rows of dk and dv then have to
belong to one worker: a task is everything that shares a key head of a sequence, in order, so that results
repeat for any number of threads.

dk and dv of a tile are found by keys. Key row c meets slot u in row r = c - rows[u] of the block, so the
weights of eight slots are shifted against each other: they are turned into columns, one per slot with zeros
around, and read back as rows at eight shifts. The rows of q and dout are copied with zero rows around them.
"""

from __future__ import annotations

from typing import NamedTuple

from primeattn.compiled.handover import enter, leave
from primeattn.compiled.jit import cached_njit, part_njit
from primeattn.compiled.simd import GROUP, LINE, transpose8, view
from primeattn.compiled.unowned import unowned
from primeattn.kernels.cpu.packing import (
    TASKS,
    copy_row,
    draw,
    open_scratch,
    pack_keys,
    pack_local,
    query_numbers,
    wait,
    write_row,
)
from primeattn.kernels.cpu.plan import LOCAL_SPACE
from primeattn.kernels.cpu.slots import SLOT_BYTES, SLOTS, Slots, query_tile
from primeattn.kernels.cpu.tiles import (
    RUN,
    ZERO,
    Packed,
    add_rows,
    axpy_group,
    axpys,
    carry,
    dots,
    exp_product,
    group_bytes,
    hide,
    tile_group,
    zero_rows,
)

TERMS = 1024  # of a sum that are added up before the sum is carried over


class Scratch(NamedTuple):
    """A worker's memory. ``q`` and ``dout`` hold a block between a block of zero rows on either side."""

    block: int  # most rows of a block of the sequence at hand
    dq: Packed
    total_dq: Packed
    q: Packed
    dout: Packed
    dk: Packed  # rows of all keys, from row ``block`` on
    dv: Packed
    s: int  # tiles of scores
    ds: int
    minus_lse: int  # numbers by row of the block
    minus_delta: int
    columns: int  # weights by slot, a column of ``span`` numbers each
    zeros: int  # one more column, of zeros
    weights: int  # weights by key row
    total_dk: Packed  # only where sums are long
    total_dv: Packed
    span: int
    panels: int  # of a short sequence


def scratch_bytes(block: int, lines: int, size: int, n_k: int, local: bool, terms: int) -> int:
    """Bytes of one worker's scratch, at the longest sequence; ``terms`` are the most of a row of dk. See
    ``_split``."""
    keys = n_k + 2 * block + GROUP
    rows = 2 * block + 2 * (3 * block + GROUP) + (4 if terms > TERMS else 2) * keys + 2 * LOCAL_SPACE * local
    tiles = 2 * (SLOTS // GROUP) * (block * GROUP * size + LINE)
    numbers = 2 * block + (GROUP + 1) * (3 * block + 2 * GROUP) + GROUP * (2 * block + 2 * GROUP)
    return rows * lines * LINE + tiles + -(-numbers * size // LINE) * LINE + 2 * SLOT_BYTES


@part_njit
def _split(job, scratch, n_q, n_k):
    block, row = min(job.block, (max(n_q, 1) + GROUP - 1) // GROUP * GROUP), job.lines * LINE
    padded, keys, span = 3 * block + GROUP, n_k + 2 * block + GROUP, 3 * block + 2 * GROUP
    dq = scratch + 2 * LOCAL_SPACE * job.local * row
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
        scratch,
    )


@part_njit
def _load_block(like, scale, job, sequence, head, first, n, own, eight):
    """Copy a block of queries into scratch: scale * q, dout, -lse and dlse - rowsum(dout * out).

    Rows of dq and ``eight`` numbers are spare as yet.
    """
    block, b, h = own.block, sequence.batch, head
    minus_lse, minus_delta = view(own.minus_lse, n, like), view(own.minus_delta, n, like)
    for r in range(n):
        row = sequence.q_row + first + r
        copy_row(
            like, job, job.q + b * job.q_batch + h * job.q_head + row * job.q_row, own.q, block + r, scale
        )
        dout = job.dout + b * job.dout_batch + h * job.dout_head + row * job.dout_row
        copy_row(like, job, dout, own.dout, block + r, like)
        minus_lse[r], minus_delta[r] = query_numbers(
            like, job, b, h, row, own.dout, block + r, own.dq, r, eight
        )
    zero_rows(like, job, own.q, block + n, block - n)
    zero_rows(like, job, own.dout, block + n, block - n)


@part_njit
def _turn(like, job, s, own, n):
    """columns[u, block + r] = s[r, u] for the n rows of a group, zeros behind them."""
    row, target = GROUP * job.size, own.columns + own.block * job.size
    sources = (s, s + row, s + 2 * row, s + 3 * row, s + 4 * row, s + 5 * row, s + 6 * row, s + 7 * row)
    for r in range(0, n, GROUP):
        transpose8(like, sources, r * row, target + r * job.size, own.span * job.size)
    for u in range(GROUP):
        view(target + (u * own.span + n) * job.size, own.block - n, like)[:] = 0


@part_njit
def _add_run(like, job, slots, u0, u1, own, shifted, x, shift, y, n):
    """x[shift + c] += sum over slots u0..u1 of weight[c - rows[u]] * y[c - rows[u]], for all key rows c."""
    low, count = slots.rows[u1], slots.rows[u0] - slots.rows[u1] + n
    at = shifted.low  # where each slot's column begins
    for u in range(GROUP):
        if u0 <= u <= u1:
            shifted.rows[u] = own.block + low - slots.rows[u]
            at[u] = own.columns + (u * own.span + shifted.rows[u]) * job.size
        else:  # any row that is seen anyway, at weight 0
            shifted.rows[u], at[u] = own.block + low - slots.rows[u0], own.zeros
    sources = (at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7])
    row = GROUP * job.size
    for c in range(0, count, GROUP):
        transpose8(like, sources, c * job.size, own.weights + c * row, row)
    axpy_group(like, job, x, low + shift, y, shifted.rows, ZERO, ZERO + 1, own.weights, ZERO, count)


@part_njit
def _add_fixed(like, job, slots, own, shifted, x, shift, y):
    """x[shift + rows[u]] += sum over the rows r that see slot u of weight[r] * y[r].

    A global key is read by all queries: its sum is taken block by block, by way of row 0 of x, which is no
    key's. One long chain of additions would lose a digit.
    """
    for u in range(GROUP):
        for r in range(slots.low[u] // GROUP * GROUP, slots.high[u], GROUP):
            for i in range(GROUP):
                shifted.rows[i] = own.block + r + i if r + i >= slots.low[u] else 0
            weights = own.columns + (u * own.span + own.block + r) * job.size
            axpy_group(like, job, x, ZERO, y, shifted.rows, ZERO, ZERO, weights, ZERO, ZERO + 1)
        if slots.low[u] < slots.high[u]:
            add_rows(like, job, x, slots.rows[u] + shift, x, ZERO, ZERO + 1)


@part_njit
def _add_group(like, job, slots, g, step, own, shifted, x, shift, y, n):
    """Add to x what the weights of one group, turned into columns, give it."""
    first = g * GROUP
    group = Slots(slots.rows[first:], slots.low[first:], slots.high[first:], slots.start)
    if step == 0:
        _add_fixed(like, job, group, own, shifted, x, shift, y)
        return
    u = ZERO
    while u < GROUP and group.low[u] < group.high[u]:  # what fills up the last group exists for no row
        end = u
        while end + 1 < GROUP and group.low[end + 1] < group.high[end + 1]:
            if group.rows[u] - group.rows[end + 1] > own.block:
                break  # too far apart for one pass over the keys
            end += 1
        _add_run(like, job, group, u, end, own, shifted, x, shift, y, n)
        u = end + 1


@part_njit
def _backward_key_head(like, scale, job, tables, index, kv_head, slots, shifted, scratch):
    """dk and dv of a sequence and key head, and dq of the query heads that read it."""
    sequence = tables.sequences[index]
    own = _split(job, scratch, sequence.n_q, sequence.n_k)
    keys, values = Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)
    view(own.columns, (GROUP + 1) * own.span, like)[:] = 0
    zero_rows(like, job, own.q, ZERO, own.q.rows)
    zero_rows(like, job, own.dout, ZERO, own.dout.rows)
    zero_rows(like, job, own.dk, ZERO, own.dk.rows)
    zero_rows(like, job, own.dv, ZERO, own.dv.rows)
    b, n_k, terms, carried = sequence.batch, sequence.n_k, ZERO, False
    for head in range(kv_head * job.group, (kv_head + 1) * job.group):
        route = tables.routes[index, head]
        moving, fixed = tables.key_panels[route.keys], tables.key_panels[route.globals]
        offsets = tables.offsets[route.begin : route.end]
        if job.local:
            keys, values = pack_local(like, job, sequence, moving, fixed, own.panels)
        for first in range(0, sequence.n_q, own.block):
            n = min(own.block, sequence.n_q - first)
            if terms > TERMS * sequence.n_q:
                for total, x in ((own.total_dk, own.dk), (own.total_dv, own.dv)):
                    carry(like, job, total, x, own.block + n_k, not carried)
                terms, carried = ZERO, True
            terms += n * offsets.size
            _load_block(like, scale, job, sequence, head, first, n, own, slots.start)
            zero_rows(like, job, own.dq, ZERO, n)
            t = ZERO
            while True:
                groups, step = query_tile(slots, offsets, t, sequence.q_start + first, n, moving, fixed)
                if groups == 0:
                    break
                if t > 0 and t % RUN == 0:
                    carry(like, job, own.total_dq, own.dq, n, t == RUN)
                dots(like, job, own.q, own.block, keys, slots, groups, step, own.s, n, False)
                dots(like, job, own.dout, own.block, values, slots, groups, step, own.ds, n, False)
                exp_product(like, job, own.s, own.ds, groups, n, own.minus_lse, own.minus_delta, job.size)
                hide(like, job, slots, groups, own.s, n, 0.0)
                hide(like, job, slots, groups, own.ds, n, 0.0)
                axpys(like, job, own.dq, ZERO, keys, slots, shifted, groups, step, own.ds, n)
                panel = moving if step == 1 else fixed
                shift = own.block + panel.first - sequence.k_start - panel.row
                for g in range(groups):
                    _turn(like, job, tile_group(job, own.s, g), own, n)
                    _add_group(like, job, slots, g, step, own, shifted, own.dv, shift, own.dout, n)
                    _turn(like, job, tile_group(job, own.ds, g), own, n)
                    _add_group(like, job, slots, g, step, own, shifted, own.dk, shift, own.q, n)
                t += 1
            own_dq = own.dq
            if t > RUN:
                carry(like, job, own.total_dq, own.dq, n, False)
                own_dq = own.total_dq
            dq = job.dq + b * job.dq_batch + head * job.dq_head + (sequence.q_row + first) * job.dq_row
            for r in range(n):
                write_row(like, job, own_dq, r, dq + r * job.dq_row, scale)
    own_dk, own_dv = own.dk, own.dv
    if carried:
        carry(like, job, own.total_dk, own.dk, own.block + n_k, False)
        carry(like, job, own.total_dv, own.dv, own.block + n_k, False)
        own_dk, own_dv = own.total_dk, own.total_dv
    dk = job.dk + b * job.dk_batch + kv_head * job.dk_head + sequence.k_row * job.dk_row
    dv = job.dv + b * job.dv_batch + kv_head * job.dv_head + sequence.k_row * job.dv_row
    for j in range(n_k):
        write_row(like, job, own_dk, own.block + j, dk + j * job.dk_row, like)
        write_row(like, job, own_dv, own.block + j, dv + j * job.dv_row, like)


@cached_njit
def backward(like, scale, jobs, tables, word, helps):
    """Fill dq, dk and dv; ``like`` is 1 in the working dtype, as is the scale."""
    if not enter(word, helps):
        return
    job, tables = jobs[0], unowned(tables)
    if not job.local:
        pack_keys(like, job, tables)
        wait(job, tables.key_pieces.size)
    slots, shifted, scratch = open_scratch(like, job)
    kv_heads = tables.routes.shape[1] // job.group
    while True:
        t = draw(job, TASKS)
        if t >= tables.sequences.size * kv_heads:
            break
        _backward_key_head(like, scale, job, tables, t // kv_heads, t % kv_heads, slots, shifted, scratch)
    leave(word, helps)
