"""What the wheel kernels share: rows as fragments, copies of tiles to shared memory, products.

A warp holds 16 rows of its block, thread 4 g + c of it rows g and g + 8 (see :mod:`.tensor`). ``words`` of
such rows are A of a product over their elements. In shared memory rows are ``pitch`` bytes apart, so that
eight of them lie in different banks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import WARP, row_address
from primeattn.kernels.gpu.wheel import tensor

__all__ = ["Fragments", "make_fragments"]


class Fragments(NamedTuple):
    """Device functions and constants for rows of one dtype and width."""

    size: int  # words of two rows of a thread
    buffer: int  # bytes of a tile in shared memory
    load: Any  # (words, half, address): a row from global memory, at ``address`` + 4 c
    dot: Any  # (words, half, address) -> the product with such a row, in the four threads that share it
    dot_rows: Any  # (address, address) -> that of two such rows, neither of which is in registers
    scale_add: Any  # (acc, half, ratio, factor, address): acc = ratio * acc + factor * the row there
    store: Any  # (acc, half, factor, address): factor * acc to such a row, rounded once
    fetch: Any  # (shared_at, array, stride, other, other_stride, start, wheel, low, high, thread): two tiles
    tile_at: Any  # (shared_at, lane) -> where a lane reads for ``product``
    tile_at_transposed: Any  # (shared_at, lane) -> where a lane reads for ``accumulate``
    product: Any  # (words, at, part) -> C with rows 16 part to 16 part + 7 of a tile, then with 8 more
    accumulate: Any  # (acc, a0, a1, a2, a3, at, part): acc += A times these 16 rows


@lru_cache
def make_fragments(storage, head_dim, warps, columns, summed=None) -> Fragments:
    """Fragments of rows of ``head_dim`` elements of ``storage``, and tiles of ``columns`` rows.

    Sums have ``summed`` columns, by default as many as rows have.
    """
    depth, width = head_dim // 16, head_dim // 8  # products along the elements: as A, and as B
    sum_width = (summed or head_dim) // 8
    pitch, chunks = 2 * head_dim + 16, head_dim // 8  # of 16 bytes
    chunk_bits = chunks.bit_length() - 1
    buffer = columns * pitch
    at_once = 32 * warps // chunks  # rows that a block copies
    mma, pack, unpack = tensor.make_mma(storage), tensor.make_pack(storage), tensor.make_unpack(storage)
    load_matrices, load_transposed = tensor.load_matrices, tensor.load_matrices_transposed
    load_word, store_word = tensor.load_word, tensor.store_word
    load_again = tensor.reload_word if head_dim > 64 else load_word  # kept, wide rows do not fit
    copy_async = tensor.copy_async

    @device_function
    def load(words, half, address):
        for d in range(depth):
            words[4 * d + half] = load_word(address + 32 * d)
            words[4 * d + 2 + half] = load_word(address + 32 * d + 16)

    @device_function
    def over_row(total):
        total += cuda.shfl_xor_sync(WARP, total, 1)
        total += cuda.shfl_xor_sync(WARP, total, 2)
        return total

    @device_function
    def dot(words, half, address):
        total = numba.float32(0)
        for n in range(width):
            x0, x1 = unpack(words[4 * (n // 2) + 2 * (n % 2) + half])
            y0, y1 = unpack(load_word(address + 16 * n))
            total += x0 * y0
            total += x1 * y1
        return over_row(total)

    @device_function
    def dot_rows(x, y):
        total = numba.float32(0)
        for n in range(width):
            x0, x1 = unpack(load_word(x + 16 * n))
            y0, y1 = unpack(load_word(y + 16 * n))
            total += x0 * y0
            total += x1 * y1
        return over_row(total)

    @device_function
    def scale_add(acc, half, ratio, factor, address):
        for n in range(sum_width):
            y0, y1 = unpack(load_again(address + 16 * n))
            acc[4 * n + 2 * half] = ratio * acc[4 * n + 2 * half] + factor * y0
            acc[4 * n + 2 * half + 1] = ratio * acc[4 * n + 2 * half + 1] + factor * y1

    @device_function
    def store(acc, half, factor, address):
        for n in range(sum_width):
            low, high = factor * acc[4 * n + 2 * half], factor * acc[4 * n + 2 * half + 1]
            store_word(address + 16 * n, pack(low, high))

    @device_function
    def fetch(shared_at, array, stride, other, other_stride, start, wheel, low, high, thread):
        """Begin to copy rows start, start + wheel, ... of two arrays; rows outside of low to high are never
        attended, and others are copied for them."""
        row, chunk = thread >> chunk_bits, (thread & (chunks - 1)) * 16
        shared_at = numba.int32(shared_at + row * pitch + chunk)
        start = numba.int32(start + row * wheel)
        step = numba.int32(at_once * wheel)
        for i in range(-(-columns // at_once)):
            if (i + 1) * at_once <= columns or row + i * at_once < columns:
                source = min(max(numba.int32(start + i * step), numba.int32(low)), numba.int32(high))
                at = numba.int32(shared_at + i * at_once * pitch)
                copy_async(at, row_address(array + chunk, source, stride))
                copy_async(numba.int32(at + buffer), row_address(other + chunk, source, other_stride))

    # Which matrices a lane addresses: two that are neighbours in B, so that they are loaded to neighbours.
    @device_function
    def tile_at(shared_at, lane):
        return numba.int32(shared_at + ((lane & 7) + (lane >> 4) * 8) * pitch + (lane >> 3 & 1) * 16)

    @device_function
    def tile_at_transposed(shared_at, lane):
        return numba.int32(shared_at + (lane & 15) * pitch + (lane >> 4) * 16)

    @device_function
    def product(words, at, part):
        d0, d1, d2, d3 = numba.float32(0), numba.float32(0), numba.float32(0), numba.float32(0)
        e0, e1, e2, e3 = numba.float32(0), numba.float32(0), numba.float32(0), numba.float32(0)
        for d in range(depth):
            b = load_matrices(numba.int32(at + 16 * part * pitch + 32 * d))
            a0, a1, a2, a3 = words[4 * d], words[4 * d + 1], words[4 * d + 2], words[4 * d + 3]
            d0, d1, d2, d3 = mma(a0, a1, a2, a3, b[0], b[1], d0, d1, d2, d3)
            e0, e1, e2, e3 = mma(a0, a1, a2, a3, b[2], b[3], e0, e1, e2, e3)
        return d0, d1, d2, d3, e0, e1, e2, e3

    @device_function
    def accumulate(acc, a0, a1, a2, a3, at, part):
        for n in range(sum_width // 2):
            b = load_transposed(numba.int32(at + 16 * part * pitch + 32 * n))
            f = 8 * n
            acc[f], acc[f + 1], acc[f + 2], acc[f + 3] = mma(
                a0, a1, a2, a3, b[0], b[1], acc[f], acc[f + 1], acc[f + 2], acc[f + 3]
            )
            acc[f + 4], acc[f + 5], acc[f + 6], acc[f + 7] = mma(
                a0, a1, a2, a3, b[2], b[3], acc[f + 4], acc[f + 5], acc[f + 6], acc[f + 7]
            )

    return Fragments(
        size=4 * depth, buffer=buffer, load=load, dot=dot, dot_rows=dot_rows, scale_add=scale_add,
        store=store, fetch=fetch, tile_at=tile_at, tile_at_transposed=tile_at_transposed, product=product,
        accumulate=accumulate,
    )  # fmt: skip
