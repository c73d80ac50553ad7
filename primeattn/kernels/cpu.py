"""CPU kernels: what one worker of a call does, forward and backward.

Every worker runs the same function. It first packs rows (see :mod:`.tiles`) until none is left, waits until
the others have finished theirs, and then draws tasks. Each task owns the rows it writes: a block of queries
in the forward and for dq, a block of keys for dk and dv. So nothing is written twice or summed in an order
that depends on timing, and results repeat bit for bit for any number of threads.

The transpose of a pattern is the same list of offsets read the other way, key j being read by the queries
j + d: dk and dv come from the bricks that the forward is made of.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from primeattn.kernels.jit import cached_njit
from primeattn.kernels.simd import GROUP, LINE, atomic_add, view
from primeattn.kernels.tiles import (
    SLOTS,
    Packed,
    Slots,
    axpys_seen,
    chunk_address,
    chunk_lines,
    dots,
    exp_product,
    fill_by_slot,
    fixed_slots,
    group_bytes,
    hide,
    offset_slots,
    softmax,
)

ARRAYS = ("q", "k", "v", "out", "lse", "dout", "dlse", "dq", "dk", "dv")
_NUMBERS = (
    *("head_dim", "size", "lines"),  # columns of a row, bytes of a number, cache lines of a packed row
    *("group", "block"),  # query heads of a key head, most rows of a block
    "gather",  # 1: copy the rows a tile needs, 0: pack all rows first
    "counters",  # address of four int64: pieces drawn, pieces packed, tasks drawn, workers
    *("keys", "values", "key_rows"),  # packed k and v
    *("queries", "douts", "query_rows"),  # packed scale * q, and dout
    *("minus_lse", "minus_delta"),  # -lse and dlse - rowsum(dout * out), by packed query
    *("scratch", "scratch_bytes"),  # of the first worker; of each
)
# One call in numbers: addresses and strides in bytes, then the rest. Kernels take addresses so that neither
# layout nor read-only flags of the arrays lead to another compilation.
JOB = np.dtype(
    [(name + part, np.int64) for name in ARRAYS for part in ("", "_batch", "_head", "_row")]
    + [(name, np.int64) for name in _NUMBERS]
)


def scratch_bytes(block: int, lines: int, size: int, gather: bool) -> int:
    """Bytes of one worker's scratch: two blocks of rows, two tiles of scores or the rows of a tile."""
    tile = SLOTS // GROUP * (block * GROUP * size + LINE)
    rest = max(tile, 2 * block * LINE + (2 * block * SLOTS * lines * LINE if gather else 0))
    return 2 * block * lines * LINE + tile + rest


@njit
def _copy_row(like, job, source, packed, row, factor):
    end = source + job.head_dim * job.size
    done = 0
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


@njit
def _write_row(like, job, packed, row, target, factor):
    end = target + job.head_dim * job.size
    done = 0
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        given = min(width * LINE, end - target) // job.size
        source = view(chunk_address(packed, done, width, row), given, like)
        numbers = view(target, given, like)
        for c in range(given):
            numbers[c] = source[c] * factor
        target += width * LINE
        done += width


@njit
def _zero_rows(like, job, packed, row, count):
    done = 0
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        view(chunk_address(packed, done, width, row), count * width * LINE // job.size, like)[:] = 0
        done += width


@njit
def _pack_keys(like, job, sequences, panels, piece):
    panel = panels[piece.panel]
    sequence = sequences[panel.sequence]
    keys, values = Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)
    row = panel.row + piece.start
    _zero_rows(like, job, keys, row - piece.zeros, piece.zeros)
    _zero_rows(like, job, values, row - piece.zeros, piece.zeros)
    source = sequence.k_row + panel.first - sequence.k_start + piece.start
    k = job.k + sequence.batch * job.k_batch + panel.head * job.k_head + source * job.k_row
    v = job.v + sequence.batch * job.v_batch + panel.head * job.v_head + source * job.v_row
    for i in range(piece.count):
        _copy_row(like, job, k + i * job.k_row, keys, row + i, like)
        _copy_row(like, job, v + i * job.v_row, values, row + i, like)


