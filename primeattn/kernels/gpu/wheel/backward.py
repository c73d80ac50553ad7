"""The backward wheel kernels: dq by blocks of queries; dk and dv by blocks of keys. No atomics.

P = exp(s - lse);  dP = dout·v;  dS = P * (dP - delta), delta = rowsum(dout * out) - dlse
dq = scale * dS k;  dk = scale * dSᵀ q;  dv = Pᵀ dout

Both work like the forward (:mod:`primeattn.kernels.gpu.wheel.forward`): singles come first, then tiles. The
gather kernel serves keys that are global tokens for some head, as all queries meet them.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numba
from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.occupancy import launch_bounds
from primeattn.kernels.gpu.ptx import entry, exp2, row_address, scalar_access
from primeattn.kernels.gpu.tables import FIELDS, SEQUENCE, address
from primeattn.kernels.gpu.wheel import tensor
from primeattn.kernels.gpu.wheel.fragments import make_fragments
from primeattn.kernels.gpu.wheel.place import (
    find_keys,
    find_place,
    find_queries,
    keys_of_head,
    queries_of_head,
)
from primeattn.kernels.gpu.wheel.walk import (
    LSE_DELTA_BYTES,
    make_walk_key_tiles,
    make_walk_query_tiles,
    make_walk_single_keys,
    make_walk_single_queries,
)

__all__ = ["make_wheel_keys", "make_wheel_queries"]


def _make_meet_key(fragments):
    """Device function that adds to dq what one key gives each of a thread's two queries."""
    dot, scale_add = fragments.dot, fragments.scale_add

    @device_function
    def meet(context, n, j0, j1):
        """Keys at positions j0 and j1; where one is negative there is none, and the query's own is read."""
        words, douts, acc, lse_delta, k, k_stride, v, v_stride, i0, i1, scale = context
        for half in range(2):
            j, i = (j1, i1) if half else (j0, i0)
            row = numba.int32(j if j >= 0 else i)
            at = row_address(k, row, k_stride)
            p = exp2(scale * dot(words, half, at) - lse_delta[half])
            ds = p * (dot(douts, half, row_address(v, row, v_stride)) - lse_delta[2 + half])
            scale_add(acc, half, numba.float32(1), ds if j >= 0 else numba.float32(0), at)

    return meet


