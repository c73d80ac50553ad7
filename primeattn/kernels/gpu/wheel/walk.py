"""How a block of the wheel kernels goes through what it meets: singles one by one, then tiles.

What is done with a single is a device function ``meet(context, n, ...)``: the kernel's own context, how many
singles were met before, and positions for the thread's two rows, -1 where there is none. What is done with a
tile is ``attend(context, mask, here)``: the bits of the pairs that are attended, and how many bytes the
tile lies behind the first of its kind. The next tile is copied beside work on this one.
"""

from __future__ import annotations

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import entry, row_address
from primeattn.kernels.gpu.tables import lower_bound
from primeattn.kernels.gpu.wheel import tensor
from primeattn.kernels.gpu.wheel.masks import BITS, make_masks
from primeattn.kernels.gpu.wheel.place import WHEEL_ROUTE

__all__ = [
    "LSE_DELTA_BYTES", "make_walk_key_tiles", "make_walk_query_tiles", "make_walk_single_keys",
    "make_walk_single_queries",
]  # fmt: skip

LSE_DELTA_BYTES = 8  # of a query: lse in units of log2(e), delta


def make_walk_single_keys(rows, meet):
    """Device function that meets the keys of a block of ``rows`` queries that are in no tile.

    ``meet(context, n, j0, j1)``. Global tokens come first.
    """

    @device_function
    def walk(context, plan, lists, wheel, place, queries, keys):
        i0, i1 = queries.i0, queries.i1
        latest = min(numba.int32(place.residue + (place.first + rows - 1) * wheel), queries.last)
        count = min(keys.global_tokens, numba.int32(latest + 1))
        for j in range(count):
            meet(context, j, j if j <= i0 else -1, j if j <= i1 else -1)
        begin = entry(plan, keys.route + WHEEL_ROUTE.begin)
        for i in range(lower_bound(lists, begin, entry(plan, keys.route + WHEEL_ROUTE.count), latest + 1)):
            offset = numba.int32(entry(lists, begin + i))
            j0, j1 = numba.int32(i0 - offset), numba.int32(i1 - offset)
            meet(
                context,
                numba.int32(count + i),
                j0 if j0 >= keys.global_tokens else -1,
                j1 if j1 >= keys.global_tokens else -1,
            )

    return walk


def make_walk_single_queries(meet):
    """Device function that meets the queries of a block of keys that are in no tile.

    ``meet(context, n, nearest, i0, i1)``: ``nearest`` is a query there is.
    """

    @device_function
    def walk(context, plan, lists, keys, queries):
        first, last = queries.first, queries.last
        nearest = min(max(keys.j0, first), last)
        begin = entry(plan, queries.route + WHEEL_ROUTE.begin)
        for i in range(entry(plan, queries.route + WHEEL_ROUTE.count)):
            i0, i1 = keys.j0 + entry(lists, begin + i), keys.j1 + entry(lists, begin + i)
            meet(
                context,
                i,
                nearest,
                i0 if first <= i0 and i0 <= last else -1,
                i1 if first <= i1 and i1 <= last else -1,
            )

    return walk


def make_walk_key_tiles(fragments, rows, columns, attend):
    """Device function that meets the tiles of keys of a block of ``rows`` queries.

    ``walk(context, shared_at, lag, plan, lists, bitmasks, wheel, place, keys, last)``: where shared memory
    has room for two pairs of tiles, where this thread's window begins, the tables, this thread's place, the
    keys of the head, and the last query's position.
    """
    fetch, buffer, wait_copies = fragments.fetch, fragments.buffer, tensor.wait_copies
    masks = make_masks(columns)
    read_window, shift_window = masks.read_window, masks.shift_window
    mask_outside, number_before = masks.mask_outside, masks.number_before
    raw_words, mask_words = columns // BITS + 2, 2 * columns // BITS
    early = columns - 1 if rows % columns else 0  # how far before row 0 a tile that ends behind it may begin

    @device_function
    def walk(context, shared_at, lag, plan, lists, bitmasks, wheel, place, keys, last):
        thread, column = cuda.threadIdx.x, numba.int32(2 * place.c)
        origin, wheel = numba.int32(place.first * wheel), numba.int32(wheel)
        global_tokens = numba.int32(keys.global_tokens)
        table = entry(plan, keys.route + WHEEL_ROUTE.steps) + 2 * place.residue
        steps = entry(lists, table)
        # Tiles that end at row 0 or behind.
        behind = numba.int64(numba.int32(origin + early * wheel + 1)) << 32
        count = numba.int32(lower_bound(lists, steps, entry(lists, table + 1), behind))
        raw = cuda.local.array(raw_words, numba.uint32)
        mask = cuda.local.array(mask_words, numba.uint32)
        stage, start, bit = numba.int32(0), numba.int32(0), numba.int32(0)
        step, following = entry(lists, steps), numba.uint32(steps + 1)
        if count > 0:
            start, bit = numba.int32(origin - (step >> 32)), numba.int32(step + lag)
            fetch(shared_at, keys.k, keys.k_stride, keys.v, keys.v_stride, start, wheel, 0, last, thread)
        step = entry(lists, following)  # of the next tile; the table goes on after the last
        for left in range(count, 0, -1):
            read_window(raw, bitmasks, bit >> 5)
            wait_copies()
            cuda.syncthreads()  # this tile has arrived, and all have done with the one before
            shift_window(mask, raw, lag)
            if start < global_tokens:  # the first columns are global tokens, which have been met, or nothing
                mask_outside(mask, 0, columns + column - number_before(start, wheel, global_tokens))
            stage = numba.int32(2 * buffer - stage)
            if left > 1:
                bit = numba.int32(step + lag)
                start = numba.int32(origin - (step >> 32))
                at = numba.int32(shared_at + stage)
                fetch(at, keys.k, keys.k_stride, keys.v, keys.v_stride, start, wheel, 0, last, thread)
                following = numba.uint32(following + 1)
                step = entry(lists, following)
            attend(context, mask, numba.int32(2 * buffer - stage))

    return walk


