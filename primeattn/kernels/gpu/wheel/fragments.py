"""What the wheel kernels share: rows as fragments, tiles on their way to shared memory, masks, products.

A warp holds 16 rows of its block, thread t = 4 g + c of it rows g and g + 8 (see
:mod:`.tensor`). ``words`` of such rows are A of a product over their elements. In shared
memory rows are ``pitch`` bytes apart, so that eight of them lie in different banks.
"""

from __future__ import annotations

from collections import namedtuple
from functools import lru_cache
from typing import Any, NamedTuple

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import row_address
from primeattn.kernels.gpu.tables import FIELDS, HEAD, SEQUENCE, address
from primeattn.kernels.gpu.wheel import tensor

__all__ = ["TILE", "WARP", "WHEEL_HEAD", "Fragments", "make_fragments"]

WARP = 0xFFFFFFFF
BITS = 32
TILE = namedtuple("Tile", "sequence residue first")(*range(3))
# Of a query head; its offsets are those met one by one, ``steps`` and ``key_steps`` where the tables of its
# classes begin: for each, where its steps begin and how many there are.
WHEEL_HEAD = namedtuple("WheelHead", (*HEAD._fields, "steps", "key_steps"))(*range(len(HEAD) + 2))


class Fragments(NamedTuple):
    """Device functions and constants for rows of one dtype and width."""

    size: int  # words of two rows of a thread
    buffer: int  # bytes of a tile in shared memory
    # (plan, wheel, row) -> sequence, batch, row of position 0, positions of the first and the last query and
    # of rows ``row`` and ``row + 8`` of the block
    place_queries: Any
    # (plan, k, v, sequence, head) -> entry of the head, number of leading keys, addresses of its keys and
    # values, their strides
    keys_of_head: Any
    # (plan, q, dout, stats, sequence, batch, head) -> positions of the first and the last query; addresses of
    # queries, their dout and statistics from position 0 on, with their strides
    queries_of_head: Any
    place_keys: Any  # -> sequence, batch, row of position 0, number of keys, the same two positions
    load: Any  # (words, half, address): a row from global memory, at ``address`` + 4 c
    dot: Any  # (words, half, address) -> the product with such a row, in the four threads that share it
    dot_rows: Any  # (address, address) -> that of two such rows, neither of which is in registers
    scale_add: Any  # (acc, half, ratio, factor, address): acc = ratio * acc + factor * the row there
    store: Any  # (acc, half, factor, address): factor * acc to such a row, rounded once
    fetch: Any  # (place, array, stride, other, other_stride, start, wheel, low, high, thread): two tiles
    read_window: Any  # (raw, bits, at): the words of a string that the window of a step needs
    window: Any  # (words, raw, shift): bits of the window, and the same shifted by 8
    keep: Any  # (words, low, high): clear all other bits of both
    number_before: Any  # (start, wheel, end) -> how many rows start, start + wheel, ... are before end
    place: Any  # (place, lane) -> where a lane reads for ``product``
    place_transposed: Any  # (place, lane) -> where a lane reads for ``accumulate``
    product: Any  # (words, place, part) -> C with rows 16 part to 16 part + 7 of a tile, then with 8 more
    accumulate: Any  # (acc, a0, a1, a2, a3, place, part): acc += A times these 16 rows


