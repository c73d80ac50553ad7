"""Work on one tile: a block of consecutive rows against up to ``SLOTS`` other rows each.

Shapes. A tile has n <= block rows (queries, or keys in the transposed pass). Slot u of row r is the packed
row ``slots.rows[u] + step * r``: with step 1 the slots are offsets, which move along with the row; with step
0 they are fixed rows, the global columns. Slot u exists for the rows ``low[u] <= r < high[u]``. Scores lie as
s[group][block][GROUP], so that a group of eight slots can be walked down the block while the rows it reads,
n + (span of the group) of them, stay in the first-level cache.

Packed rows are *chunk-major*: the first four cache lines of all rows, then the next four, and so on; what is
left at the end is a chunk of two lines, of one, or both. Columns beyond head_dim are zero.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from primeattn.kernels.simd import GROUP, LINE, axpy8, dot8, exp_times, row_exp, row_max, transpose8, view


class Packed(NamedTuple):
    """Chunk-major rows at an address."""

    address: int
    rows: int


@njit
def chunk_lines(lines, done):
    """Width of the chunk that starts after ``done`` of ``lines`` cache lines: 4, 2 or 1."""
    left = lines - done
    return 4 if left >= 4 else (2 if left >= 2 else 1)


@njit
def chunk_address(packed, done, width, row):
    """Address of a row's chunk of ``width`` lines that starts after ``done`` lines."""
    return packed.address + (done * packed.rows + width * row) * LINE


@njit
def _sources(packed, done, width, rows, first):
    return (
        chunk_address(packed, done, width, rows[first]),
        chunk_address(packed, done, width, rows[first + 1]),
        chunk_address(packed, done, width, rows[first + 2]),
        chunk_address(packed, done, width, rows[first + 3]),
        chunk_address(packed, done, width, rows[first + 4]),
        chunk_address(packed, done, width, rows[first + 5]),
        chunk_address(packed, done, width, rows[first + 6]),
        chunk_address(packed, done, width, rows[first + 7]),
    )


@njit
def group_bytes(job):
    """Distance of a tile's groups; the extra line keeps a row's groups out of one set of the cache."""
    return job.block * GROUP * job.size + LINE


@njit
def tile_group(job, s, g):
    """Address of group g of a tile."""
    return s + g * group_bytes(job)


@njit
def dots(like, job, x, x_row, y, slots, groups, step, s, n, add):
    """s[g, r, u] (+)= x[x_row + r] · y[slot u of row r]."""
    for g in range(groups):
        target = tile_group(job, s, g)
        done = 0
        while done < job.lines:
            width = chunk_lines(job.lines, done)
            ys = _sources(y, done, width, slots.rows, g * GROUP)
            xs = chunk_address(x, done, width, x_row)
            keep = add or done > 0
            for r in range(n):
                row = r * width * LINE
                if width == 4:
                    dot8(4, like, xs + row, ys, step * row, target + r * GROUP * job.size, keep)
                elif width == 2:
                    dot8(2, like, xs + row, ys, step * row, target + r * GROUP * job.size, keep)
                else:
                    dot8(1, like, xs + row, ys, step * row, target + r * GROUP * job.size, keep)
            done += width


@njit
def axpys(like, job, x, x_row, y, slots, groups, step, s, n):
    """x[x_row + r] += sum over slots u of s[g, r, u] * y[slot u of row r]."""
    for g in range(groups):
        weights = tile_group(job, s, g)
        done = 0
        while done < job.lines:
            width = chunk_lines(job.lines, done)
            ys = _sources(y, done, width, slots.rows, g * GROUP)
            xs = chunk_address(x, done, width, x_row)
            for r in range(n):
                row = r * width * LINE
                if width == 4:
                    axpy8(4, like, xs + row, ys, step * row, weights + r * GROUP * job.size)
                elif width == 2:
                    axpy8(2, like, xs + row, ys, step * row, weights + r * GROUP * job.size)
                else:
                    axpy8(1, like, xs + row, ys, step * row, weights + r * GROUP * job.size)
            done += width


