"""The backward wheel kernels for rows that are too wide for one warp: two warps share 16 rows.

With rows of 128, two kinds of fragments and their sums would take 128 to 192 registers of a thread. So the
first warp of a pair (``role`` 0) holds q, or k, and makes P. The second holds dout, or v, and makes dP; it
gets P through shared memory and makes dS. Each warp sums half of the columns of dq. The first warp sums dv,
the second dk. All else is as in :mod:`primeattn.kernels.gpu.wheel.backward`.

A thread hands over numbers in shared memory, in 16 bytes of each of four *planes*. The barrier that announces
the next tile also says that all have read what was handed over for this one.
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
from primeattn.kernels.gpu.wheel.backward import make_find_lse_delta
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

__all__ = ["make_wide_keys", "make_wide_queries"]

PLANE_BYTES = 512  # of a warp; a tile has 32 columns, and a thread eight numbers for 16 of them


def _make_meet_key(fragments, plane):
    """Device function that adds to half of dq what one key gives each of a thread's two queries."""
    dot, scale_add = fragments.dot, fragments.scale_add
    load_numbers, store_numbers = tensor.load_shared_numbers, tensor.store_shared_numbers

    @device_function
    def meet(context, n, j0, j1):
        """Keys at positions j0 and j1; where one is negative there is none, and the query's own is read."""
        own, acc, lse_delta, role, plane_at, near, near_stride, part, part_stride, i0, i1, scale = context
        row0, row1 = numba.int32(j0 if j0 >= 0 else i0), numba.int32(j1 if j1 >= 0 else i1)
        near0 = dot(own, 0, row_address(near, row0, near_stride))
        near1 = dot(own, 1, row_address(near, row1, near_stride))
        at = numba.int32(plane_at + 2 * (n & 1) * plane)
        store_numbers(numba.int32(at + role * plane), near0, near1, near0, near1)
        cuda.syncthreads()  # both products are there, and all have read the last ones
        far = load_numbers(numba.int32(at + (1 - role) * plane))
        for half in range(2):
            s, dp = near1 if half else near0, far[half]
            if role:
                s, dp = dp, s
            ds = exp2(scale * s - lse_delta[half]) * (dp - lse_delta[2 + half])
            weight = ds if (j1 if half else j0) >= 0 else numba.float32(0)
            row = row1 if half else row0
            scale_add(acc, half, numba.float32(1), weight, row_address(part, row, part_stride))

    return meet


