"""What the three gather kernels share: tables, the walk from a row to the rows it meets, the join of splits.

A block is ``threads // lanes`` groups. ``splits`` of them share one row (a query of the forward and of dq, a
key of dk and dv) and take its pairs in turns, a few at a time; their results are joined at the end in a fixed
order. Groups of neighbouring rows walk along the offsets in step, so that what one of them has read is still
in the first-level cache when another needs it. Each block stages the list in shared memory, part by part.
"""

from __future__ import annotations

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.tables import FIELDS, SEQUENCE, lower_bound

__all__ = ["make_walk", "place"]

FAR = 2**31 - 1  # an offset that leads nowhere: stands for those beyond the end of the list


@device_function
def place(plan, tiles):
    """The rows of the block, by a table of tiles: sequence, first row, last row, logarithm of the splits."""
    tile = plan[tiles] + 4 * cuda.blockIdx.x
    first = plan[tile + 1]
    return (
        plan[FIELDS.sequences] + len(SEQUENCE) * plan[tile],
        first,
        first + plan[tile + 2] - 1,
        plan[tile + 3],
    )


def make_walk(threads, chunk, unroll, fold, fold_checked, sign):
    """Device functions ``walk`` and ``walk_columns``: give a row's pairs to ``fold``, ``unroll`` at once.

    ``fold(context, rows, lane)`` gets the numbers of the rows that are met. In ``fold_checked`` a negative
    number stands for none. ``sign`` is 1 where queries meet keys, at i - d, and -1 where keys meet queries:
    positions are negated then, and j + d becomes -j - d.
    """

    @device_function
    def stage(staged, plan, begin, entry, count, every):
        cuda.syncthreads()  # all have read what was there
        for i in range(cuda.threadIdx.x, chunk, threads):
            if entry + i >= count:
                staged[i] = numba.int32(FAR)
            elif every:
                staged[i] = numba.int32(entry + i)
            else:
                staged[i] = numba.int32(plan[begin + entry + i])
        cuda.syncthreads()

    @device_function
    def walk(context, plan, begin, count, every, here, first, last, low, end, origin, splits, split, lane):
        """Rows at ``here - d``, where low <= here - d < end, for the ``count`` offsets d from ``begin`` on.

        With ``every``, the offsets are 0, ..., count - 1. The rows of the block are at ``first`` to ``last``;
        ``origin`` is where row 0 is.
        """
        staged = cuda.shared.array(chunk, numba.int32)
        rows = cuda.local.array(unroll, numba.int32)
        row, stop = numba.int32(sign * here - origin), numba.int32(last - low)
        nearest, farthest = numba.int32(here - end), numba.int32(here - low)  # of the offsets of this row
        entry = max(first - end + 1, 0)
        if not every:
            entry = lower_bound(plan, begin, count, entry)
        going = True
        while going and entry < count:
            stage(staged, plan, begin, entry, count, every)
            for step in range(0, chunk, unroll * splits):
                round_ = numba.uint32(step)
                going = staged[round_] <= stop
                if not going:
                    break
                mine = numba.uint32(step + unroll * split)
                round_end = numba.uint32(step + unroll * splits - 1)
                if staged[round_] > last - end and staged[round_end] <= first - low:
                    for u in range(unroll):
                        rows[u] = numba.int32(row - sign * staged[mine + numba.uint32(u)])
                    fold(context, rows, lane)
                else:
                    for u in range(unroll):
                        offset = staged[mine + numba.uint32(u)]
                        met = offset > nearest and offset <= farthest
                        rows[u] = numba.int32(row - sign * offset) if met else numba.int32(-1)
                    fold_checked(context, rows, lane)
            entry += chunk

    @device_function
    def walk_columns(context, here, begin, end, splits, split, lane):
        """Keys at ``begin`` to ``end`` that are not after ``here``; row 0 is at ``begin``."""
        rows = cuda.local.array(unroll, numba.int32)
        for step in range(begin, end, unroll * splits):
            mine = step + unroll * split
            for u in range(unroll):
                key = mine + u
                rows[u] = numba.int32(key - begin if key < end and key <= here else -1)
            fold_checked(context, rows, lane)

    return walk, walk_columns