def make_walk_query_tiles(fragments, columns, attend):
    """Device function that meets the tiles of queries of a block of keys.

    ``walk(context, shared_at, lag, plan, lists, bitmasks, wheel, place, queries)``: as for keys, with the
    queries of the head. Behind each pair of tiles are lse and delta of its queries.
    """
    fetch, buffer, wait_copies = fragments.fetch, fragments.buffer, tensor.wait_copies
    masks, copy_pair_async = make_masks(columns), tensor.copy_pair_async
    read_window, shift_window = masks.read_window, masks.shift_window
    mask_outside, number_before = masks.mask_outside, masks.number_before
    raw_words, mask_words = columns // BITS + 2, 2 * columns // BITS
    stage_bytes = 2 * buffer + columns * LSE_DELTA_BYTES

    @device_function
    def fetch_all(shared_at, queries, start, wheel, thread):
        q, q_stride, dout, dout_stride = queries.q, queries.q_stride, queries.dout, queries.dout_stride
        first, last = queries.first, queries.last
        fetch(shared_at, q, q_stride, dout, dout_stride, start, wheel, first, last, thread)
        if thread < columns:
            row = numba.int32(min(max(start + thread * wheel, first), last))
            at = numba.int32(shared_at + 2 * buffer + thread * LSE_DELTA_BYTES)
            copy_pair_async(at, row_address(queries.lse_delta, row, queries.lse_delta_stride))

    @device_function
    def walk(context, shared_at, lag, plan, lists, bitmasks, wheel, place, queries):
        thread, column = cuda.threadIdx.x, numba.int32(2 * place.c)
        origin, wheel = numba.int32(place.first * wheel), numba.int32(wheel)
        first, last = queries.first, queries.last
        table = entry(plan, queries.route + WHEEL_ROUTE.key_steps) + 2 * place.residue
        steps, total = entry(lists, table), entry(lists, table + 1)
        # Tiles that begin at the last query or before, and end at the first or behind.
        skipped = lower_bound(lists, steps, total, (first - origin - (columns - 1) * wheel) << 32)
        count = numba.int32(lower_bound(lists, steps, total, (last - origin + 1) << 32) - skipped)
        raw = cuda.local.array(raw_words, numba.uint32)
        mask = cuda.local.array(mask_words, numba.uint32)
        stage, start, bit = numba.int32(0), numba.int32(0), numba.int32(0)
        following = numba.uint32(steps + skipped)
        step = entry(lists, following)
        cuda.syncthreads()  # all have done with the tiles of the head before
        if count > 0:
            start, bit = numba.int32(origin + (step >> 32)), numba.int32(step + lag)
            fetch_all(shared_at, queries, start, wheel, thread)
        for left in range(count, 0, -1):
            read_window(raw, bitmasks, bit >> 5)
            wait_copies()
            cuda.syncthreads()  # this tile has arrived, and all have done with the one before
            shift_window(mask, raw, lag)
            if start < first or numba.int32(start + (columns - 1) * wheel) > last:
                low = number_before(start, wheel, first)
                high = number_before(start, wheel, numba.int32(last + 1))
                mask_outside(mask, low - column, high - column)
            stage = numba.int32(stage_bytes - stage)
            if left > 1:
                following = numba.uint32(following + 1)
                step = entry(lists, following)
                bit, start = numba.int32(step + lag), numba.int32(origin + (step >> 32))
                fetch_all(numba.int32(shared_at + stage), queries, start, wheel, thread)
            attend(context, mask, numba.int32(stage_bytes - stage))

    return walk
