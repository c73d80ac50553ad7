"""Backward in two passes: dq by blocks of queries, dk and dv by blocks of keys.

The transpose of a pattern has the same offsets: query i reads the keys i - d, and key j is read by the
queries j + d. So dk and dv use the same building blocks as the forward.
"""

from __future__ import annotations

from primeattn.compiled.handover import enter, leave
from primeattn.compiled.jit import cached_njit, part_njit
from primeattn.compiled.unowned import unowned
from primeattn.kernels.cpu.forward import split_scratch
from primeattn.kernels.cpu.packing import (
    WORKERS,
    draw,
    draw_tasks,
    open_scratch,
    pack_all_keys,
    pack_all_queries,
    pack_keys,
    pack_queries,
    packs_of,
    wait,
)
from primeattn.kernels.cpu.slots import key_tile, query_tile
from primeattn.kernels.cpu.terms import (
    add_sums_in_turn,
    add_tile,
    begin_sums,
    drop_keys_of_queries,
    drop_queries_of_keys,
    open_room,
    sum_tile,
    terms_of_keys,
    terms_of_queries,
    through_cap,
)
from primeattn.kernels.cpu.tiles import (
    ALONE,
    RUN,
    ZERO,
    axpys,
    carry,
    dots,
    exp_product,
    fill_by_slot,
    mask,
    row_address,
    write_row,
    zero_rows,
)


@part_njit
def _backward_query_block(one, scale, job, tables, terms, task, packs, slots, spare, scratch, room):
    """dq of one block of queries: P = exp(s - lse), dS = P * (dP - delta), dq = scale * dS k."""
    sequence, route = tables.sequences[task.sequence], tables.routes[task.sequence, task.head]
    keys, values, queries, douts = packs.keys, packs.values, packs.queries, packs.douts
    dq, total, _, _, s, ds = split_scratch(job, scratch)
    n, b, h = task.count, sequence.batch, task.head
    at = tables.query_panels[route.queries].row + task.first
    minus_lse, minus_delta = packs.minus_lse + at * job.size, packs.minus_delta + at * job.size
    zero_rows(one, job, dq, ZERO, n)
    t, position = ZERO, sequence.q_start + task.first
    if terms is not None:
        begin_sums(terms, room, task.sequence, h)
    while True:
        groups, moving, offset, fixed = query_tile(slots, tables, route, t, position, n)
        if groups == 0:
            break
        if t > 0 and t % RUN == 0:
            carry(one, job, total, dq, n, t == RUN)
        dots(one, ALONE, job, queries, at, keys, slots, groups, moving, s, n, False)
        dots(one, ALONE, job, douts, at, values, slots, groups, moving, ds, n, False)
        tile = slots, route, groups, moving, offset, fixed
        if terms is not None:
            terms_of_queries(one, ALONE, job, tables, terms, room, room.rates, h, tile, position, s, n)
            at_tile = task.sequence, h, tile, position
            drop_keys_of_queries(one, ALONE, job, tables, terms, room, *at_tile, ds, n)
        exp_product(one, job, s, ds, groups, n, minus_lse, minus_delta, job.size)
        mask(one, ALONE, job, slots, groups, ds, n, 0.0)
        if terms is not None:
            sum_tile(one, job, terms, room, task.sequence, h, tile, ds, n)
            through_cap(one, job, terms, room, slots, groups, ds, n)
        axpys(one, ALONE, job, dq, ZERO, keys, slots, spare, groups, moving, ds, n)
        t += 1
    if t > RUN:
        carry(one, job, total, dq, n, False)
        dq = total
    for r in range(n):
        row = sequence.q_row + task.first + r
        write_row(one, job, dq, r, row_address(job.dq, b, h, row), scale)
    if terms is not None:  # blocks are drawn from the last to the first
        turn = (sequence.n_q - 1) // job.block - task.first // job.block
        add_sums_in_turn(terms, room, task.sequence, h, turn)