@njit
def _pack_queries(like, scale, job, sequences, panels, piece):
    """Pack scale * q and dout, and per query -lse and dlse - rowsum(dout * out)."""
    panel = panels[piece.panel]
    sequence = sequences[panel.sequence]
    queries, douts = Packed(job.queries, job.query_rows), Packed(job.douts, job.query_rows)
    minus_lse = view(job.minus_lse, job.query_rows, like)
    minus_delta = view(job.minus_delta, job.query_rows, like)
    row = panel.row + piece.start
    _zero_rows(like, job, queries, row - piece.zeros, piece.zeros)
    _zero_rows(like, job, douts, row - piece.zeros, piece.zeros)
    minus_lse[row - piece.zeros : row] = 0
    minus_delta[row - piece.zeros : row] = 0
    b, h = sequence.batch, panel.head
    for i in range(piece.count):
        r = sequence.q_row + piece.start + i
        dout = job.dout + b * job.dout_batch + h * job.dout_head + r * job.dout_row
        _copy_row(
            like, job, job.q + b * job.q_batch + h * job.q_head + r * job.q_row, queries, row + i, scale
        )
        _copy_row(like, job, dout, douts, row + i, like)
        lse = view(job.lse + b * job.lse_batch + h * job.lse_head + r * job.lse_row, 1, like)[0]
        minus_lse[row + i] = -lse if lse > -np.inf or lse != lse else lse  # a row without keys has p = 0
        dout_row = view(dout, job.head_dim, like)
        out_row = view(job.out + b * job.out_batch + h * job.out_head + r * job.out_row, job.head_dim, like)
        delta = like - like
        for c in range(job.head_dim):
            delta += dout_row[c] * out_row[c]
        if job.dlse != 0:
            delta -= view(job.dlse + b * job.dlse_batch + h * job.dlse_head + r * job.dlse_row, 1, like)[0]
        minus_delta[row + i] = -delta


@njit
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


@njit
def _query_tile(slots, offsets, t, position, n, moving, fixed):
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
        return offset_slots(slots, offsets, begin, count, -1, base, moving.row, moving.count, n), 1
    first = (t - tiles) * SLOTS
    reach = position - fixed.first
    count = min(SLOTS, min(fixed.count, reach + n) - first)
    return fixed_slots(slots, fixed.row, first, max(count, 0), n, reach, 1), 0


@njit
def _key_tile(slots, offsets, t, position, n, asking, moving):
    """Slots of tile t of the n keys from ``position`` on: the queries that read them, (groups, step).

    Key j of a moving panel is read by the queries j + d, a global key by all queries from its own on.
    """
    base = position - asking.first
    if moving:
        begin = _below(offsets, 1 - base - n) + t * SLOTS
        count = min(SLOTS, _below(offsets, asking.count - base) - begin)
        groups = offset_slots(slots, offsets, begin, max(count, 0), 1, base, asking.row, asking.count, n)
        return groups, 1
    first = max(base, 0) + t * SLOTS
    count = min(SLOTS, asking.count - first)
    return fixed_slots(slots, asking.row, first, max(count, 0), n, base, -1), 0


@njit
def _gather(like, job, sequence, panel, step, slots, groups, head, n, keys, values):
    """Copy the rows that a tile needs, and make its slots mean the copies, side by side for moving slots.

    For a few queries against many keys that is less work than to pack every key.
    """
    first = sequence.k_row + panel.first - sequence.k_start - panel.row
    k = job.k + sequence.batch * job.k_batch + head // job.group * job.k_head
    v = job.v + sequence.batch * job.v_batch + head // job.group * job.v_head
    for u in range(groups * GROUP):
        for r in range(n if step else 1):
            row = u * job.block + r
            if slots.low[u] <= r < slots.high[u] or (step == 0 and slots.low[u] < slots.high[u]):
                source = first + slots.rows[u] + r
                _copy_row(like, job, k + source * job.k_row, keys, row, like)
                _copy_row(like, job, v + source * job.v_row, values, row, like)
            else:
                _zero_rows(like, job, keys, row, 1)
                _zero_rows(like, job, values, row, 1)
        slots.rows[u] = u * job.block


