"""The backward wheel kernels: dq by blocks of queries; dk and dv by blocks of keys. No atomics.

P = exp(s - lse);  dP = dout·v;  dS = P * (dP - delta), delta = rowsum(dout * out) - dlse
dq = scale * dS k;  dk = scale * dSᵀ q;  dv = Pᵀ dout

Both go about as the forward does (see :mod:`primeattn.kernels.gpu.wheel.forward`): pairs that belong to no
tile are met one by one first. Keys that are global tokens for some head are left to the gather kernel, as all
queries meet them.
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

__all__ = ["make_wheel_keys", "make_wheel_queries"]


def _make_meet_key(fragments):
    """Device function that adds to dq what one key gives each of a thread's two queries."""
    dot, scale_add = fragments.dot, fragments.scale_add

    @device_function
    def meet(context, j0, j1):
        """Keys of rows j0 and j1; where one is negative there is none, and the query's own is read."""
        words, douts, acc, stats, k, k_stride, v, v_stride, i0, i1, scale = context
        for half in range(2):
            j, i = (j1, i1) if half else (j0, i0)
            row = numba.int32(j if j >= 0 else i)
            at = row_address(k, row, k_stride)
            p = exp2(scale * dot(words, half, at) - stats[half])
            ds = p * (dot(douts, half, row_address(v, row, v_stride)) - stats[2 + half])
            scale_add(acc, half, numba.float32(1), ds if j >= 0 else numba.float32(0), at)

    return meet


