"""The forward wheel kernel: dense tiles of one residue class of queries and one of keys, on tensor cores.

See :mod:`primeattn.wheel.tables` for the tables. Rows are read where they lie, ``wheel`` rows apart; nothing
is permuted in memory. A block first meets the keys that belong to no tile, one by one and in the order of
the gather kernel: global tokens, the window, and offsets of rare classes. Every query has met itself by then,
so none is without a key. The tiles follow.

A weight of 0 is multiplied too: a NaN or infinity among the values spreads to all queries that meet its
tile.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numba
from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.occupancy import launch_bounds
from primeattn.kernels.gpu.ptx import WARP, exp2, row_address, scalar_access
from primeattn.kernels.gpu.tables import FIELDS, address
from primeattn.kernels.gpu.wheel import tensor
from primeattn.kernels.gpu.wheel.fragments import make_fragments
from primeattn.kernels.gpu.wheel.place import find_place, find_queries, keys_of_head
from primeattn.kernels.gpu.wheel.walk import make_walk_key_tiles, make_walk_single_keys

__all__ = ["make_wheel_forward"]

SLACK = 8  # how far scores may rise above ``base``, as a power of two, before sums are rescaled
LOWEST = -1e30


def _make_meet(fragments):
    """Device function that takes one key for each of a thread's two queries into their running softmax."""
    dot, scale_add, maximum = fragments.dot, fragments.scale_add, tensor.maximum

    @device_function
    def meet(context, n, j0, j1):
        """Keys at positions j0 and j1; where one is negative there is none, and the query's own is read."""
        words, acc, state, k, k_stride, v, v_stride, i0, i1, scale = context
        for half in range(2):
            j, i = (j1, i1) if half else (j0, i0)
            row = numba.int32(j if j >= 0 else i)
            score = scale * dot(words, half, row_address(k, row, k_stride))
            if j < 0:
                score = numba.float32(-math.inf)
            top = maximum(state[half], score)
            ratio, weight = exp2(state[half] - top), exp2(score - top)
            state[half] = top
            # The sum is shared out to the four threads of a row, which add theirs up at the end.
            share = weight if cuda.threadIdx.x & 3 == 0 else numba.float32(0)
            state[2 + half] = ratio * state[2 + half] + share
            scale_add(acc, half, ratio, weight, row_address(v, row, v_stride))

    return meet