@njit
def _forward_block(like, scale, job, tables, task, slots, own, scratch):
    """out and lse of one block of queries."""
    sequence, route = tables.sequences[task.sequence], tables.routes[task.sequence, task.head]
    moving, fixed = tables.key_panels[route.keys], tables.key_panels[route.globals]
    offsets = tables.offsets[route.begin : route.end]
    keys, values = Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)
    q, out, s, maxima_address = _split(job, scratch)
    maxima = view(maxima_address, job.block, like)
    sums = view(maxima_address + LINE * job.block, job.block, like)
    if job.gather:
        keys = Packed(maxima_address + 2 * LINE * job.block, SLOTS * job.block)
        values = Packed(keys.address + keys.rows * job.lines * LINE, keys.rows)
    n, b, h = task.count, sequence.batch, task.head
    maxima[:] = -np.inf
    sums[:] = 0
    _zero_rows(like, job, out, 0, n)
    for r in range(n):
        row = sequence.q_row + task.first + r
        _copy_row(like, job, job.q + b * job.q_batch + h * job.q_head + row * job.q_row, q, r, scale)
    t = 0
    while True:
        groups, step = _query_tile(slots, offsets, t, sequence.q_start + task.first, n, moving, fixed)
        if groups == 0:
            break
        if job.gather:
            panel = moving if step else fixed
            _gather(like, job, sequence, panel, step, slots, groups, h, n, keys, values)
        dots(like, job, q, 0, keys, slots, groups, step, s, n, False)
        hide(like, job, slots, groups, s, n, -np.inf)
        softmax(like, job, out, maxima, sums, s, groups, n)
        axpys_seen(like, job, out, 0, values, slots, own, groups, step, s, n)
        t += 1
    for r in range(n):
        row = sequence.q_row + task.first + r
        factor = 1 / sums[r] if sums[r] != 0 else sums[r]
        _write_row(
            like, job, out, r, job.out + b * job.out_batch + h * job.out_head + row * job.out_row, factor
        )
        if job.lse != 0:
            lse = view(job.lse + b * job.lse_batch + h * job.lse_head + row * job.lse_row, 1, like)
            lse[0] = maxima[r] + np.log(sums[r])


@njit
def _backward_query_block(like, scale, job, tables, task, slots, own, scratch):
    """dq of one block of queries: P = exp(s - lse), dS = P * (dP - delta), dq = scale * dS k."""
    sequence, route = tables.sequences[task.sequence], tables.routes[task.sequence, task.head]
    moving, fixed = tables.key_panels[route.keys], tables.key_panels[route.globals]
    offsets = tables.offsets[route.begin : route.end]
    keys, values = Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)
    queries, douts = Packed(job.queries, job.query_rows), Packed(job.douts, job.query_rows)
    dq, _, s, ds = _split(job, scratch)
    n, b, h = task.count, sequence.batch, task.head
    at = tables.query_panels[route.queries].row + task.first
    minus_lse, minus_delta = job.minus_lse + at * job.size, job.minus_delta + at * job.size
    _zero_rows(like, job, dq, 0, n)
    t = 0
    while True:
        groups, step = _query_tile(slots, offsets, t, sequence.q_start + task.first, n, moving, fixed)
        if groups == 0:
            break
        dots(like, job, queries, at, keys, slots, groups, step, s, n, False)
        dots(like, job, douts, at, values, slots, groups, step, ds, n, False)
        hide(like, job, slots, groups, s, n, -np.inf)
        hide(like, job, slots, groups, ds, n, 0)
        exp_product(like, job, s, ds, groups, n, minus_lse, minus_delta, job.size)
        axpys_seen(like, job, dq, 0, keys, slots, own, groups, step, ds, n)
        t += 1
    for r in range(n):
        row = sequence.q_row + task.first + r
        _write_row(like, job, dq, r, job.dq + b * job.dq_batch + h * job.dq_head + row * job.dq_row, scale)