def _make_attend_keys(fragments, storage, columns):
    """Device function that adds to dq what a tile of keys gives."""
    product, accumulate, pack = fragments.product, fragments.accumulate, tensor.make_pack(storage)
    parts = columns // 32

    @device_function
    def attend(context, mask, here):
        words, douts, acc, stats, scale, keys, transposed, values = context
        keys, values = numba.int32(keys + here), numba.int32(values + here)
        transposed = numba.int32(transposed + here)
        ds = cuda.local.array(8, numba.float32)
        for part in range(columns // 16):
            s, dp = product(words, keys, part), product(douts, values, part)
            for n in range(2):
                bit = columns - 1 - 16 * part - 8 * n
                for half in range(2):
                    bits = mask[half * parts + bit // 32]
                    for e in range(2):
                        i = 4 * n + 2 * half + e
                        d = exp2(s[i] * scale - stats[half]) * (dp[i] - stats[2 + half])
                        ds[i] = d if bits & numba.uint32(1 << bit % 32 - e) else numba.float32(0)
            a0, a1, a2, a3 = pack(ds[0], ds[1]), pack(ds[2], ds[3]), pack(ds[4], ds[5]), pack(ds[6], ds[7])
            accumulate(acc, a0, a1, a2, a3, transposed, part)

    return attend


@lru_cache
def make_wheel_queries(storage, head_dim, warps, columns):
    """Kernel of dq; it also writes what the kernel of dk and dv needs to know of each query.

    ``kernel[(blocks, heads), 32 * warps](dq, stats, dout, q, k, v, out, lse, dlse, plan, bits, wheel,
    scale)``: as in the forward; ``stats`` has two numbers per query, ``dlse`` may be 0 for none.
    """
    fragments = make_fragments(storage, head_dim, warps, columns)
    load, store, dot, buffer = fragments.load, fragments.store, fragments.dot, fragments.buffer
    place_queries, keys_of_head = fragments.place_queries, fragments.keys_of_head
    lane_place, lane_place_transposed = fragments.place, fragments.place_transposed
    meet = _make_meet_key(fragments)
    walk = make_walk_keys(fragments, columns, _make_attend_keys(fragments, storage, columns))
    copy_words = 4 * buffer // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    load_number, store_number = scalar_access("float32")
    log2e, ln2 = math.log2(math.e), math.log(2)

    def wheel_queries(dq, stats, dout, q, k, v, out, lse, dlse, plan, bits, wheel, scale):
        thread, head = cuda.threadIdx.x, cuda.blockIdx.y
        warp, lane = thread >> 5, thread & 31
        g, c = lane >> 2, lane & 3
        tile = plan[FIELDS.query_tiles] + len(TILE) * cuda.blockIdx.x
        residue, first = plan[tile + TILE.residue], plan[tile + TILE.first]
        sequence, batch, q_row, before, last, x0, x1 = place_queries(plan, wheel, 16 * warp + g)
        i0, i1 = min(max(x0, before), last), min(max(x1, before), last)
        entry, leading, k, v, k_stride, v_stride = keys_of_head(plan, k, v, sequence, head)

        words = cuda.local.array(size, numba.uint32)
        douts = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        known = cuda.local.array(4, numba.float32)  # lse, delta: of row g at 0 and 2
        for half in range(2):
            i, x = (i1, x1) if half else (i0, x0)
            row = q_row + i
            load(words, half, address(plan, q, FIELDS.q, batch, head, row, 0) + 4 * c)
            load(douts, half, address(plan, dout, FIELDS.dout, batch, head, row, 0) + 4 * c)
            delta = dot(douts, half, address(plan, out, FIELDS.out, batch, head, row, 0) + 4 * c)
            if dlse != 0:
                delta -= load_number(address(plan, dlse, FIELDS.dlse, batch, head, row, 0))
            at = address(plan, lse, FIELDS.lse, batch, head, row, 0)
            known[half], known[2 + half] = numba.float32(log2e) * load_number(at), delta
            if i == x and c == 0:
                at = address(plan, stats, FIELDS.stats, batch, head, row, 0)
                store_number(at, known[half])
                store_number(at + STATS_BYTES // 2, delta)
        for i in range(numbers):
            acc[i] = numba.float32(0)

        latest = min(residue + (first + 16 * warps - 1) * wheel, last)
        context = (words, douts, acc, known, k + 4 * c, k_stride, v + 4 * c, v_stride, i0, i1, scale)
        for j in range(min(leading, latest + 1)):
            meet(context, j if j <= i0 else -1, j if j <= i1 else -1)
        begin = plan[entry + WHEEL_HEAD.begin]
        for i in range(lower_bound(plan, begin, plan[entry + WHEEL_HEAD.count], latest + 1)):
            j0, j1 = i0 - plan[begin + i], i1 - plan[begin + i]
            meet(context, j0 if j0 >= leading else -1, j1 if j1 >= leading else -1)

        place = shared_address(cuda.shared.array(copy_words, numba.uint32))
        keys, transposed = lane_place(place, lane), lane_place_transposed(place, lane)
        lag = numba.int32(16 * warp + g - 2 * c)  # of this thread's window
        context = words, douts, acc, known, scale, keys, transposed, numba.int32(keys + buffer)
        origin, modulus, leading = numba.int32(first * wheel), numba.int32(wheel), numba.int32(leading)
        rows = k, k_stride, v, v_stride
        walk(context, place, lag, rows, plan, bits, entry, residue, origin, modulus, leading, last)

        _, batch, q_row, before, last, x0, x1 = place_queries(plan, wheel, 16 * warp + g)
        for half in range(2):
            x = x1 if half else x0
            if before <= x <= last:
                at = address(plan, dq, FIELDS.dq, batch, head, q_row + x, 0) + 4 * c
                store(acc, half, scale * numba.float32(ln2), at)

    return compiled(48 * warps, 1)(wheel_queries)  # with 12 warps to count with, registers are 168


def _make_meet_query(fragments):
    """Device function that adds to dk and dv what one query gives each of a thread's two keys."""
    dot, scale_add = fragments.dot, fragments.scale_add
    load_number, _ = scalar_access("float32")

    @device_function
    def meet(context, own, i0, i1):
        """Queries at positions i0 and i1; where one is negative there is none, and ``own`` is read."""
        words, values, dk, dv, q, q_stride, dout, dout_stride, stats, stats_stride, scale = context
        for half in range(2):
            i = i1 if half else i0
            row = numba.int32(i if i >= 0 else own)
            known = row_address(stats, row, stats_stride)
            query, dout_row = row_address(q, row, q_stride), row_address(dout, row, dout_stride)
            p = exp2(scale * dot(words, half, query) - load_number(known))
            ds = p * (dot(values, half, dout_row) - load_number(known + STATS_BYTES // 2))
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
        words, values, dk, dv, scale, queries, transposed, stats = context
        queries, transposed = numba.int32(queries + here), numba.int32(transposed + here)
        douts, douts_transposed = numba.int32(queries + buffer), numba.int32(transposed + buffer)
        stats = numba.int32(stats + here)
        p = cuda.local.array(4, numba.uint32)
        ds = cuda.local.array(4, numba.uint32)
        none = numba.float32(0)
        for part in range(columns // 16):
            s, dp = product(words, queries, part), product(values, douts, part)
            for n in range(2):
                bit = 16 * part + 8 * n
                lse0, delta0, lse1, delta1 = load_shared_numbers(numba.int32(stats + bit * STATS_BYTES))
                word = bit // 32 if parts > 1 else 0  # a constant, even where the loop is not unrolled
                for half in range(2):
                    bits, i = mask[(1 - half) * parts + word], 4 * n + 2 * half
                    p0 = exp2(s[i] * scale - lse0) if bits & numba.uint32(1 << bit % 32) else none
                    p1 = exp2(s[i + 1] * scale - lse1) if bits & numba.uint32(2 << bit % 32) else none
                    p[2 * n + half] = pack(p0, p1)
                    ds[2 * n + half] = pack(p0 * (dp[i] - delta0), p1 * (dp[i + 1] - delta1))
            accumulate(dv, p[0], p[1], p[2], p[3], douts_transposed, part)
            accumulate(dk, ds[0], ds[1], ds[2], ds[3], transposed, part)

    return attend


@lru_cache
def make_wheel_keys(storage, head_dim, warps, columns):
    """Kernel of dk and dv, which sums over the query heads that share a key head.

    ``kernel[(blocks, key heads), 32 * warps](dk, dv, stats, dout, q, k, v, plan, bits, wheel, global_tokens,
    scale)``. Keys before position ``global_tokens`` are not written.
    """
    fragments = make_fragments(storage, head_dim, warps, columns)
    load, store, buffer = fragments.load, fragments.store, fragments.buffer
    place_keys, queries_of_head = fragments.place_keys, fragments.queries_of_head
    lane_place, lane_place_transposed = fragments.place, fragments.place_transposed
    meet = _make_meet_query(fragments)
    walk = make_walk_queries(fragments, columns, _make_attend_queries(fragments, storage, columns))
    copy_words = 2 * (2 * buffer + columns * STATS_BYTES) // 4 + 4
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    ln2 = math.log(2)

    def wheel_keys(dk, dv, stats, dout, q, k, v, plan, bits, wheel, global_tokens, scale):
        thread, key_head = cuda.threadIdx.x, cuda.blockIdx.y
        warp, lane = thread >> 5, thread & 31
        g, c = lane >> 2, lane & 3
        tile = plan[FIELDS.key_tiles] + len(TILE) * cuda.blockIdx.x
        residue, first = plan[tile + TILE.residue], plan[tile + TILE.first]
        sequence, batch, k_row, end, x0, x1 = place_keys(plan, wheel, 16 * warp + g)
        j0, j1 = min(x0, numba.int32(end - 1)), min(x1, numba.int32(end - 1))

        words = cuda.local.array(size, numba.uint32)
        values = cuda.local.array(size, numba.uint32)
        dk_acc = cuda.local.array(numbers, numba.float32)
        dv_acc = cuda.local.array(numbers, numba.float32)
        for half in range(2):
            row = k_row + (j1 if half else j0)
            load(words, half, address(plan, k, FIELDS.k, batch, key_head, row, 0) + 4 * c)
            load(values, half, address(plan, v, FIELDS.v, batch, key_head, row, 0) + 4 * c)
        for i in range(numbers):
            dk_acc[i], dv_acc[i] = numba.float32(0), numba.float32(0)

        place = shared_address(cuda.shared.array(copy_words, numba.uint32))
        queries, transposed = lane_place(place, lane), lane_place_transposed(place, lane)
        lag = numba.int32(23 - 16 * warp - g + 2 * c)  # of this thread's window
        origin, modulus = numba.int32(first * wheel), numba.int32(wheel)
        for head in range(key_head * plan[FIELDS.group], (key_head + 1) * plan[FIELDS.group]):
            # What only one head needs is read again for each, not kept in registers that the tiles need.
            sequence, batch, _, end, x0, x1 = place_keys(plan, wheel, 16 * warp + g)
            j0, j1 = min(x0, numba.int32(end - 1)), min(x1, numba.int32(end - 1))
            before, last, rows = queries_of_head(plan, q, dout, stats, sequence, batch, head)
            q_head, q_stride, dout_head, dout_stride, stats_head, stats_stride = rows
            entry, own = plan[FIELDS.heads] + len(WHEEL_HEAD) * head, min(max(j0, before), last)
            context = (
                words, values, dk_acc, dv_acc,
                q_head + 4 * c, q_stride, dout_head + 4 * c, dout_stride, stats_head, stats_stride, scale,
            )  # fmt: skip
            begin = plan[entry + WHEEL_HEAD.begin]
            for i in range(plan[entry + WHEEL_HEAD.count]):
                i0, i1 = j0 + plan[begin + i], j1 + plan[begin + i]
                meet(
                    context,
                    own,
                    i0 if before <= i0 and i0 <= last else -1,
                    i1 if before <= i1 and i1 <= last else -1,
                )

            stats_place = numba.int32(place + 2 * buffer + 2 * c * STATS_BYTES)
            context = words, values, dk_acc, dv_acc, scale, queries, transposed, stats_place
            walk(context, place, lag, rows, plan, bits, entry, residue, origin, modulus, before, last)

        sequence, batch, k_row, end, x0, x1 = place_keys(plan, wheel, 16 * warp + g)
        low = global_tokens - plan[sequence + SEQUENCE.k_start]
        for half in range(2):
            x = x1 if half else x0
            if low <= x < end:
                at = address(plan, dk, FIELDS.dk, batch, key_head, k_row + x, 0) + 4 * c
                store(dk_acc, half, scale * numba.float32(ln2), at)
                at = address(plan, dv, FIELDS.dv, batch, key_head, k_row + x, 0) + 4 * c
                store(dv_acc, half, numba.float32(1), at)

    return compiled(48 * warps, 1)(wheel_keys)