@part_njit
def _backward_key_block(one, job, tables, terms, task, packs, slots, spare, scratch, room):
    """dk and dv of one block of keys, over all query heads that read it: dv = Pᵀ dout, dk = dSᵀ (scale q)."""
    sequence = tables.sequences[task.sequence]
    keys, values, queries, douts = packs.keys, packs.values, packs.queries, packs.douts
    dk, dv, total_dk, total_dv, s, ds = split_scratch(job, scratch)
    zero = packs.minus_delta  # 0 for the rows before the first panel
    zero_rows(one, job, dk, ZERO, task.count)
    zero_rows(one, job, dv, ZERO, task.count)
    begin, tiles = sequence.k_start + task.first, ZERO
    for head in range(task.head * job.heads_per_key, (task.head + 1) * job.heads_per_key):
        route = tables.routes[task.sequence, head]
        for by_offset in (True, False):
            panel = tables.key_panels[route.keys if by_offset else route.globals]
            first = max(begin, panel.first)
            n = min(begin + task.count, panel.first + panel.count) - first
            if n <= 0:
                continue
            at = panel.row + first - panel.first
            t = ZERO
            while True:
                groups, moving, offset, fixed = key_tile(slots, tables, route, t, first, n, by_offset)
                if groups == 0:
                    break
                if tiles > 0 and tiles % RUN == 0:
                    carry(one, job, total_dk, dk, task.count, tiles == RUN)
                    carry(one, job, total_dv, dv, task.count, tiles == RUN)
                if terms is None:
                    fill_by_slot(one, job, packs.minus_lse, slots, groups, moving, s, n)
                    dots(one, ALONE, job, keys, at, queries, slots, groups, moving, s, n, True)
                else:
                    dots(one, ALONE, job, keys, at, queries, slots, groups, moving, s, n, False)
                    tile = slots, route, groups, moving, offset, fixed
                    terms_of_keys(one, job, tables, terms, room, head, tile, first, s, n)
                    fill_by_slot(one, job, packs.minus_lse, slots, groups, moving, ds, n)
                    add_tile(one, job, s, ds, groups, n)
                if terms is None or terms.drops.size == 0:
                    fill_by_slot(one, job, packs.minus_delta, slots, groups, moving, ds, n)
                    dots(one, ALONE, job, values, at, douts, slots, groups, moving, ds, n, True)
                else:
                    dots(one, ALONE, job, values, at, douts, slots, groups, moving, ds, n, False)
                    drop_queries_of_keys(
                        one, job, tables, terms, room, task.sequence, head, tile, first, ds, n
                    )
                    fill_by_slot(one, job, packs.minus_delta, slots, groups, moving, room.spare, n)
                    add_tile(one, job, ds, room.spare, groups, n)
                exp_product(one, job, s, ds, groups, n, zero, zero, ZERO)
                mask(one, ALONE, job, slots, groups, s, n, 0.0)
                mask(one, ALONE, job, slots, groups, ds, n, 0.0)
                if terms is not None:
                    through_cap(one, job, terms, room, slots, groups, ds, n)
                    drop_queries_of_keys(
                        one, job, tables, terms, room, task.sequence, head, tile, first, s, n
                    )
                axpys(one, ALONE, job, dv, first - begin, douts, slots, spare, groups, moving, s, n)
                axpys(one, ALONE, job, dk, first - begin, queries, slots, spare, groups, moving, ds, n)
                t, tiles = t + 1, tiles + 1
    if tiles > RUN:
        carry(one, job, total_dk, dk, task.count, False)
        carry(one, job, total_dv, dv, task.count, False)
        dk, dv = total_dk, total_dv
    b, h = sequence.batch, task.head
    for r in range(task.count):
        row = sequence.k_row + task.first + r
        write_row(one, job, dk, r, row_address(job.dk, b, h, row), one)
        write_row(one, job, dv, r, row_address(job.dv, b, h, row), one)


@cached_njit
def backward(one, scale, jobs, tables, terms, word, helps):
    """Fill dq, dk and dv; ``one`` is 1 in the working dtype, and scale has that dtype too."""
    if not enter(word, helps):
        return
    job, tables, given = jobs[0], unowned(tables), unowned(terms)
    worker = draw(job, WORKERS)
    slots, spare, scratch = open_scratch(one, job, worker)
    room = open_room(one, job, given, worker)
    if not job.whole:
        pack_all_queries(one, scale, job, tables, pack_all_keys(one, job, tables), slots.start)
        wait(job, tables.key_pieces.size + tables.query_pieces.size)
    while True:
        first, last = draw_tasks(job, tables)
        if first == last:
            break
        stage = tables.stages[tables.tasks[first].stage]
        packs = packs_of(job, stage, worker)
        if job.whole:
            pack_keys(one, job, tables, stage, packs)
            pack_queries(one, scale, job, tables, stage, packs, slots.start)
        for t in range(first, last):
            task = tables.tasks[t]
            if task.keys:
                _backward_key_block(one, job, tables, given, task, packs, slots, spare, scratch, room)
            else:
                _backward_query_block(
                    one, scale, job, tables, given, task, packs, slots, spare, scratch, room
                )
    leave(word, helps)