@lru_cache
def make_fragments(storage, head_dim, warps, columns, summed=None) -> Fragments:
    """Fragments of rows of ``head_dim`` elements of ``storage``, and tiles of ``columns`` rows.

    Sums have ``summed`` columns, by default as many as rows have.
    """
    depth, width = head_dim // 16, head_dim // 8  # products along the elements: as A, and as B
    sum_width = (summed or head_dim) // 8
    pitch, chunks = 2 * head_dim + 16, head_dim // 8  # of 16 bytes
    chunk_bits = chunks.bit_length() - 1
    buffer, parts = columns * pitch, columns // BITS
    at_once = 32 * warps // chunks  # rows that a block copies
    bits = columns.bit_length()
    mma, pack, unpack = tensor.make_mma(storage), tensor.make_pack(storage), tensor.make_unpack(storage)
    load_matrices, load_transposed = tensor.load_matrices, tensor.load_matrices_transposed
    load_word, store_word, funnel = tensor.load_word, tensor.store_word, tensor.funnel
    load_again = tensor.reload_word if head_dim > 64 else load_word  # kept, wide rows do not fit
    copy_async = tensor.copy_async

    @device_function
    def place_queries(plan, wheel, row):
        tile = plan[FIELDS.query_tiles] + len(TILE) * cuda.blockIdx.x
        sequence = plan[FIELDS.sequences] + len(SEQUENCE) * plan[tile + TILE.sequence]
        before = numba.int32(plan[sequence + SEQUENCE.q_start] - plan[sequence + SEQUENCE.k_start])
        last = numba.int32(before + plan[sequence + SEQUENCE.n_q] - 1)
        x = plan[tile + TILE.residue] + (plan[tile + TILE.first] + row) * wheel
        return (
            sequence, plan[sequence + SEQUENCE.batch], plan[sequence + SEQUENCE.q_row] - before, before, last,
            numba.int32(x), numba.int32(x + 8 * wheel),
        )  # fmt: skip

    @device_function
    def keys_of_head(plan, k, v, sequence, head):
        entry, batch = plan[FIELDS.heads] + len(WHEEL_HEAD) * head, plan[sequence + SEQUENCE.batch]
        k_start, k_row = plan[sequence + SEQUENCE.k_start], plan[sequence + SEQUENCE.k_row]
        key_head = plan[entry + WHEEL_HEAD.key_head]
        return (
            entry, max(plan[entry + WHEEL_HEAD.columns] - k_start, 0),
            address(plan, k, FIELDS.k, batch, key_head, k_row, 0),
            address(plan, v, FIELDS.v, batch, key_head, k_row, 0),
            numba.int32(plan[FIELDS.k + 2]), numba.int32(plan[FIELDS.v + 2]),
        )  # fmt: skip

    @device_function
    def queries_of_head(plan, q, dout, stats, sequence, batch, head):
        before = numba.int32(plan[sequence + SEQUENCE.q_start] - plan[sequence + SEQUENCE.k_start])
        last = numba.int32(before + plan[sequence + SEQUENCE.n_q] - 1)
        q_row = plan[sequence + SEQUENCE.q_row] - before
        return before, last, (
            address(plan, q, FIELDS.q, batch, head, q_row, 0), numba.int32(plan[FIELDS.q + 2]),
            address(plan, dout, FIELDS.dout, batch, head, q_row, 0), numba.int32(plan[FIELDS.dout + 2]),
            address(plan, stats, FIELDS.stats, batch, head, q_row, 0), numba.int32(plan[FIELDS.stats + 2]),
        )  # fmt: skip

    @device_function
    def place_keys(plan, wheel, row):
        tile = plan[FIELDS.key_tiles] + len(TILE) * cuda.blockIdx.x
        sequence = plan[FIELDS.sequences] + len(SEQUENCE) * plan[tile + TILE.sequence]
        x = plan[tile + TILE.residue] + (plan[tile + TILE.first] + row) * wheel
        return (
            sequence, numba.int32(plan[sequence + SEQUENCE.batch]),
            numba.int32(plan[sequence + SEQUENCE.k_row]), numba.int32(plan[sequence + SEQUENCE.n_k]),
            numba.int32(x), numba.int32(x + 8 * wheel),
        )  # fmt: skip

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
    def fetch(place, array, stride, other, other_stride, start, wheel, low, high, thread):
        """Begin to copy rows start, start + wheel, ... of two arrays; rows outside of low to high are never
        attended, and others are copied for them."""
        row, chunk = thread >> chunk_bits, (thread & (chunks - 1)) * 16
        place += row * pitch + chunk
        start = numba.int32(start + row * wheel)
        step = numba.int32(at_once * wheel)
        for i in range(-(-columns // at_once)):
            if columns % at_once == 0 or row + i * at_once < columns:
                source = min(max(numba.int32(start + i * step), numba.int32(low)), numba.int32(high))
                at = numba.int32(place + i * at_once * pitch)
                copy_async(at, row_address(array + chunk, source, stride))
                copy_async(numba.int32(at + buffer), row_address(other + chunk, source, other_stride))

    @device_function
    def read_window(raw, strings, at):
        for i in range(parts + 2):
            raw[i] = strings[numba.uint64(at + i)]

    @device_function
    def window(words, raw, shift):
        beyond = funnel(raw[parts], raw[parts + 1], shift)
        for i in range(parts):
            words[i] = funnel(raw[i], raw[i + 1], shift)
        for i in range(parts):
            words[parts + i] = funnel(words[i], words[i + 1] if i + 1 < parts else beyond, 8)

    @device_function
    def ones(count):
        return (numba.int64(1) << numba.int64(min(max(count, 0), BITS))) - numba.int64(1)

    @device_function
    def keep(words, low, high):
        for i in range(parts):
            mask = numba.uint32(ones(high - BITS * i) & ~ones(low - BITS * i))
            words[i] &= mask
            words[parts + i] &= mask

    @device_function
    def number_before(start, wheel, end):
        count = numba.int32(0)  # a search in place of a division
        for bit in range(bits):
            more = numba.int32(count + (columns >> bit))
            if numba.int32(start + (more - 1) * wheel) < end:
                count = more
        return count

    # Which matrices a lane addresses: two that are neighbours in B, so that they are loaded to neighbours.
    @device_function
    def lane_place(place, lane):
        return numba.int32(place + ((lane & 7) + (lane >> 4) * 8) * pitch + (lane >> 3 & 1) * 16)

    @device_function
    def lane_place_transposed(place, lane):
        return numba.int32(place + (lane & 15) * pitch + (lane >> 4) * 16)

    @device_function
    def product(words, place, part):
        d0, d1, d2, d3 = numba.float32(0), numba.float32(0), numba.float32(0), numba.float32(0)
        e0, e1, e2, e3 = numba.float32(0), numba.float32(0), numba.float32(0), numba.float32(0)
        for d in range(depth):
            b = load_matrices(numba.int32(place + 16 * part * pitch + 32 * d))
            a0, a1, a2, a3 = words[4 * d], words[4 * d + 1], words[4 * d + 2], words[4 * d + 3]
            d0, d1, d2, d3 = mma(a0, a1, a2, a3, b[0], b[1], d0, d1, d2, d3)
            e0, e1, e2, e3 = mma(a0, a1, a2, a3, b[2], b[3], e0, e1, e2, e3)
        return d0, d1, d2, d3, e0, e1, e2, e3

    @device_function
    def accumulate(acc, a0, a1, a2, a3, place, part):
        for n in range(sum_width // 2):
            b = load_transposed(numba.int32(place + 16 * part * pitch + 32 * n))
            f = 8 * n
            acc[f], acc[f + 1], acc[f + 2], acc[f + 3] = mma(
                a0, a1, a2, a3, b[0], b[1], acc[f], acc[f + 1], acc[f + 2], acc[f + 3]
            )
            acc[f + 4], acc[f + 5], acc[f + 6], acc[f + 7] = mma(
                a0, a1, a2, a3, b[2], b[3], acc[f + 4], acc[f + 5], acc[f + 6], acc[f + 7]
            )

    return Fragments(
        4 * depth, buffer, place_queries, keys_of_head, queries_of_head, place_keys, load, dot, dot_rows,
        scale_add, store, fetch, read_window, window, keep, number_before, lane_place, lane_place_transposed,
        product, accumulate,
    )  # fmt: skip