def _make_attend(fragments, storage, head_dim, columns):
    """Device function that takes a tile into the running softmax of a warp's queries."""
    product, accumulate, pack = fragments.product, fragments.accumulate, tensor.make_pack(storage)
    size, parts, width = columns // 2, columns // 32, head_dim // 8
    maximum = tensor.maximum

    @device_function
    def attend(context, mask, here):
        words, acc, state, scale, keys, values = context
        s = cuda.local.array(size, numba.float32)
        for part in range(columns // 16):
            c = product(words, numba.int32(keys + here), part)
            for n in range(2):
                bit = columns - 1 - 16 * part - 8 * n
                upper, lower = mask[bit // 32], mask[parts + bit // 32]
                for e in range(2):
                    one, none = numba.uint32(1 << bit % 32 - e), numba.float32(-math.inf)
                    s[8 * part + 4 * n + e] = c[4 * n + e] if upper & one else none
                    s[8 * part + 4 * n + 2 + e] = c[4 * n + 2 + e] if lower & one else none
        for half in range(2):
            top = s[2 * half]
            for n in range(columns // 8):
                top = maximum(top, maximum(s[4 * n + 2 * half], s[4 * n + 2 * half + 1]))
            top = maximum(top, cuda.shfl_xor_sync(WARP, top, 1))
            top = scale * maximum(top, cuda.shfl_xor_sync(WARP, top, 2))
            if top > state[half] + numba.float32(SLACK):
                ratio = exp2(state[half] - top)
                state[half], state[2 + half] = top, ratio * state[2 + half]
                for n in range(width):
                    acc[4 * n + 2 * half] *= ratio
                    acc[4 * n + 2 * half + 1] *= ratio
            base, total = state[half], state[2 + half]
            for n in range(columns // 8):
                for e in range(2):
                    p = exp2(s[4 * n + 2 * half + e] * scale - base)
                    s[4 * n + 2 * half + e] = p
                    total += p
            state[2 + half] = total
        for part in range(columns // 16):  # C of the first product has the layout of A in this one
            e = 8 * part
            a0, a1 = pack(s[e], s[e + 1]), pack(s[e + 2], s[e + 3])
            a2, a3 = pack(s[e + 4], s[e + 5]), pack(s[e + 6], s[e + 7])
            accumulate(acc, a0, a1, a2, a3, numba.int32(values + here), part)

    return attend


@lru_cache
def make_wheel_forward(storage, head_dim, warps, columns):
    """Kernel for rows of one kind, which begin at multiples of 16 bytes.

    ``kernel[(blocks, heads), 32 * warps](out, lse, q, k, v, plan, lists, bitmasks, wheel, scale)``: addresses
    of arrays and tables, and the scale in units of log2(e), which is positive; ``lse`` may be 0 for none.
    """
    fragments = make_fragments(storage, head_dim, warps, columns)
    load, store, buffer = fragments.load, fragments.store, fragments.buffer
    tile_at, tile_at_transposed = fragments.tile_at, fragments.tile_at_transposed
    walk_singles = make_walk_single_keys(16 * warps, _make_meet(fragments))
    walk_tiles = make_walk_key_tiles(
        fragments, 16 * warps, columns, _make_attend(fragments, storage, head_dim, columns)
    )
    copy_words = 4 * buffer // 4 + 4  # two pairs of tiles, and what rounding up may take
    size, numbers, shared_address = fragments.size, head_dim // 2, tensor.shared_address
    _, store_number = scalar_access("float32")
    ln2 = math.log(2)

    def wheel_forward(out, lse, q, k, v, plan, lists, bitmasks, wheel, scale):
        place, head = find_place(plan, FIELDS.query_tiles, cuda.threadIdx.x >> 5), cuda.blockIdx.y
        queries, c = find_queries(plan, wheel, place.row), place.c
        batch, i0, i1 = queries.batch, queries.i0, queries.i1
        keys = keys_of_head(plan, k, v, queries.sequence, head)

        # This thread's two queries. A row beyond the queries repeats the nearest and is not stored.
        words = cuda.local.array(size, numba.uint32)
        acc = cuda.local.array(numbers, numba.float32)
        state = cuda.local.array(4, numba.float32)  # base and sum of weights: of row g at 0 and 2
        load(words, 0, address(plan, q, FIELDS.q, batch, head, queries.row + i0, 0) + 4 * c)
        load(words, 1, address(plan, q, FIELDS.q, batch, head, queries.row + i1, 0) + 4 * c)
        for i in range(numbers):
            acc[i] = numba.float32(0)
        for half in range(2):
            state[half], state[2 + half] = numba.float32(LOWEST), numba.float32(0)

        context = (
            words, acc, state, keys.k + 4 * c, keys.k_stride, keys.v + 4 * c, keys.v_stride, i0, i1, scale,
        )  # fmt: skip
        walk_singles(context, plan, lists, wheel, place, queries, keys)

        shared_at = shared_address(cuda.shared.array(copy_words, numba.uint32))
        keys_at, values_at = (
            tile_at(shared_at, place.lane),
            tile_at_transposed(shared_at + buffer, place.lane),
        )
        context = words, acc, state, scale, keys_at, values_at
        lag = numba.int32(place.row - 2 * c)  # of this thread's window
        walk_tiles(context, shared_at, lag, plan, lists, bitmasks, wheel, place, keys, queries.last)

        # Read again: the loop needs the registers.
        queries = find_queries(plan, wheel, place.row)
        for half in range(2):
            x = queries.x1 if half else queries.x0
            total = state[2 + half]
            total += cuda.shfl_xor_sync(WARP, total, 1)
            total += cuda.shfl_xor_sync(WARP, total, 2)
            if queries.first <= x <= queries.last:
                at = address(plan, out, FIELDS.out, queries.batch, head, queries.row + x, 0) + 4 * c
                store(acc, half, numba.float32(1) / total, at)
                if lse != 0 and c == 0:
                    at = address(plan, lse, FIELDS.lse, queries.batch, head, queries.row + x, 0)
                    store_number(at, state[half] * numba.float32(ln2) + math.log(total))

    # 128 registers, or for wide rows 168.
    return compiled(*launch_bounds(warps, 16 if head_dim <= 64 else 12))(wheel_forward)
