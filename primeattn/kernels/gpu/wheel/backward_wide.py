"""The backward wheel kernels for rows that are too wide for one warp: two warps share 16 rows.

Rows of 128 as fragments, two kinds of them, and their sums are 128 to 192 registers of a thread. So one warp
of a pair (``role`` 0) holds q, or k, and makes P; the other holds dout, or v, makes dP and, with P, which it
gets through shared memory, dS. Of dq each warp then sums half of the columns. dv is the first warp's, dk the
second's. Else this is :mod:`primeattn.kernels.gpu.wheel.backward`.

What a thread hands over lies at its own 16 bytes of each of four *planes*. The barrier at which all find the
next tile also tells that all have read what was handed over for this one.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numba
from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.ptx import exp2, row_address, scalar_access
from primeattn.kernels.gpu.tables import FIELDS, SEQUENCE, address, lower_bound
from primeattn.kernels.gpu.wheel import tensor
from primeattn.kernels.gpu.wheel.fragments import TILE, WHEEL_HEAD, make_fragments
from primeattn.kernels.gpu.wheel.walk import STATS_BYTES, make_walk_keys, make_walk_queries

__all__ = ["make_wide_keys", "make_wide_queries"]

PLANE_BYTES = (
    512  # of the 32 threads of a warp; tiles are 32 columns, eight numbers of a thread to 16 of them
)


def _make_meet_key(fragments, plane):
    """Device function that adds to half of dq what one key gives each of a thread's two queries."""
    dot, scale_add = fragments.dot, fragments.scale_add
    load_numbers, store_numbers = tensor.load_shared_numbers, tensor.store_shared_numbers

    @device_function
    def meet(context, n, j0, j1):
        """Keys of rows j0 and j1, the nth; where one is negative there is none: the query's own is read."""
        own, acc, stats, role, shared, near, near_stride, part, part_stride, i0, i1, scale = context
        row0, row1 = numba.int32(j0 if j0 >= 0 else i0), numba.int32(j1 if j1 >= 0 else i1)
        near0 = dot(own, 0, row_address(near, row0, near_stride))
        near1 = dot(own, 1, row_address(near, row1, near_stride))
        at = numba.int32(shared + 2 * (n & 1) * plane)
        store_numbers(numba.int32(at + role * plane), near0, near1, near0, near1)
        cuda.syncthreads()  # the other warp has its product; what it had before this one, all have read
        far = load_numbers(numba.int32(at + (1 - role) * plane))
        for half in range(2):
            s, dp = near1 if half else near0, far[half]
            if role:
                s, dp = dp, s
            ds = exp2(scale * s - stats[half]) * (dp - stats[2 + half])
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
        own, acc, stats, role, scale, tile, transposed, shared = context
        tile, transposed = numba.int32(tile + here), numba.int32(transposed + here)
        s = cuda.local.array(size, numba.float32)  # or dP
        for part in range(columns // 16):
            found = product(own, tile, part)
            for i in range(8):
                s[8 * part + i] = found[i]
        if role == 0:
            none = numba.float32(0)
            for i in range(0, size, 4):  # two neighbouring columns of the upper row and of the lower
                bit = columns - 1 - 2 * i
                one, two = numba.uint32(1 << bit % 32), numba.uint32(1 << bit % 32 - 1)
                upper, lower = mask[bit // 32], mask[parts + bit // 32]
                p0 = exp2(s[i] * scale - stats[0]) if upper & one else none
                p1 = exp2(s[i + 1] * scale - stats[0]) if upper & two else none
                p2 = exp2(s[i + 2] * scale - stats[1]) if lower & one else none
                p3 = exp2(s[i + 3] * scale - stats[1]) if lower & two else none
                store_numbers(numba.int32(shared + i // 4 * plane), p0, p1, p2, p3)
        cuda.syncthreads()  # P has been written
        if role == 1:
            for part in range(columns // 16):
                i = 8 * part
                p = load_numbers(numba.int32(shared + 2 * part * plane))
                w0 = pack(p[0] * (s[i] - stats[2]), p[1] * (s[i + 1] - stats[2]))
                w1 = pack(p[2] * (s[i + 2] - stats[3]), p[3] * (s[i + 3] - stats[3]))
                p = load_numbers(numba.int32(shared + (2 * part + 1) * plane))
                w2 = pack(p[0] * (s[i + 4] - stats[2]), p[1] * (s[i + 5] - stats[2]))
                w3 = pack(p[2] * (s[i + 6] - stats[3]), p[3] * (s[i + 7] - stats[3]))
                store_words(numba.int32(shared + part * plane), w0, w1, w2, w3)
        cuda.syncthreads()  # dS has been written
        for part in range(columns // 16):
            w = load_words(numba.int32(shared + part * plane))
            accumulate(acc, w[0], w[1], w[2], w[3], transposed, part)

    return attend


@lru_cache
def make_wide_queries(storage, head_dim, groups, columns):
    """Kernel of dq; it also writes what the kernel of dk and dv needs to know of each query.

    ``kernel[(blocks, heads), 64 * groups](...)``: arguments as of rows that fit one warp.
    """
    fragments = make_fragments(storage, head_dim, 2 * groups, columns, summed=head_dim // 2)
    load, store, dot_rows, buffer = fragments.load, fragments.store, fragments.dot_rows, fragments.buffer
    place_queries, keys_of_head = fragments.place_queries, fragments.keys_of_head
    lane_place, lane_place_transposed = fragments.place, fragments.place_transposed
    plane = PLANE_BYTES * groups
    meet = _make_meet_key(fragments, plane)
    walk = make_walk_keys(fragments, columns, _make_attend_keys(fragments, storage, columns, plane))
    copy_words = (4 * buffer + 4 * plane) // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 4, tensor.shared_address
    load_number, store_number = scalar_access("float32")
    log2e, ln2 = math.log2(math.e), math.log(2)

    def wide_queries(dq, stats, dout, q, k, v, out, lse, dlse, plan, bits, wheel, scale):
        thread, head = cuda.threadIdx.x, cuda.blockIdx.y
        role = 1 if thread >= 32 * groups else 0
        warp, lane = (thread >> 5) - groups * role, thread & 31
        g, c = lane >> 2, lane & 3
        tile = plan[FIELDS.query_tiles] + len(TILE) * cuda.blockIdx.x
        residue, first = plan[tile + TILE.residue], plan[tile + TILE.first]
        sequence, batch, q_row, before, last, x0, x1 = place_queries(plan, wheel, 16 * warp + g)
        i0, i1 = min(max(x0, before), last), min(max(x1, before), last)
        entry, leading, k, v, k_stride, v_stride = keys_of_head(plan, k, v, sequence, head)

        own = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        known = cuda.local.array(4, numba.float32)  # lse, delta: of row g at 0 and 2
        for half in range(2):
            i, x = (i1, x1) if half else (i0, x0)
            row = q_row + i
            query = address(plan, q, FIELDS.q, batch, head, row, 0) + 4 * c
            gradient = address(plan, dout, FIELDS.dout, batch, head, row, 0) + 4 * c
            delta = dot_rows(gradient, address(plan, out, FIELDS.out, batch, head, row, 0) + 4 * c)
            load(own, half, gradient if role else query)
            if dlse != 0:
                delta -= load_number(address(plan, dlse, FIELDS.dlse, batch, head, row, 0))
            at = address(plan, lse, FIELDS.lse, batch, head, row, 0)
            known[half], known[2 + half] = numba.float32(log2e) * load_number(at), delta
            if i == x and c == 0 and role == 0:
                at = address(plan, stats, FIELDS.stats, batch, head, row, 0)
                store_number(at, known[half])
                store_number(at + STATS_BYTES // 2, delta)
        for i in range(numbers):
            acc[i] = numba.float32(0)

        place = shared_address(cuda.shared.array(copy_words, numba.uint32))
        shared = numba.int32(place + 4 * buffer + (32 * warp + lane) * 16)
        latest = min(residue + (first + 16 * groups - 1) * wheel, last)
        context = (
            own, acc, known, role, shared, (v if role else k) + 4 * c, v_stride if role else k_stride,
            k + 4 * c + role * head_dim, k_stride, i0, i1, scale,
        )  # fmt: skip
        met = min(leading, latest + 1)
        for j in range(met):
            meet(context, j, j if j <= i0 else -1, j if j <= i1 else -1)
        begin = plan[entry + WHEEL_HEAD.begin]
        for i in range(lower_bound(plan, begin, plan[entry + WHEEL_HEAD.count], latest + 1)):
            j0, j1 = i0 - plan[begin + i], i1 - plan[begin + i]
            meet(context, met + i, j0 if j0 >= leading else -1, j1 if j1 >= leading else -1)

        mine = numba.int32(lane_place(place, lane) + role * buffer)
        transposed = numba.int32(lane_place_transposed(place, lane) + role * head_dim)
        lag = numba.int32(16 * warp + g - 2 * c)  # of this thread's window
        context = own, acc, known, role, scale, mine, transposed, shared
        origin, modulus, leading = numba.int32(first * wheel), numba.int32(wheel), numba.int32(leading)
        rows = k, k_stride, v, v_stride
        walk(context, place, lag, rows, plan, bits, entry, residue, origin, modulus, leading, last)

        _, batch, q_row, before, last, x0, x1 = place_queries(plan, wheel, 16 * warp + g)
        for half in range(2):
            x = x1 if half else x0
            if before <= x <= last:
                at = address(plan, dq, FIELDS.dq, batch, head, q_row + x, 0) + 4 * c
                store(acc, half, scale * numba.float32(ln2), at + role * head_dim)

    return compiled(64 * groups, 1)(wide_queries)


def _make_meet_query(fragments, plane):
    """Device function that adds to dk or dv what one query gives each of a thread's two keys."""
    dot, scale_add = fragments.dot, fragments.scale_add
    load_numbers, store_numbers = tensor.load_shared_numbers, tensor.store_shared_numbers
    load_number, _ = scalar_access("float32")

    @device_function
    def meet(context, n, nearest, i0, i1):
        """Queries at i0 and i1, the nth; where one is negative there is none, and ``nearest`` is read."""
        own, acc, role, shared, near, near_stride, far, far_stride, stats, stats_stride, scale = context
        row0, row1 = numba.int32(i0 if i0 >= 0 else nearest), numba.int32(i1 if i1 >= 0 else nearest)
        known0, known1 = row_address(stats, row0, stats_stride), row_address(stats, row1, stats_stride)
        w0 = dot(own, 0, row_address(near, row0, near_stride))
        w1 = dot(own, 1, row_address(near, row1, near_stride))
        at = numba.int32(shared + (n & 1) * plane)
        if role == 0:
            w0 = exp2(scale * w0 - load_number(known0))
            w1 = exp2(scale * w1 - load_number(known1))
            store_numbers(at, w0, w1, w0, w1)
        cuda.syncthreads()  # P has been written; what was there before the last, all have read
        if role == 1:
            p = load_numbers(at)
            w0 = p[0] * (w0 - load_number(known0 + STATS_BYTES // 2))
            w1 = p[1] * (w1 - load_number(known1 + STATS_BYTES // 2))
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
        own, acc, role, scale, tile, transposed, stats, shared = context
        tile, transposed = numba.int32(tile + here), numba.int32(transposed + here)
        stats = numba.int32(stats + here)
        p = cuda.local.array(8, numba.float32)
        none = numba.float32(0)
        for part in range(columns // 16):
            s = product(own, tile, part)  # or dP
            at = numba.int32(shared + 2 * part * plane)
            if role == 0:
                for n in range(2):
                    bit = 16 * part + 8 * n
                    known = load_numbers(numba.int32(stats + bit * STATS_BYTES))
                    word = bit // 32 if parts > 1 else 0  # a constant, even where the loop is not unrolled
                    for half in range(2):
                        bits = mask[(1 - half) * parts + word]
                        for e in range(2):
                            i, one = 4 * n + 2 * half + e, numba.uint32(1 << bit % 32 + e)
                            p[i] = exp2(s[i] * scale - known[2 * e]) if bits & one else none
                    i = 4 * n
                    store_numbers(numba.int32(at + n * plane), p[i], p[i + 1], p[i + 2], p[i + 3])
            cuda.syncthreads()  # P of these columns has been written
            if role == 1:
                for n in range(2):
                    bit, i = 16 * part + 8 * n, 4 * n
                    known = load_numbers(numba.int32(stats + bit * STATS_BYTES))
                    q = load_numbers(numba.int32(at + n * plane))
                    p[i], p[i + 1] = q[0] * (s[i] - known[1]), q[1] * (s[i + 1] - known[3])
                    p[i + 2], p[i + 3] = q[2] * (s[i + 2] - known[1]), q[3] * (s[i + 3] - known[3])
            a0, a1, a2, a3 = pack(p[0], p[1]), pack(p[2], p[3]), pack(p[4], p[5]), pack(p[6], p[7])
            accumulate(acc, a0, a1, a2, a3, transposed, part)

    return attend


@lru_cache
def make_wide_keys(storage, head_dim, groups, columns):
    """Kernel of dk and dv, which sums over the query heads that share a key head.

    ``kernel[(blocks, key heads), 64 * groups](...)``: arguments as of rows that fit one warp.
    """
    fragments = make_fragments(storage, head_dim, 2 * groups, columns)
    load, store, buffer = fragments.load, fragments.store, fragments.buffer
    place_keys, queries_of_head = fragments.place_keys, fragments.queries_of_head
    lane_place, lane_place_transposed = fragments.place, fragments.place_transposed
    plane = PLANE_BYTES * groups
    meet = _make_meet_query(fragments, plane)
    walk = make_walk_queries(fragments, columns, _make_attend_queries(fragments, storage, columns, plane))
    tiles_bytes = 2 * (2 * buffer + columns * STATS_BYTES)
    copy_words = (tiles_bytes + 4 * plane) // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    ln2 = math.log(2)

    def wide_keys(dk, dv, stats, dout, q, k, v, plan, bits, wheel, global_tokens, scale):
        thread, key_head = cuda.threadIdx.x, cuda.blockIdx.y
        role = 1 if thread >= 32 * groups else 0
        warp, lane = (thread >> 5) - groups * role, thread & 31
        g, c = lane >> 2, lane & 3
        tile = plan[FIELDS.key_tiles] + len(TILE) * cuda.blockIdx.x
        residue, first = plan[tile + TILE.residue], plan[tile + TILE.first]
        sequence, batch, k_row, end, x0, x1 = place_keys(plan, wheel, 16 * warp + g)
        own = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        base, field = (v, FIELDS.v) if role else (k, FIELDS.k)
        for half in range(2):
            row = k_row + min(x1 if half else x0, end - 1)
            load(own, half, address(plan, base, field, batch, key_head, row, 0) + 4 * c)
        for i in range(numbers):
            acc[i] = numba.float32(0)

        place = shared_address(cuda.shared.array(copy_words, numba.uint32))
        mine = numba.int32(lane_place(place, lane) + role * buffer)
        transposed = numba.int32(lane_place_transposed(place, lane) + (1 - role) * buffer)
        stats_place = numba.int32(place + 2 * buffer + 2 * c * STATS_BYTES)
        shared = numba.int32(place + tiles_bytes + (32 * warp + lane) * 16)
        lag = numba.int32(23 - 16 * warp - g + 2 * c)  # of this thread's window
        origin, modulus = numba.int32(first * wheel), numba.int32(wheel)
        for head in range(key_head * plan[FIELDS.group], (key_head + 1) * plan[FIELDS.group]):
            # What only one head needs is read again for each, not kept in registers that the tiles need.
            sequence, batch, k_row, end, x0, x1 = place_keys(plan, wheel, 16 * warp + g)
            j0, j1 = min(x0, numba.int32(end - 1)), min(x1, numba.int32(end - 1))
            before, last, rows = queries_of_head(plan, q, dout, stats, sequence, batch, head)
            q_head, q_stride, dout_head, dout_stride, stats_head, stats_stride = rows
            entry, nearest = plan[FIELDS.heads] + len(WHEEL_HEAD) * head, min(max(j0, before), last)
            q_lane, dout_lane = q_head + 4 * c, dout_head + 4 * c
            context = (
                own, acc, role, shared,
                dout_lane if role else q_lane, dout_stride if role else q_stride,
                q_lane if role else dout_lane, q_stride if role else dout_stride,
                stats_head, stats_stride, scale,
            )  # fmt: skip
            begin = plan[entry + WHEEL_HEAD.begin]
            for i in range(plan[entry + WHEEL_HEAD.count]):
                i0, i1 = j0 + plan[begin + i], j1 + plan[begin + i]
                meet(
                    context,
                    i,
                    nearest,
                    i0 if before <= i0 and i0 <= last else -1,
                    i1 if before <= i1 and i1 <= last else -1,
                )
            context = own, acc, role, scale, mine, transposed, stats_place, shared
            walk(context, place, lag, rows, plan, bits, entry, residue, origin, modulus, before, last)

        sequence, batch, k_row, end, x0, x1 = place_keys(plan, wheel, 16 * warp + g)
        low = global_tokens - plan[sequence + SEQUENCE.k_start]
        base, field = (dk, FIELDS.dk) if role else (dv, FIELDS.dv)
        factor = scale * numba.float32(ln2) if role else numba.float32(1)
        for half in range(2):
            x = x1 if half else x0
            if low <= x < end:
                at = address(plan, base, field, batch, key_head, k_row + x, 0) + 4 * c
                store(acc, half, factor, at)

    return compiled(64 * groups, 1)(wide_keys)