def _make_attend_keys(fragments, storage, columns):
    """Device function that adds to dq what a tile of keys gives."""
    product, accumulate, pack = fragments.product, fragments.accumulate, tensor.make_pack(storage)
    parts = columns // 32

    @device_function
    def attend(context, mask, here):
        words, douts, acc, lse_delta, scale, keys_at, keys_transposed_at, values_at = context
        keys_at, values_at = numba.int32(keys_at + here), numba.int32(values_at + here)
        keys_transposed_at = numba.int32(keys_transposed_at + here)
        ds = cuda.local.array(8, numba.float32)
        for part in range(columns // 16):
            s, dp = product(words, keys_at, part), product(douts, values_at, part)
            for n in range(2):
                bit = columns - 1 - 16 * part - 8 * n
                for half in range(2):
                    bits = mask[half * parts + bit // 32]
                    for e in range(2):
                        i = 4 * n + 2 * half + e
                        d = exp2(s[i] * scale - lse_delta[half]) * (dp[i] - lse_delta[2 + half])
                        ds[i] = d if bits & numba.uint32(1 << bit % 32 - e) else numba.float32(0)
            a0, a1, a2, a3 = pack(ds[0], ds[1]), pack(ds[2], ds[3]), pack(ds[4], ds[5]), pack(ds[6], ds[7])
            accumulate(acc, a0, a1, a2, a3, keys_transposed_at, part)

    return attend


def make_find_lse_delta():
    """Device function that finds lse and delta of a query, for itself and for the kernel of dk and dv."""
    load_number, store_number = scalar_access("float32")
    log2e = math.log2(math.e)

    @device_function
    def find_lse_delta(found, half, delta, plan, lse_delta, lse, dlse, batch, head, row, writes):
        """To ``found`` at half and 2 + half; ``delta`` is without ``dlse`` yet."""
        if dlse != 0:
            delta -= load_number(address(plan, dlse, FIELDS.dlse, batch, head, row, 0))
        at = address(plan, lse, FIELDS.lse, batch, head, row, 0)
        found[half], found[2 + half] = numba.float32(log2e) * load_number(at), delta
        if writes:
            at = address(plan, lse_delta, FIELDS.lse_delta, batch, head, row, 0)
            store_number(at, found[half])
            store_number(at + LSE_DELTA_BYTES // 2, delta)

    return find_lse_delta


@lru_cache
def make_wheel_queries(storage, head_dim, warps, columns):
    """Kernel of dq; it also writes lse and delta of each query for the kernel of dk and dv.

    ``kernel[(blocks, heads), 32 * warps](dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, bitmasks,
    wheel, scale)``: as in the forward; ``lse_delta`` has two numbers per query, ``dlse`` may be 0 for none.
    """
    fragments = make_fragments(storage, head_dim, warps, columns)
    load, store, dot, buffer = fragments.load, fragments.store, fragments.dot, fragments.buffer
    tile_at, tile_at_transposed = fragments.tile_at, fragments.tile_at_transposed
    find_lse_delta = make_find_lse_delta()
    walk_singles = make_walk_single_keys(16 * warps, _make_meet_key(fragments))
    walk_tiles = make_walk_key_tiles(
        fragments, 16 * warps, columns, _make_attend_keys(fragments, storage, columns)
    )
    copy_words = 4 * buffer // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    ln2 = math.log(2)

    def wheel_queries(dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, bitmasks, wheel, scale):
        place, head = find_place(plan, FIELDS.query_tiles, cuda.threadIdx.x >> 5), cuda.blockIdx.y
        queries, c = find_queries(plan, wheel, place.row), place.c
        batch, i0, i1 = queries.batch, queries.i0, queries.i1
        keys = keys_of_head(plan, k, v, queries.sequence, head)

        words = cuda.local.array(size, numba.uint32)
        douts = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        found = cuda.local.array(4, numba.float32)  # lse, delta: of row g at 0 and 2
        for half in range(2):
            i, x = (i1, queries.x1) if half else (i0, queries.x0)
            row = queries.row + i
            load(words, half, address(plan, q, FIELDS.q, batch, head, row, 0) + 4 * c)
            load(douts, half, address(plan, dout, FIELDS.dout, batch, head, row, 0) + 4 * c)
            delta = dot(douts, half, address(plan, out, FIELDS.out, batch, head, row, 0) + 4 * c)
            writes = i == x and c == 0
            find_lse_delta(found, half, delta, plan, lse_delta, lse, dlse, batch, head, row, writes)
        for i in range(numbers):
            acc[i] = numba.float32(0)

        context = (
            words, douts, acc, found, keys.k + 4 * c, keys.k_stride, keys.v + 4 * c, keys.v_stride, i0, i1,
            scale,
        )  # fmt: skip
        walk_singles(context, plan, lists, wheel, place, queries, keys)

        shared_at = shared_address(cuda.shared.array(copy_words, numba.uint32))
        keys_at, transposed_at = tile_at(shared_at, place.lane), tile_at_transposed(shared_at, place.lane)
        context = words, douts, acc, found, scale, keys_at, transposed_at, numba.int32(keys_at + buffer)
        lag = numba.int32(place.row - 2 * c)  # of this thread's window
        walk_tiles(context, shared_at, lag, plan, lists, bitmasks, wheel, place, keys, queries.last)

        queries = find_queries(plan, wheel, place.row)
        for half in range(2):
            x = queries.x1 if half else queries.x0
            if queries.first <= x <= queries.last:
                at = address(plan, dq, FIELDS.dq, queries.batch, head, queries.row + x, 0) + 4 * c
                store(acc, half, scale * numba.float32(ln2), at)

    return compiled(*launch_bounds(warps, 12))(wheel_queries)  # 168 registers


def _make_meet_query(fragments):
    """Device function that adds to dk and dv what one query gives each of a thread's two keys."""
    dot, scale_add = fragments.dot, fragments.scale_add
    load_number, _ = scalar_access("float32")

    @device_function
    def meet(context, n, nearest, i0, i1):
        """Queries at positions i0 and i1; where one is negative there is none, and ``nearest`` is read."""
        words, values, dk, dv, q, q_stride, dout, dout_stride, lse_delta, lse_delta_stride, scale = context
        for half in range(2):
            i = i1 if half else i0
            row = numba.int32(i if i >= 0 else nearest)
            at = row_address(lse_delta, row, lse_delta_stride)
            query, dout_row = row_address(q, row, q_stride), row_address(dout, row, dout_stride)
            p = exp2(scale * dot(words, half, query) - load_number(at))
            ds = p * (dot(values, half, dout_row) - load_number(at + LSE_DELTA_BYTES // 2))
            none = numba.float32(0)
            scale_add(dk, half, numba.float32(1), ds if i >= 0 else none, query)
            scale_add(dv, half, numba.float32(1), p if i >= 0 else none, dout_row)

    return meet


def _make_attend_queries(fragments, storage, columns):
    """Device function that adds to dk and dv what a tile of queries gives."""
    product, accumulate, pack = fragments.product, fragments.accumulate, tensor.make_pack(storage)
    parts, buffer, load_shared_numbers = columns // 32, fragments.buffer, tensor.load_shared_numbers

    @device_function
    def attend(context, mask, here):
        words, values, dk, dv, scale, queries_at, queries_transposed_at, lse_delta_at = context
        queries_at = numba.int32(queries_at + here)
        queries_transposed_at = numba.int32(queries_transposed_at + here)
        douts_at = numba.int32(queries_at + buffer)
        douts_transposed_at = numba.int32(queries_transposed_at + buffer)
        lse_delta_at = numba.int32(lse_delta_at + here)
        p = cuda.local.array(4, numba.uint32)
        ds = cuda.local.array(4, numba.uint32)
        none = numba.float32(0)
        for part in range(columns // 16):
            s, dp = product(words, queries_at, part), product(values, douts_at, part)
            for n in range(2):
                bit = 16 * part + 8 * n
                at = numba.int32(lse_delta_at + bit * LSE_DELTA_BYTES)
                lse0, delta0, lse1, delta1 = load_shared_numbers(at)
                word = bit // 32 if parts > 1 else 0  # a constant, even where the loop is not unrolled
                for half in range(2):
                    bits, i = mask[(1 - half) * parts + word], 4 * n + 2 * half
                    p0 = exp2(s[i] * scale - lse0) if bits & numba.uint32(1 << bit % 32) else none
                    p1 = exp2(s[i + 1] * scale - lse1) if bits & numba.uint32(2 << bit % 32) else none
                    p[2 * n + half] = pack(p0, p1)
                    ds[2 * n + half] = pack(p0 * (dp[i] - delta0), p1 * (dp[i + 1] - delta1))
            accumulate(dv, p[0], p[1], p[2], p[3], douts_transposed_at, part)
            accumulate(dk, ds[0], ds[1], ds[2], ds[3], queries_transposed_at, part)

    return attend


@lru_cache
def make_wheel_keys(storage, head_dim, warps, columns):
    """Kernel of dk and dv, which sums over the query heads that share a key head.

    ``kernel[(blocks, key heads), 32 * warps](dk, dv, lse_delta, dout, q, k, v, plan, lists, bitmasks, wheel,
    global_tokens, scale)``. Keys before position ``global_tokens`` are not written.
    """
    fragments = make_fragments(storage, head_dim, warps, columns)
    load, store, buffer = fragments.load, fragments.store, fragments.buffer
    tile_at, tile_at_transposed = fragments.tile_at, fragments.tile_at_transposed
    walk_singles = make_walk_single_queries(_make_meet_query(fragments))
    walk_tiles = make_walk_query_tiles(fragments, columns, _make_attend_queries(fragments, storage, columns))
    copy_words = 2 * (2 * buffer + columns * LSE_DELTA_BYTES) // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    ln2 = math.log(2)

    def wheel_keys(dk, dv, lse_delta, dout, q, k, v, plan, lists, bitmasks, wheel, global_tokens, scale):
        place, key_head = find_place(plan, FIELDS.key_tiles, cuda.threadIdx.x >> 5), cuda.blockIdx.y
        keys, c = find_keys(plan, wheel, place.row), place.c

        words = cuda.local.array(size, numba.uint32)
        values = cuda.local.array(size, numba.uint32)
        dk_acc = cuda.local.array(numbers, numba.float32)
        dv_acc = cuda.local.array(numbers, numba.float32)
        for half in range(2):
            row = keys.row + (keys.j1 if half else keys.j0)
            load(words, half, address(plan, k, FIELDS.k, keys.batch, key_head, row, 0) + 4 * c)
            load(values, half, address(plan, v, FIELDS.v, keys.batch, key_head, row, 0) + 4 * c)
        for i in range(numbers):
            dk_acc[i], dv_acc[i] = numba.float32(0), numba.float32(0)

        shared_at = shared_address(cuda.shared.array(copy_words, numba.uint32))
        queries_at, transposed_at = tile_at(shared_at, place.lane), tile_at_transposed(shared_at, place.lane)
        for head in range(key_head * entry(plan, FIELDS.group), (key_head + 1) * entry(plan, FIELDS.group)):
            # Read again for each head: the tiles need the registers.
            keys = find_keys(plan, wheel, place.row)
            queries = queries_of_head(plan, q, dout, lse_delta, keys.sequence, keys.batch, head)
            context = (
                words, values, dk_acc, dv_acc, queries.q + 4 * c, queries.q_stride, queries.dout + 4 * c,
                queries.dout_stride, queries.lse_delta, queries.lse_delta_stride, scale,
            )  # fmt: skip
            walk_singles(context, plan, lists, keys, queries)
            lse_delta_at = numba.int32(shared_at + 2 * buffer + 2 * c * LSE_DELTA_BYTES)
            context = words, values, dk_acc, dv_acc, scale, queries_at, transposed_at, lse_delta_at
            lag = numba.int32(23 - place.row + 2 * c)  # of this thread's window
            walk_tiles(context, shared_at, lag, plan, lists, bitmasks, wheel, place, queries)

        keys = find_keys(plan, wheel, place.row)
        low = global_tokens - entry(plan, keys.sequence + SEQUENCE.k_start)
        for half in range(2):
            x = keys.x1 if half else keys.x0
            if low <= x < keys.end:
                at = address(plan, dk, FIELDS.dk, keys.batch, key_head, keys.row + x, 0) + 4 * c
                store(dk_acc, half, scale * numba.float32(ln2), at)
                at = address(plan, dv, FIELDS.dv, keys.batch, key_head, keys.row + x, 0) + 4 * c
                store(dv_acc, half, numba.float32(1), at)

    return compiled(*launch_bounds(warps, 12))(wheel_keys)
