"""Sums for the gradients of biases: over all pairs that have a bias, in a fixed order and without atomics.

While queries walk along the offsets in step, the lanes of a warp add what their queries give for an offset;
the block adds its warps' sums, and then to those of its earlier tiles, in memory of its own. A second kernel
adds the sums of all blocks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numba
from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.ptx import STORED_BYTES, WARP, add_to, scalar_access

__all__ = ["SUM_BYTES", "THREADS", "Sums", "make_adder", "make_bias_gradients"]

SUM_BYTES = 8  # float64, whatever is computed with
THREADS = 256
WARP_LANES = 32


class Sums(NamedTuple):
    """Where blocks have their sums: by head, block and bias. Addresses are 0 for what is not wanted."""

    shared: Any  # of each warp, for a chunk of offsets
    offsets: int  # address
    globals: int
    offset_width: int  # so many sums of a block
    global_width: int
    slots: int  # blocks of a head


class Adder(NamedTuple):
    """Device functions."""

    open: Any  # (all of Sums but what is shared) -> Sums, which are 0
    clear: Any  # (sums): before a chunk
    add: Any  # (sums, gradients, slot, place): gradients of scores at consecutive slots of the chunk
    flush: Any  # (sums, address, width, first): after a chunk of biases from number ``first`` on


def make_adder(lanes_rows, threads, chunk, unroll) -> Adder:
    """Device functions for blocks of so many threads, at least as many as the ``chunk`` has offsets."""
    lanes, number = lanes_rows.lanes, lanes_rows.number
    warps = threads // WARP_LANES
    of_warps = warps * chunk
    lane_bits = lanes.bit_length() - 1
    _, store_sum = scalar_access("float64")

    @device_function
    def of_block(sums, base, width):
        # Made anew each time: kept, it would take registers.
        return base + (cuda.blockIdx.y * sums.slots + cuda.blockIdx.x) * width * SUM_BYTES

    @device_function
    def start(sums, base, width):
        if base != 0:
            base = of_block(sums, base, width)
            for i in range(cuda.threadIdx.x, width, threads):
                store_sum(base + i * SUM_BYTES, numba.float64(0))

    @device_function
    def open_sums(offset_sums, global_sums, offset_width, global_width, slots):
        sums = Sums(
            cuda.shared.array(of_warps, number), offset_sums, global_sums, offset_width, global_width, slots
        )
        start(sums, offset_sums, offset_width)
        start(sums, global_sums, global_width)
        return sums

    @device_function
    def clear(sums):
        warp = (cuda.threadIdx.x // WARP_LANES) * chunk
        for i in range(cuda.threadIdx.x % WARP_LANES, chunk, WARP_LANES):
            sums.shared[warp + i] = number(0)

    @device_function
    def add(sums, gradients, slot, place):
        thread = place.thread
        row = place.first + ((thread >> lane_bits) >> place.shift)
        apart = lanes << place.shift  # threads from a row to the next one
        warp = (thread // WARP_LANES) * chunk
        for u in range(unroll):
            total = gradients[u] if row <= place.last else number(0)  # a group may repeat the last row
            step = apart
            while step < WARP_LANES:
                total += cuda.shfl_xor_sync(WARP, total, step)
                step *= 2
            if place.lane == 0 and (thread & (WARP_LANES - 1)) < apart:
                sums.shared[warp + slot + u] = total

    @device_function
    def flush(sums, base, width, first):
        cuda.syncthreads()  # all have added theirs
        i = cuda.threadIdx.x - first % threads  # a sum is always the same thread's
        i += threads if i < 0 else 0
        if base != 0 and i < min(chunk, width - first):
            total = number(0)
            for warp in range(warps):
                total += sums.shared[warp * chunk + i]
            add_to(of_block(sums, base, width) + (first + i) * SUM_BYTES, numba.float64(total))

    return Adder(open_sums, clear, add, flush)


@lru_cache
def make_bias_gradients(storage):
    """Kernel that adds the sums of all blocks.

    ``kernel[(width / THREADS, heads), THREADS](gradient, sums, slots, width)``
    """
    number = numba.float64 if storage == "float64" else numba.float32
    load_sum, _ = scalar_access("float64")
    _, store_one = scalar_access(storage)
    size = STORED_BYTES[storage]

    def bias_gradients(gradient, sums, slots, width):
        head, i = cuda.blockIdx.y, cuda.blockIdx.x * THREADS + cuda.threadIdx.x
        total = numba.float64(0)
        if i < width:
            for slot in range(slots):
                total += load_sum(sums + ((head * slots + slot) * width + i) * SUM_BYTES)
            store_one(gradient + (head * width + i) * size, number(total))

    return compiled(THREADS, 1)(bias_gradients)
