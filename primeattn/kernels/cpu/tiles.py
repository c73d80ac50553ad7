"""Work on one tile: a block of consecutive rows against up to ``SLOTS`` other rows each.

Shapes. A tile has n <= block rows (queries, or keys in the transposed pass). Slot u of row r is the packed
row ``slots.rows[u] + step * r``. In the first ``moving`` groups of slots, step is 1: they are offsets, which
move along with the row. In the others it is 0: they are fixed, like global keys. Slot u exists for the rows
``low[u] <= r < high[u]``. Scores are stored as s[group][block][GROUP], so that the n + (span of the group)
rows that a group of eight slots reads down the block stay in the first-level cache.

Query heads that share their keys and offsets may be computed together. Then q, out and s have a row for each
of them in turn, where one row stands above. ``heads`` is a tuple, ALONE or TWO: its length is known when the
code is compiled.

Rows of float16 or bfloat16 are packed as float32, and rounded where they are written.

Packed rows are *chunk-major*: the first four cache lines of all rows, then the next four, and so on. The
remaining lines form a chunk of two, of one, or both. Columns beyond head_dim are zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.addresses import prefetch, view
from primeattn.compiled.halves import read_bfloat16, read_float16, write_bfloat16, write_float16
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import (
    GROUP,
    LINE,
    axpy8,
    dot8,
    exp_times,
    row_exp,
    row_max,
    scale_lines,
    transpose8,
)

ALONE, TWO = (np.int64(0),), (np.int64(0),) * 2  # heads computed together; only the lengths count
RUN = 4  # tiles that are summed before the sum is carried over: one long chain would lose digits
AHEAD = 8  # rows: so far before a row is copied, memory is asked for it (measured)
ZERO = np.int64(0)  # for calls: each literal number would compile the function again
HALF = 2  # bytes of a number of the caller's, where it has 16 bits
FLOAT16 = 1  # what ``halves`` of a call may be; the other is bfloat16


class Packed(NamedTuple):
    """Chunk-major rows at an address."""

    address: int
    rows: int


@part_njit
def chunk_lines(lines, done):
    """Width of the chunk after ``done`` of ``lines`` cache lines: 4, 2 or 1."""
    left = lines - done
    return 4 if left >= 4 else (2 if left >= 2 else 1)


@part_njit
def chunk_address(packed, done, width, row):
    """Address of a row's chunk of ``width`` lines after ``done`` lines."""
    return packed.address + (done * packed.rows + width * row) * LINE


@part_njit
def row_address(array, b, h, row):
    """Address of a row of one of the caller's arrays; ``array`` is an ARRAY record."""
    return array.address + b * array.batch + h * array.head + row * array.row


