"""The forward: what one worker of a call does.

Every worker runs the same function. It draws tasks, or whole stages, until none are left; rows are packed
before, see :mod:`.packing`. Each task owns the rows it writes: a block of queries in the forward and for dq,
a block of keys for dk and dv. So no order of sums depends on timing, and results repeat bit for bit for any
number of threads.
"""

from __future__ import annotations

import numpy as np

from primeattn.compiled.addresses import view
from primeattn.compiled.handover import enter, leave
from primeattn.compiled.jit import cached_njit, part_njit
from primeattn.compiled.simd import GROUP, LINE
from primeattn.compiled.unowned import unowned
from primeattn.kernels.cpu.gathering import COPIED, IN_PLACE, copy_tile, fill_unused, find_tile, rows_in_place
from primeattn.kernels.cpu.packing import (
    WORKERS,
    draw,
    draw_tasks,
    open_scratch,
    pack_all_keys,
    pack_keys,
    packs_of,
    wait,
)
from primeattn.kernels.cpu.slots import SLOT_BYTES, SLOTS, query_tile
from primeattn.kernels.cpu.terms import drop_keys_of_queries, open_room, terms_of_queries
from primeattn.kernels.cpu.tiles import (
    RUN,
    ZERO,
    Packed,
    ahead,
    axpys,
    carry_softmax,
    copy_row,
    dots,
    group_bytes,
    mask,
    row_address,
    softmax,
    write_row,
    zero_rows,
)


def scratch_bytes(block: int, lines: int, size: int, gather: bool) -> int:
    """Bytes of a worker's scratch: slots, blocks of rows, two tiles of scores, or one and copies of rows."""
    tile = SLOTS // GROUP * (block * GROUP * size + LINE)
    copied = 2 * block * SLOTS if gather else 0
    rest = max(tile, block * LINE + copied * lines * LINE)
    return 4 * block * lines * LINE + tile + rest + 2 * SLOT_BYTES


@part_njit
def _forward_block(one, heads, scale, job, tables, terms, task, packs, slots, spare, scratch, room):
    """out and lse of one block of queries, of one or more heads."""
    sequence, route = tables.sequences[task.sequence], tables.routes[task.sequence, task.head]
    keys, values = packs.keys, packs.values
    q, out, total, _, s, numbers = split_scratch(job, scratch)
    maxima = view(numbers, 3 * job.block, one)
    sums = view(numbers + 3 * job.block * job.size, 2 * job.block, one)
    copies = numbers + LINE * job.block
    n, b, h, together = task.count, sequence.batch, task.head, len(heads)
    if job.gather == COPIED:
        keys = Packed(copies, SLOTS * job.block)
        values = Packed(copies + keys.rows * job.lines * LINE, keys.rows)
    elif job.gather == IN_PLACE:
        keys = rows_in_place(job, job.k, sequence, h)
        values = rows_in_place(job, job.v, sequence, h)
    rows = n * together
    maxima[:rows] = maxima[job.block : job.block + rows] = np.finfo(maxima.dtype).min
    sums[:rows] = 0
    zero_rows(one, job, out, ZERO, rows)
    for i in range(together):
        for r in range(n):
            at = row_address(job.q, b, h + i, sequence.q_row + task.first + r)
            copy_row(one, job, at, ahead(r, n, job.q.row), q, r * together + i, scale)
    t, position = ZERO, sequence.q_start + task.first
    while True:
        groups, moving, offset, fixed = query_tile(slots, tables, route, t, position, n)
        if groups == 0:
            break
        if t > 0 and t % RUN == 0:
            carry_softmax(one, job, total, out, maxima, sums, rows, t == RUN)
        if job.gather == COPIED:
            copy_tile(one, job, tables, sequence, route, slots, groups, moving, h, n, keys, values)
        elif job.gather == IN_PLACE:
            find_tile(job, tables, sequence, route, slots, groups, moving, keys, values)
            fill_unused(one, job, slots, groups, keys, copies)
        dots(one, heads, job, q, ZERO, keys, slots, groups, moving, s, n, False)
        if terms is not None:
            tile = slots, route, groups, moving, offset, fixed
            terms_of_queries(one, heads, job, tables, terms, room, None, h, tile, position, s, n)
        mask(one, heads, job, slots, groups, s, n, -np.inf)
        softmax(one, job, out, maxima, sums, s, groups, rows)
        if terms is not None:
            at_tile = task.sequence, h, tile, position
            drop_keys_of_queries(one, heads, job, tables, terms, room, *at_tile, s, n)
        if job.gather == IN_PLACE:
            fill_unused(one, job, slots, groups, values, copies)
        axpys(one, heads, job, out, ZERO, values, slots, spare, groups, moving, s, n)
        t += 1
    if t > RUN:
        carry_softmax(one, job, total, out, maxima, sums, rows, False)
        out, sums = total, sums[job.block :]
    for i in range(together):
        for r in range(n):
            row, at = sequence.q_row + task.first + r, r * together + i
            factor = one / sums[at] if sums[at] != 0 else sums[at]
            target = row_address(job.out, b, h + i, row)
            write_row(one, job, out, at, target, factor)
            if job.lse.address != 0:
                lse = view(row_address(job.lse, b, h + i, row), ZERO + 1, one)
                lse[0] = maxima[at] + np.log(sums[at])


@part_njit
def split_scratch(job, scratch):
    """Four blocks of rows and the addresses of two tiles of scores, in a worker's scratch."""
    rows = job.block * job.lines * LINE
    first, second = Packed(scratch, job.block), Packed(scratch + rows, job.block)
    third, fourth = Packed(scratch + 2 * rows, job.block), Packed(scratch + 3 * rows, job.block)
    tile = scratch + 4 * rows
    return first, second, third, fourth, tile, tile + SLOTS // GROUP * group_bytes(job)


@cached_njit
def forward(one, heads, scale, jobs, tables, terms, word, helps):
    """Fill out and lse; ``one`` is 1 in the working dtype, and scale has that dtype too."""
    if not enter(word, helps):
        return
    job, tables, given = jobs[0], unowned(tables), unowned(terms)
    worker = draw(job, WORKERS)
    slots, spare, scratch = open_scratch(one, job, worker)
    room = open_room(one, job, given, worker)
    if not (job.whole or job.gather):
        pack_all_keys(one, job, tables)
        wait(job, tables.key_pieces.size)
    while True:
        first, last = draw_tasks(job, tables)
        if first == last:
            break
        stage = tables.stages[tables.tasks[first].stage]
        packs = packs_of(job, stage, worker)
        if job.whole:
            pack_keys(one, job, tables, stage, packs)
        for t in range(first, last):
            task = tables.tasks[t]
            _forward_block(one, heads, scale, job, tables, given, task, packs, slots, spare, scratch, room)
    leave(word, helps)
