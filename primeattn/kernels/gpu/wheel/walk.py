"""How a block of the wheel kernels goes through its tiles: copies of the next beside work on this one.

What is done with a tile is a device function ``attend(context, mask, here)``: the kernel's own context, the
bits of the pairs that are attended, and by how many bytes the tile lies behind the first place of its kind.
"""

from __future__ import annotations

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import row_address
from primeattn.kernels.gpu.tables import lower_bound
from primeattn.kernels.gpu.wheel import tensor
from primeattn.kernels.gpu.wheel.fragments import WHEEL_HEAD

__all__ = ["STATS_BYTES", "make_walk_keys", "make_walk_queries"]

STATS_BYTES = 8  # of a query: lse in units of log2(e), delta


def make_walk_keys(fragments, columns, attend):
    """Device function that meets the tiles of keys of a block of queries.

    ``walk(context, place, lag, rows, plan, bits, entry, residue, origin, wheel, leading, last)``: where two
    pairs of tiles have room in shared memory, where this thread's window begins, (k, stride, v, stride) of
    the head, its entry in the tables, the block's class, the distance of its first row from the first of the
    class, how many leading keys have been met, and the last query's position.
    """
    fetch, buffer, number_before = fragments.fetch, fragments.buffer, fragments.number_before
    read_window, window, keep = fragments.read_window, fragments.window, fragments.keep
    raw_words, mask_words, wait_copies = columns // 32 + 2, columns // 16, tensor.wait_copies

    @device_function
    def walk(context, place, lag, rows, plan, bits, entry, residue, origin, wheel, leading, last):
        k, k_stride, v, v_stride = rows
        thread, column = cuda.threadIdx.x, numba.int32(2 * (cuda.threadIdx.x & 3))
        table = plan[entry + WHEEL_HEAD.steps] + 2 * residue
        steps = plan[table]
        # Tiles from row 0 on.
        count = numba.int32(lower_bound(plan, steps, plan[table + 1], (origin + 1) << 32))
        raw = cuda.local.array(raw_words, numba.uint32)
        mask = cuda.local.array(mask_words, numba.uint32)
        stage, start, bit = numba.int32(0), numba.int32(0), numba.int32(0)
        step, following = plan[steps], numba.uint32(steps + 1)
        if count > 0:
            start, bit = numba.int32(origin - (step >> 32)), numba.int32(step + lag)
            fetch(place, k, k_stride, v, v_stride, start, wheel, 0, last, thread)
        step = plan[following]  # of the next tile; the table goes on after the last
        for left in range(count, 0, -1):
            read_window(raw, bits, bit >> 5)
            wait_copies()
            cuda.syncthreads()  # this tile has arrived, and all have done with the one before
            window(mask, raw, lag)
            if start < leading:  # the first columns are global tokens, which have been met
                keep(mask, 0, columns + column - number_before(start, wheel, leading))
            stage = numba.int32(2 * buffer - stage)
            if left > 1:
                bit = numba.int32(step + lag)
                start = numba.int32(origin - (step >> 32))
                fetch(place + stage, k, k_stride, v, v_stride, start, wheel, 0, last, thread)
                following = numba.uint32(following + 1)
                step = plan[following]
            attend(context, mask, numba.int32(2 * buffer - stage))

    return walk


def make_walk_queries(fragments, columns, attend):
    """Device function that meets the tiles of queries of a block of keys.

    ``walk(context, place, lag, rows, plan, bits, entry, residue, origin, wheel, before, last)``: as for keys,
    with (q, stride, dout, stride, stats, stride), and the positions of the first and the last query. Behind
    each pair of tiles are the ``stats`` of its queries.
    """
    fetch, buffer, number_before = fragments.fetch, fragments.buffer, fragments.number_before
    read_window, window, keep = fragments.read_window, fragments.window, fragments.keep
    raw_words, mask_words = columns // 32 + 2, columns // 16
    wait_copies, copy_pair_async = tensor.wait_copies, tensor.copy_pair_async
    stage_bytes = 2 * buffer + columns * STATS_BYTES

    @device_function
    def fetch_all(place, rows, start, wheel, before, last, thread):
        q, q_stride, dout, dout_stride, stats, stats_stride = rows
        fetch(place, q, q_stride, dout, dout_stride, start, wheel, before, last, thread)
        if thread < columns:
            row = numba.int32(min(max(start + thread * wheel, before), last))
            at = numba.int32(place + 2 * buffer + thread * STATS_BYTES)
            copy_pair_async(at, row_address(stats, row, stats_stride))

    @device_function
    def walk(context, place, lag, rows, plan, bits, entry, residue, origin, wheel, before, last):
        thread, column = cuda.threadIdx.x, numba.int32(2 * (cuda.threadIdx.x & 3))
        table = plan[entry + WHEEL_HEAD.key_steps] + 2 * residue
        steps = plan[table]
        # Tiles that begin at the last query or before, and end at the first or behind.
        skipped = lower_bound(plan, steps, plan[table + 1], (before - origin - (columns - 1) * wheel) << 32)
        count = numba.int32(lower_bound(plan, steps, plan[table + 1], (last - origin + 1) << 32) - skipped)
        raw = cuda.local.array(raw_words, numba.uint32)
        mask = cuda.local.array(mask_words, numba.uint32)
        stage, start, bit = numba.int32(0), numba.int32(0), numba.int32(0)
        following = numba.uint32(steps + skipped)
        step = plan[following]
        cuda.syncthreads()  # all have done with the tiles of the head before
        if count > 0:
            start, bit = numba.int32(origin + (step >> 32)), numba.int32(step + lag)
            fetch_all(place, rows, start, wheel, before, last, thread)
        for left in range(count, 0, -1):
            read_window(raw, bits, bit >> 5)
            wait_copies()
            cuda.syncthreads()  # this tile has arrived, and all have done with the one before
            window(mask, raw, lag)
            if start < before or numba.int32(start + (columns - 1) * wheel) > last:
                low = number_before(start, wheel, before)
                high = number_before(start, wheel, numba.int32(last + 1))
                keep(mask, low - column, high - column)
            stage = numba.int32(stage_bytes - stage)
            if left > 1:
                following = numba.uint32(following + 1)
                step = plan[following]
                bit, start = numba.int32(step + lag), numba.int32(origin + (step >> 32))
                fetch_all(numba.int32(place + stage), rows, start, wheel, before, last, thread)
            attend(context, mask, numba.int32(stage_bytes - stage))

    return walk