@part_njit
def _scale_chunk(one, job, width, given, x, factor, y):
    """y = factor * x, the first ``given`` bytes of a chunk of ``width`` lines."""
    if given < width * LINE:
        source, target = view(x, given // job.size, one), view(y, given // job.size, one)
        for c in range(source.size):
            target[c] = source[c] * factor
    elif width == 4:
        scale_lines(4, one, x, factor, y)
    elif width == 2:
        scale_lines(2, one, x, factor, y)
    else:
        scale_lines(1, one, x, factor, y)


@part_njit
def ahead(r, n, row):
    """Bytes from row r of n to the one to ask for now; 0 near the end. Rows are ``row`` bytes apart."""
    return AHEAD * row if r + AHEAD < n else ZERO


@part_njit
def _copy_halves(one, job, source, packed, row, factor):
    """As ``copy_row``, of numbers of 16 bits."""
    done, left = ZERO, job.head_dim
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        room, target = width * LINE // job.size, chunk_address(packed, done, width, row)
        given = min(room, left)
        if job.halves == FLOAT16:
            read_float16(one, source, factor, target, given)
        else:
            read_bfloat16(one, source, factor, target, given)
        view(target + given * job.size, room - given, one)[:] = 0
        source += HALF * given
        left -= given
        done += width


@part_njit
def copy_row(one, job, source, later, packed, row, factor):
    """Pack ``factor`` times the head_dim numbers at an address, and zeros after them.

    Memory is asked for the row that lies ``later`` bytes further on.
    """
    end = source + job.head_dim * (job.size if job.halves == 0 else HALF)
    for line in range(source + later, end + later, LINE):
        prefetch(line)
    if job.halves != 0:
        _copy_halves(one, job, source, packed, row, factor)
        return
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        given, target = min(width * LINE, end - source), chunk_address(packed, done, width, row)
        _scale_chunk(one, job, width, given, source, factor, target)
        if given < width * LINE:
            view(target + given, (width * LINE - given) // job.size, one)[:] = 0
        source += width * LINE
        done += width


@part_njit
def _write_halves(one, job, packed, row, target, factor):
    """As ``write_row``, rounded to 16 bits."""
    done, left = ZERO, job.head_dim
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        given, source = min(width * LINE // job.size, left), chunk_address(packed, done, width, row)
        if job.halves == FLOAT16:
            write_float16(one, source, factor, target, given)
        else:
            write_bfloat16(one, source, factor, target, given)
        target += HALF * given
        left -= given
        done += width


@part_njit
def write_row(one, job, packed, row, target, factor):
    """Write ``factor`` times the first head_dim numbers of a packed row to an address."""
    if job.halves != 0:
        _write_halves(one, job, packed, row, target, factor)
        return
    end = target + job.head_dim * job.size
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        given, source = min(width * LINE, end - target), chunk_address(packed, done, width, row)
        _scale_chunk(one, job, width, given, source, factor, target)
        target += width * LINE
        done += width


@part_njit
def _eight(rows, first):
    """A group's row numbers as a tuple, whose length sets the number of products."""
    return (
        rows[first],
        rows[first + 1],
        rows[first + 2],
        rows[first + 3],
        rows[first + 4],
        rows[first + 5],
        rows[first + 6],
        rows[first + 7],
    )


@part_njit
def step_of(g, moving):
    """Rows from a slot of group g in one row to the same slot in the next."""
    return ZERO + 1 if g < moving else ZERO


@part_njit
def _few(slots, g, step):
    """Whether a group has at most two slots, both fixed: global keys are often few."""
    return step == 0 and slots.low[g * GROUP + 2] >= slots.high[g * GROUP + 2]


@part_njit
def group_bytes(job):
    """Bytes from one group of a tile to the next; the extra line spreads a row's groups over cache sets."""
    return job.block * GROUP * job.size + LINE


@part_njit
def tile_group(job, s, g):
    """Address of group g of a tile."""
    return s + g * group_bytes(job)


@part_njit
def seen_rows(slots, g, n):
    """Range of the rows for which any slot of a group exists: first, and one past the last."""
    low, high = n, 0
    for u in range(g * GROUP, (g + 1) * GROUP):
        if slots.low[u] < slots.high[u]:
            low, high = min(low, slots.low[u]), max(high, slots.high[u])
    return low, high


@part_njit
def dot_group(one, heads, job, x, x_row, y, rows, step, target, low, high, start):
    """Scores of a group for low <= r < high, added to those at ``start``, or to ``target`` if it is 0."""
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        ys, row = chunk_address(y, done, width, step * low), width * LINE
        xs, count = chunk_address(x, done, width, x_row + low * len(heads)), high - low
        size = GROUP * len(heads) * job.size
        new = target + low * size
        begun = done > 0 or start == 0
        old, stride = (new, size) if begun else (start, ZERO)
        if width == 4:
            dot8(4, one, heads, xs, ys, rows, step * row, old, stride, new, count)
        elif width == 2:
            dot8(2, one, heads, xs, ys, rows, step * row, old, stride, new, count)
        else:
            dot8(1, one, heads, xs, ys, rows, step * row, old, stride, new, count)
        done += width


@part_njit
def dots(one, heads, job, x, x_row, y, slots, groups, moving, s, n, onto):
    """s[g, r, u] = x[x_row + r] · y[slot u of row r], for rows where a slot of the group exists.

    With ``onto``, add to s instead.
    """
    slots.start[:] = 0
    start = ZERO if onto else np.int64(slots.start.ctypes.data)
    for g in range(groups):
        low, high = seen_rows(slots, g, n)
        target = tile_group(job, s, g)
        rows, first, step = slots.rows, g * GROUP, step_of(g, moving)
        if _few(slots, g, step):
            two = rows[first], rows[first + 1]
            dot_group(one, heads, job, x, x_row, y, two, step, target, low, high, start)
        else:
            eight = _eight(rows, first)
            dot_group(one, heads, job, x, x_row, y, eight, step, target, low, high, start)


@part_njit
def axpy_group(one, heads, job, x, x_row, y, rows, first, step, weights, low, high):
    """x[x_row + r] += sum over u of weights[r, u] * y[rows[first + u] + step * r], for low <= r < high."""
    _axpy_group(one, heads, job, x, x_row, y, _eight(rows, first), step, weights, low, high)


@part_njit
def _axpy_group(one, heads, job, x, x_row, y, rows, step, weights, low, high):
    weights += low * len(heads) * GROUP * job.size
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        ys, row = chunk_address(y, done, width, step * low), width * LINE
        xs, count = chunk_address(x, done, width, x_row + low * len(heads)), high - low
        if width == 4:
            axpy8(4, one, heads, xs, ys, rows, step * row, weights, count)
        elif width == 2:
            axpy8(2, one, heads, xs, ys, rows, step * row, weights, count)
        else:
            axpy8(1, one, heads, xs, ys, rows, step * row, weights, count)
        done += width


@part_njit
def axpys(one, heads, job, x, x_row, y, slots, spare, groups, moving, s, n):
    """x[x_row + r] += sum over slots u of s[g, r, u] * y[slot u of row r].

    Slots that do not exist for a row must not be read: their weight is 0, but 0 * NaN is NaN. This concerns
    only fixed slots near the diagonal; moving slots read zero rows there. ``spare`` is room for slots.
    """
    for g in range(groups):
        low, high = seen_rows(slots, g, n)
        weights, first, whole, step = tile_group(job, s, g), g * GROUP, low, step_of(g, moving)
        if step == 0:  # rows from ``whole`` on see all slots but the unused ones
            for u in range(first, first + GROUP):
                if slots.low[u] < slots.high[u]:
                    whole = high if slots.high[u] < high else max(whole, slots.low[u])
        for r in range(low, whole):
            for u in range(GROUP):
                seen = slots.low[first + u] <= r < slots.high[first + u]
                spare.rows[u] = slots.rows[first + u] if seen else 0
            at, row = weights + r * len(heads) * GROUP * job.size, x_row + r * len(heads)
            axpy_group(one, heads, job, x, row, y, spare.rows, ZERO, ZERO, at, ZERO, ZERO + 1)
        if _few(slots, g, step):
            two = slots.rows[first], slots.rows[first + 1]
            _axpy_group(one, heads, job, x, x_row, y, two, step, weights, whole, high)
        else:
            axpy_group(one, heads, job, x, x_row, y, slots.rows, first, step, weights, whole, high)


@part_njit
def zero_rows(one, job, packed, row, count):
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        view(chunk_address(packed, done, width, row), count * width * LINE // job.size, one)[:] = 0
        done += width


@part_njit
def add_rows(one, job, x, x_row, y, y_row, n):
    """x[x_row + r] += y[y_row + r], and y = 0."""
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        size = n * width * LINE // job.size
        total = view(chunk_address(x, done, width, x_row), size, one)
        part = view(chunk_address(y, done, width, y_row), size, one)
        for c in range(size):
            total[c] += part[c]
            part[c] = 0
        done += width


@part_njit
def carry(one, job, total, x, n, first):
    """total[r] += x[r] for n rows, and x = 0; with ``first``, total starts from 0."""
    if first:
        zero_rows(one, job, total, ZERO, n)
    add_rows(one, job, total, ZERO, x, ZERO, n)


@part_njit
def mask(one, heads, job, slots, groups, s, n, value):
    """s = ``value`` where a slot does not exist for a row.

    The computed score may be NaN there: the row read in its place is 0, but 0 * NaN is NaN.
    """
    for g in range(groups):
        low, high = seen_rows(slots, g, n)
        target, rows = tile_group(job, s, g), n * len(heads)
        low, high = low * len(heads), high * len(heads)
        view(target, low * GROUP, one)[:] = value
        view(target + high * GROUP * job.size, (rows - high) * GROUP, one)[:] = value
        scores = view(target, rows * GROUP, one)
        for u in range(GROUP):
            first, last = slots.low[g * GROUP + u] * len(heads), slots.high[g * GROUP + u] * len(heads)
            if first >= last:
                first = last = high
            for r in range(low, first):
                scores[r * GROUP + u] = value
            for r in range(last, high):
                scores[r * GROUP + u] = value


@part_njit
def _scale_row(one, job, x, row, factor):
    done = ZERO
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        at = chunk_address(x, done, width, row)
        _scale_chunk(one, job, width, width * LINE, at, factor, at)
        done += width


@part_njit
def softmax(one, job, out, maxima, sums, s, groups, n):
    """One step of the online softmax: s <- exp(s - m) with the running maxima m; rescale sums and out to m.

    ``maxima`` holds the new ones and, ``block`` numbers further on, the old ones. They begin at the lowest
    finite number, so that s - m is -inf for a masked score in a row that has seen no other. They ignore NaN
    and stay finite; the NaN reaches sums and out through exp.
    """
    stride, new, old = group_bytes(job), maxima[: job.block], maxima[job.block :]
    row_max(one, s, stride, groups, np.int64(new.ctypes.data), n)
    for r in range(n):
        if new[r] > old[r]:
            if sums[r] != 0:
                factor = np.exp(old[r] - new[r])
                sums[r] *= factor
                _scale_row(one, job, out, r, factor)
            old[r] = new[r]
    row_exp(one, s, stride, groups, np.int64(new.ctypes.data), np.int64(sums.ctypes.data), n)


@part_njit
def carry_softmax(one, job, total, out, maxima, sums, n, first):
    """``carry`` for ``softmax``: the sums and maxima of the total come last in ``sums`` and ``maxima``."""
    new, kept = maxima[: job.block], maxima[2 * job.block :]
    total_sums = sums[job.block :]
    for r in range(n):
        if first:
            total_sums[r] = 0
        elif new[r] > kept[r] and total_sums[r] != 0:
            factor = np.exp(kept[r] - new[r])
            total_sums[r] *= factor
            _scale_row(one, job, total, r, factor)
        kept[r] = new[r]
        total_sums[r] += sums[r]
        sums[r] = 0
    carry(one, job, total, out, n, first)


@part_njit
def exp_product(one, job, s, t, groups, n, a, b, step):
    """s <- exp(s + a), t <- exp(s + a) * (t + b) with one number per row at a and b, ``step`` bytes apart."""
    for g in range(groups):
        exp_times(one, tile_group(job, s, g), tile_group(job, t, g), a, b, step, n)


@part_njit
def fill_by_slot(one, job, numbers, slots, groups, moving, s, n):
    """s[g, r, u] = the number of the packed row of slot u of row r, for n rows rounded up to whole eights."""
    for g in range(groups):
        target = tile_group(job, s, g)
        rows = slots.rows[g * GROUP : (g + 1) * GROUP]
        sources = (
            numbers + rows[0] * job.size,
            numbers + rows[1] * job.size,
            numbers + rows[2] * job.size,
            numbers + rows[3] * job.size,
            numbers + rows[4] * job.size,
            numbers + rows[5] * job.size,
            numbers + rows[6] * job.size,
            numbers + rows[7] * job.size,
        )
        if g < moving:
            row = GROUP * job.size
            for r in range(0, n, GROUP):
                transpose8(one, sources, r * job.size, target + r * row, row)
        else:
            tile = view(target, n * GROUP, one)
            for u in range(GROUP):
                number = view(sources[u], 1, one)[0]
                for r in range(n):
                    tile[r * GROUP + u] = number