@njit
def _backward_key_block(like, job, tables, task, slots, own, scratch):
    """dk and dv of one block of keys, over all query heads that read it: dv = Pᵀ dout, dk = dSᵀ (scale q)."""
    sequence = tables.sequences[task.sequence]
    keys, values = Packed(job.keys, job.key_rows), Packed(job.values, job.key_rows)
    queries, douts = Packed(job.queries, job.query_rows), Packed(job.douts, job.query_rows)
    dk, dv, s, ds = _split(job, scratch)
    zero = job.minus_delta  # of the rows before the first panel
    _zero_rows(like, job, dk, 0, task.count)
    _zero_rows(like, job, dv, 0, task.count)
    begin = sequence.k_start + task.first
    for head in range(task.head * job.group, (task.head + 1) * job.group):
        route = tables.routes[task.sequence, head]
        asking = tables.query_panels[route.queries]
        offsets = tables.offsets[route.begin : route.end]
        for moving in (True, False):
            panel = tables.key_panels[route.keys if moving else route.globals]
            first = max(begin, panel.first)
            n = min(begin + task.count, panel.first + panel.count) - first
            if n <= 0:
                continue
            at = panel.row + first - panel.first
            t = 0
            while True:
                groups, step = _key_tile(slots, offsets, t, first, n, asking, moving)
                if groups == 0:
                    break
                fill_by_slot(like, job, job.minus_lse, slots, groups, step, s, n)
                fill_by_slot(like, job, job.minus_delta, slots, groups, step, ds, n)
                dots(like, job, keys, at, queries, slots, groups, step, s, n, True)
                dots(like, job, values, at, douts, slots, groups, step, ds, n, True)
                hide(like, job, slots, groups, s, n, -np.inf)
                hide(like, job, slots, groups, ds, n, 0)
                exp_product(like, job, s, ds, groups, n, zero, zero, 0)
                axpys_seen(like, job, dv, first - begin, douts, slots, own, groups, step, s, n)
                axpys_seen(like, job, dk, first - begin, queries, slots, own, groups, step, ds, n)
                t += 1
    b, h = sequence.batch, task.head
    for r in range(task.count):
        row = sequence.k_row + task.first + r
        _write_row(like, job, dk, r, job.dk + b * job.dk_batch + h * job.dk_head + row * job.dk_row, like)
        _write_row(like, job, dv, r, job.dv + b * job.dv_batch + h * job.dv_head + row * job.dv_row, like)


@njit
def _split(job, scratch):
    """Two blocks of rows and the addresses of two tiles of scores, in a worker's scratch."""
    rows = job.block * job.lines * LINE
    tile = SLOTS // GROUP * group_bytes(job)
    first, second = Packed(scratch, job.block), Packed(scratch + rows, job.block)
    return first, second, scratch + 2 * rows, scratch + 2 * rows + tile


@njit
def _make_slots():
    return Slots(np.empty(SLOTS, np.int64), np.empty(SLOTS, np.int64), np.empty(SLOTS, np.int64))


@njit
def _draw(job, counter):
    """The next number of one of the counters that the workers of a call share."""
    return atomic_add(job.counters + 8 * counter, 1)


@njit
def _packed(job, pieces):
    """Whether all pieces are packed; what others have drawn they are working on."""
    return atomic_add(job.counters + 8, 0) >= pieces


@cached_njit
def forward(like, scale, jobs, tables):
    """Fill out and lse; ``like`` is 1 in the working dtype, as is the scale."""
    job = jobs[0]
    pieces, tasks = tables.key_pieces, tables.query_tasks
    while not job.gather:
        p = _draw(job, 0)
        if p >= pieces.size:
            break
        _pack_keys(like, job, tables.sequences, tables.key_panels, pieces[p])
        atomic_add(job.counters + 8, 1)
    while not (job.gather or _packed(job, pieces.size)):
        pass
    slots, own = _make_slots(), _make_slots()
    scratch = job.scratch + _draw(job, 3) * job.scratch_bytes
    while True:
        t = _draw(job, 2)
        if t >= tasks.size:
            break
        _forward_block(like, scale, job, tables, tasks[t], slots, own, scratch)


@cached_njit
def backward(like, scale, jobs, tables):
    """Fill dq, dk and dv; ``like`` is 1 in the working dtype, as is the scale."""
    job = jobs[0]
    key_pieces, query_pieces = tables.key_pieces, tables.query_pieces
    pieces = key_pieces.size + query_pieces.size
    while True:
        p = _draw(job, 0)
        if p >= pieces:
            break
        if p < key_pieces.size:
            _pack_keys(like, job, tables.sequences, tables.key_panels, key_pieces[p])
        else:
            piece = query_pieces[p - key_pieces.size]
            _pack_queries(like, scale, job, tables.sequences, tables.query_panels, piece)
        atomic_add(job.counters + 8, 1)
    while not _packed(job, pieces):
        pass
    slots, own = _make_slots(), _make_slots()
    scratch = job.scratch + _draw(job, 3) * job.scratch_bytes
    key_tasks, query_tasks = tables.key_tasks, tables.query_tasks
    while True:
        t = _draw(job, 2)
        if t >= key_tasks.size + query_tasks.size:
            break
        if t < key_tasks.size:
            _backward_key_block(like, job, tables, key_tasks[t], slots, own, scratch)
        else:
            _backward_query_block(
                like, scale, job, tables, query_tasks[t - key_tasks.size], slots, own, scratch
            )