def _make_attend_keys(fragments, storage, columns, plane):
    """Device function that adds to half of dq what a tile of keys gives."""
    product, accumulate, pack = fragments.product, fragments.accumulate, tensor.make_pack(storage)
    load_words, store_words = tensor.load_shared_words, tensor.store_shared_words
    load_numbers, store_numbers = tensor.load_shared_numbers, tensor.store_shared_numbers
    parts, size = columns // 32, columns // 2

    @device_function
    def attend(context, mask, here):
        own, acc, lse_delta, role, scale, tile_at, transposed_at, plane_at = context
        tile_at, transposed_at = numba.int32(tile_at + here), numba.int32(transposed_at + here)
        s = cuda.local.array(size, numba.float32)  # or dP
        for part in range(columns // 16):
            found = product(own, tile_at, part)
            for i in range(8):
                s[8 * part + i] = found[i]
        if role == 0:
            none = numba.float32(0)
            for i in range(0, size, 4):  # two neighbouring columns of the upper row and of the lower
                bit = columns - 1 - 2 * i
                one, two = numba.uint32(1 << bit % 32), numba.uint32(1 << bit % 32 - 1)
                upper, lower = mask[bit // 32], mask[parts + bit // 32]
                p0 = exp2(s[i] * scale - lse_delta[0]) if upper & one else none
                p1 = exp2(s[i + 1] * scale - lse_delta[0]) if upper & two else none
                p2 = exp2(s[i + 2] * scale - lse_delta[1]) if lower & one else none
                p3 = exp2(s[i + 3] * scale - lse_delta[1]) if lower & two else none
                store_numbers(numba.int32(plane_at + i // 4 * plane), p0, p1, p2, p3)
        cuda.syncthreads()  # P has been written
        if role == 1:
            for part in range(columns // 16):
                i = 8 * part
                p = load_numbers(numba.int32(plane_at + 2 * part * plane))
                w0 = pack(p[0] * (s[i] - lse_delta[2]), p[1] * (s[i + 1] - lse_delta[2]))
                w1 = pack(p[2] * (s[i + 2] - lse_delta[3]), p[3] * (s[i + 3] - lse_delta[3]))
                p = load_numbers(numba.int32(plane_at + (2 * part + 1) * plane))
                w2 = pack(p[0] * (s[i + 4] - lse_delta[2]), p[1] * (s[i + 5] - lse_delta[2]))
                w3 = pack(p[2] * (s[i + 6] - lse_delta[3]), p[3] * (s[i + 7] - lse_delta[3]))
                store_words(numba.int32(plane_at + part * plane), w0, w1, w2, w3)
        cuda.syncthreads()  # dS has been written
        for part in range(columns // 16):
            w = load_words(numba.int32(plane_at + part * plane))
            accumulate(acc, w[0], w[1], w[2], w[3], transposed_at, part)

    return attend


@lru_cache
def make_wide_queries(storage, head_dim, groups, columns):
    """Kernel of dq; it also writes lse and delta of each query for the kernel of dk and dv.

    ``kernel[(blocks, heads), 64 * groups](...)``: arguments as of rows that fit one warp.
    """
    fragments = make_fragments(storage, head_dim, 2 * groups, columns, summed=head_dim // 2)
    load, store, dot_rows, buffer = fragments.load, fragments.store, fragments.dot_rows, fragments.buffer
    tile_at, tile_at_transposed = fragments.tile_at, fragments.tile_at_transposed
    plane, find_lse_delta = PLANE_BYTES * groups, make_find_lse_delta()
    walk_singles = make_walk_single_keys(16 * groups, _make_meet_key(fragments, plane))
    attend = _make_attend_keys(fragments, storage, columns, plane)
    walk_tiles = make_walk_key_tiles(fragments, 16 * groups, columns, attend)
    copy_words = (4 * buffer + 4 * plane) // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 4, tensor.shared_address
    ln2 = math.log(2)

    def wide_queries(dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, bitmasks, wheel, scale):
        role = 1 if cuda.threadIdx.x >= 32 * groups else 0
        warp, head = (cuda.threadIdx.x >> 5) - groups * role, cuda.blockIdx.y
        place = find_place(plan, FIELDS.query_tiles, warp)
        queries, c = find_queries(plan, wheel, place.row), place.c
        batch, i0, i1 = queries.batch, queries.i0, queries.i1
        keys = keys_of_head(plan, k, v, queries.sequence, head)

        own = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        found = cuda.local.array(4, numba.float32)  # lse, delta: of row g at 0 and 2
        for half in range(2):
            i, x = (i1, queries.x1) if half else (i0, queries.x0)
            row = queries.row + i
            query = address(plan, q, FIELDS.q, batch, head, row, 0) + 4 * c
            gradient = address(plan, dout, FIELDS.dout, batch, head, row, 0) + 4 * c
            delta = dot_rows(gradient, address(plan, out, FIELDS.out, batch, head, row, 0) + 4 * c)
            load(own, half, gradient if role else query)
            writes = i == x and c == 0 and role == 0
            find_lse_delta(found, half, delta, plan, lse_delta, lse, dlse, batch, head, row, writes)
        for i in range(numbers):
            acc[i] = numba.float32(0)

        shared_at = shared_address(cuda.shared.array(copy_words, numba.uint32))
        plane_at = numba.int32(shared_at + 4 * buffer + (32 * warp + place.lane) * 16)
        near = (keys.v if role else keys.k) + 4 * c
        near_stride = keys.v_stride if role else keys.k_stride
        context = (
            own, acc, found, role, plane_at, near, near_stride,
            keys.k + 4 * c + role * head_dim, keys.k_stride, i0, i1, scale,
        )  # fmt: skip
        walk_singles(context, plan, lists, wheel, place, queries, keys)

        lag = numba.int32(place.row - 2 * c)  # of this thread's window
        own_at = numba.int32(tile_at(shared_at, place.lane) + role * buffer)
        transposed_at = numba.int32(tile_at_transposed(shared_at, place.lane) + role * head_dim)
        context = own, acc, found, role, scale, own_at, transposed_at, plane_at
        walk_tiles(context, shared_at, lag, plan, lists, bitmasks, wheel, place, keys, queries.last)

        queries = find_queries(plan, wheel, place.row)
        for half in range(2):
            x = queries.x1 if half else queries.x0
            if queries.first <= x <= queries.last:
                row = address(plan, dq, FIELDS.dq, queries.batch, head, queries.row + x, 0)
                store(acc, half, scale * numba.float32(ln2), row + 4 * c + role * head_dim)

    return compiled(*launch_bounds(2 * groups, 12))(wide_queries)


def _make_meet_query(fragments, plane):
    """Device function that adds to dk or dv what one query gives each of a thread's two keys."""
    dot, scale_add = fragments.dot, fragments.scale_add
    load_numbers, store_numbers = tensor.load_shared_numbers, tensor.store_shared_numbers
    load_number, _ = scalar_access("float32")

    @device_function
    def meet(context, n, nearest, i0, i1):
        """Queries at positions i0 and i1; where one is negative there is none, and ``nearest`` is read."""
        own, acc, role, plane_at, near, near_stride, far, far_stride, lse_delta, stride, scale = context
        row0, row1 = numba.int32(i0 if i0 >= 0 else nearest), numba.int32(i1 if i1 >= 0 else nearest)
        lse_delta0, lse_delta1 = row_address(lse_delta, row0, stride), row_address(lse_delta, row1, stride)
        w0 = dot(own, 0, row_address(near, row0, near_stride))
        w1 = dot(own, 1, row_address(near, row1, near_stride))
        at = numba.int32(plane_at + (n & 1) * plane)
        if role == 0:
            w0 = exp2(scale * w0 - load_number(lse_delta0))
            w1 = exp2(scale * w1 - load_number(lse_delta1))
            store_numbers(at, w0, w1, w0, w1)
        cuda.syncthreads()  # P has been written, and all have read the last one
        if role == 1:
            p = load_numbers(at)
            w0 = p[0] * (w0 - load_number(lse_delta0 + LSE_DELTA_BYTES // 2))
            w1 = p[1] * (w1 - load_number(lse_delta1 + LSE_DELTA_BYTES // 2))
        none = numba.float32(0)
        scale_add(acc, 0, numba.float32(1), w0 if i0 >= 0 else none, row_address(far, row0, far_stride))
        scale_add(acc, 1, numba.float32(1), w1 if i1 >= 0 else none, row_address(far, row1, far_stride))

    return meet


def _make_attend_queries(fragments, storage, columns, plane):
    """Device function that adds to dk or dv what a tile of queries gives."""
    product, accumulate, pack = fragments.product, fragments.accumulate, tensor.make_pack(storage)
    load_numbers, store_numbers = tensor.load_shared_numbers, tensor.store_shared_numbers
    parts = columns // 32

    @device_function
    def attend(context, mask, here):
        own, acc, role, scale, tile_at, transposed_at, lse_delta_at, plane_at = context
        tile_at, transposed_at = numba.int32(tile_at + here), numba.int32(transposed_at + here)
        lse_delta_at = numba.int32(lse_delta_at + here)
        p = cuda.local.array(8, numba.float32)
        none = numba.float32(0)
        for part in range(columns // 16):
            s = product(own, tile_at, part)  # or dP
            at = numba.int32(plane_at + 2 * part * plane)
            if role == 0:
                for n in range(2):
                    bit = 16 * part + 8 * n
                    lse_delta = load_numbers(numba.int32(lse_delta_at + bit * LSE_DELTA_BYTES))
                    word = bit // 32 if parts > 1 else 0  # a constant, even where the loop is not unrolled
                    for half in range(2):
                        bits = mask[(1 - half) * parts + word]
                        for e in range(2):
                            i, one = 4 * n + 2 * half + e, numba.uint32(1 << bit % 32 + e)
                            p[i] = exp2(s[i] * scale - lse_delta[2 * e]) if bits & one else none
                    i = 4 * n
                    store_numbers(numba.int32(at + n * plane), p[i], p[i + 1], p[i + 2], p[i + 3])
            cuda.syncthreads()  # P of these columns has been written
            if role == 1:
                for n in range(2):
                    bit, i = 16 * part + 8 * n, 4 * n
                    lse_delta = load_numbers(numba.int32(lse_delta_at + bit * LSE_DELTA_BYTES))
                    q = load_numbers(numba.int32(at + n * plane))
                    p[i], p[i + 1] = q[0] * (s[i] - lse_delta[1]), q[1] * (s[i + 1] - lse_delta[3])
                    p[i + 2], p[i + 3] = q[2] * (s[i + 2] - lse_delta[1]), q[3] * (s[i + 3] - lse_delta[3])
            a0, a1, a2, a3 = pack(p[0], p[1]), pack(p[2], p[3]), pack(p[4], p[5]), pack(p[6], p[7])
            accumulate(acc, a0, a1, a2, a3, transposed_at, part)

    return attend


@lru_cache
def make_wide_keys(storage, head_dim, groups, columns):
    """Kernel of dk and dv, which sums over the query heads that share a key head.

    ``kernel[(blocks, key heads), 64 * groups](...)``: arguments as of rows that fit one warp.
    """
    fragments = make_fragments(storage, head_dim, 2 * groups, columns)
    load, store, buffer = fragments.load, fragments.store, fragments.buffer
    tile_at, tile_at_transposed = fragments.tile_at, fragments.tile_at_transposed
    plane = PLANE_BYTES * groups
    walk_singles = make_walk_single_queries(_make_meet_query(fragments, plane))
    attend = _make_attend_queries(fragments, storage, columns, plane)
    walk_tiles = make_walk_query_tiles(fragments, columns, attend)
    tiles_bytes = 2 * (2 * buffer + columns * LSE_DELTA_BYTES)
    copy_words = (tiles_bytes + 4 * plane) // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    ln2 = math.log(2)

    def wide_keys(dk, dv, lse_delta, dout, q, k, v, plan, lists, bitmasks, wheel, global_tokens, scale):
        role = 1 if cuda.threadIdx.x >= 32 * groups else 0
        warp, key_head = (cuda.threadIdx.x >> 5) - groups * role, cuda.blockIdx.y
        place = find_place(plan, FIELDS.key_tiles, warp)
        keys, c = find_keys(plan, wheel, place.row), place.c
        own = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        base, field = (v, FIELDS.v) if role else (k, FIELDS.k)
        for half in range(2):
            row = keys.row + (keys.j1 if half else keys.j0)
            load(own, half, address(plan, base, field, keys.batch, key_head, row, 0) + 4 * c)
        for i in range(numbers):
            acc[i] = numba.float32(0)

        shared_at = shared_address(cuda.shared.array(copy_words, numba.uint32))
        own_at = numba.int32(tile_at(shared_at, place.lane) + role * buffer)
        transposed_at = numba.int32(tile_at_transposed(shared_at, place.lane) + (1 - role) * buffer)
        lse_delta_at = numba.int32(shared_at + 2 * buffer + 2 * c * LSE_DELTA_BYTES)
        plane_at = numba.int32(shared_at + tiles_bytes + (32 * warp + place.lane) * 16)
        for head in range(key_head * entry(plan, FIELDS.group), (key_head + 1) * entry(plan, FIELDS.group)):
            # Read again for each head: the tiles need the registers.
            keys = find_keys(plan, wheel, place.row)
            queries = queries_of_head(plan, q, dout, lse_delta, keys.sequence, keys.batch, head)
            query, gradient = queries.q + 4 * c, queries.dout + 4 * c
            context = (
                own, acc, role, plane_at,
                gradient if role else query, queries.dout_stride if role else queries.q_stride,
                query if role else gradient, queries.q_stride if role else queries.dout_stride,
                queries.lse_delta, queries.lse_delta_stride, scale,
            )  # fmt: skip
            walk_singles(context, plan, lists, keys, queries)
            context = own, acc, role, scale, own_at, transposed_at, lse_delta_at, plane_at
            lag = numba.int32(23 - place.row + 2 * c)  # of this thread's window
            walk_tiles(context, shared_at, lag, plan, lists, bitmasks, wheel, place, queries)

        keys = find_keys(plan, wheel, place.row)
        low = global_tokens - entry(plan, keys.sequence + SEQUENCE.k_start)
        base, field = (dk, FIELDS.dk) if role else (dv, FIELDS.dv)
        factor = scale * numba.float32(ln2) if role else numba.float32(1)
        for half in range(2):
            x = keys.x1 if half else keys.x0
            if low <= x < keys.end:
                at = address(plan, base, field, keys.batch, key_head, keys.row + x, 0) + 4 * c
                store(acc, half, factor, at)

    return compiled(*launch_bounds(2 * groups, 12))(wide_keys)