@njit
def axpys_seen(like, job, x, x_row, y, slots, own, groups, step, s, n):
    """As ``axpys``, without reading slots that do not exist for a row: their weight is 0, but 0 * NaN is not.

    Only fixed slots need that, next to the diagonal; moving ones meet zero rows. ``own`` is room for slots.
    """
    ragged = False
    if step == 0:
        for u in range(groups * GROUP):
            ragged |= slots.rows[u] > 0 and (slots.low[u] > 0 or slots.high[u] < n)
    if not ragged:
        axpys(like, job, x, x_row, y, slots, groups, step, s, n)
        return
    for r in range(n):
        for u in range(groups * GROUP):
            own.rows[u] = slots.rows[u] if slots.low[u] <= r < slots.high[u] else 0
        axpys(like, job, x, x_row + r, y, own, groups, 0, s + r * GROUP * job.size, 1)


@njit
def add_rows(like, job, x, x_row, y, y_row, n):
    """x[x_row + r] += y[y_row + r], and y = 0."""
    done = 0
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        size = n * width * LINE // job.size
        total = view(chunk_address(x, done, width, x_row), size, like)
        part = view(chunk_address(y, done, width, y_row), size, like)
        for c in range(size):
            total[c] += part[c]
            part[c] = 0
        done += width


@njit
def hide(like, job, slots, groups, s, n, value):
    """s = ``value`` where a slot does not exist for a row."""
    for u in range(groups * GROUP):
        if slots.low[u] > 0 or slots.high[u] < n:
            first = tile_group(job, s, u // GROUP) + u % GROUP * job.size
            scores = view(first, n * GROUP, like)
            for r in range(min(slots.low[u], n)):
                scores[r * GROUP] = value
            for r in range(max(slots.high[u], 0), n):
                scores[r * GROUP] = value


@njit
def _scale_row(like, job, x, row, factor):
    done = 0
    while done < job.lines:
        width = chunk_lines(job.lines, done)
        numbers = view(chunk_address(x, done, width, row), width * LINE // job.size, like)
        for c in range(numbers.size):
            numbers[c] *= factor
        done += width


@njit
def softmax(like, job, out, maxima, sums, s, groups, n):
    """One step of the online softmax: s <- exp(s - m) with the running maxima m; sums and out follow them.

    The maximum passes over NaN and so stays finite; the NaN reaches sums and out through exp.
    """
    stride = group_bytes(job)
    for r in range(n):
        row = s + r * GROUP * job.size
        best = row_max(like, row, stride, groups, maxima[r])
        if best > maxima[r]:
            if sums[r] != 0:
                factor = np.exp(maxima[r] - best)
                sums[r] *= factor
                _scale_row(like, job, out, r, factor)
            maxima[r] = best
        shift = maxima[r] if maxima[r] > -np.inf else like - like  # 0 where nothing was seen yet
        sums[r] += row_exp(like, row, stride, groups, shift)


@njit
def exp_product(like, job, s, t, groups, n, a, b, step):
    """s <- exp(s + a), t <- exp(s + a) * (t + b) with one number per row at a and b, ``step`` bytes apart."""
    for g in range(groups):
        exp_times(like, tile_group(job, s, g), tile_group(job, t, g), n, a, b, step)


@njit
def fill_by_slot(like, job, numbers, slots, groups, step, s, n):
    """s[g, r, u] = the number, by packed row, of slot u of row r; up to the next multiple of eight rows."""
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
        if step == 1:
            row = GROUP * job.size
            for r in range(0, n, GROUP):
                transpose8(like, sources, r * job.size, target + r * row, row)
        else:
            tile = view(target, n * GROUP, like)
            for u in range(GROUP):
                number = view(sources[u], 1, like)[0]
                for r in range(n):
                    tile[r * GROUP + u] = number
