"""Rows over lanes: how the threads of a group hold rows of q, k or v and compute with them.

A row of ``head_dim`` elements is spread over ``lanes`` threads of a warp, 16 bytes to each in turn, so that
the group reads it in whole cache lines. A thread holds ``dims`` numbers of it in registers: a part of a local
array that is indexed by constants. Numbers beyond ``head_dim`` are zeros.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numba
from numba import cuda

from primeattn.kernels.gpu import ptx
from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import WARP, row_address

__all__ = ["Rows", "make_load_rows", "make_rows"]

LANE_NUMBERS = 8  # of a row in one thread, unless 32 lanes are too few


class Rows(NamedTuple):
    """Device functions and constants for rows of one dtype and width."""

    lanes: int
    dims: int
    number: Any  # Numba type of what is computed with
    unit: float  # exp(x) is computed as exp(unit * x) by ``exp`` below
    load: Any  # (rows, at, address, lane): rows[at : at + dims] from the lane's part, at ``address``
    store: Any  # (address, row, factor, lane): factor * row, rounded once
    load_number: Any  # (address) of lse and delta, which are numbers in memory too
    store_number: Any
    load_one: Any  # (address) of an element, as a number
    size: int  # bytes of an element
    dot: Any  # (row, rows, at) -> the product with rows[at : at + dims], in every lane
    exp: Any  # (x) -> exp(x / unit)


@lru_cache
def make_rows(storage, head_dim, aligned) -> Rows:
    """Rows of ``head_dim`` elements of ``storage``; ``aligned``: each fills whole vectors of 16 bytes."""
    bits = {"float64": 64, "float32": 32}.get(storage, 16)
    size, count = bits // 8, ptx.VECTOR_BYTES * 8 // bits
    lanes = min(32, 1 << (-(-head_dim // LANE_NUMBERS) - 1).bit_length())
    vectors = -(-head_dim // (count * lanes))
    dims = vectors * count
    number = numba.float64 if storage == "float64" else numba.float32
    load_vector, store_vector = ptx.vector_access(storage)
    load_one, store_one = ptx.scalar_access(storage)
    load_number, store_number = ptx.scalar_access("float64" if storage == "float64" else "float32")
    whole = aligned and head_dim % count == 0
    full = head_dim == lanes * dims  # nothing lies beyond the row

    @device_function
    def load(rows, at, address, lane):
        # No branches, so that loads of several rows are on their way at once.
        for vector in range(vectors):
            first = vector * lanes * count  # element, from the lane's first one on
            if whole:
                inside = full or first + lane * count < head_dim
                values = load_vector(address + (first * size if inside else -lane * ptx.VECTOR_BYTES))
                for i in range(count):
                    rows[at + vector * count + i] = values[i] if inside else number(0)
            else:
                for i in range(count):
                    inside = first + i + lane * count < head_dim
                    value = load_one(address + ((first + i) * size if inside else -lane * ptx.VECTOR_BYTES))
                    rows[at + vector * count + i] = value if inside else number(0)

    @device_function
    def store(address, row, factor, lane):
        for vector in range(vectors):
            first = vector * lanes * count
            if whole:
                if full or first + lane * count < head_dim:
                    store_vector(address + first * size, scaled(row, vector * count, factor))
            else:
                for i in range(count):
                    if first + i + lane * count < head_dim:
                        store_one(address + (first + i) * size, factor * row[vector * count + i])

    @device_function
    def dot(row, rows, at):
        total = number(0)
        for i in range(dims):
            total += row[i] * rows[at + i]
        step = 1
        while step < lanes:
            total += cuda.shfl_xor_sync(WARP, total, step)
            step *= 2
        return total

    scaled = _make_scaled(count)
    unit = 1.0 if storage == "float64" else math.log2(math.e)
    exp = math.exp if storage == "float64" else ptx.exp2
    return Rows(
        lanes=lanes, dims=dims, number=number, unit=unit, load=load, store=store, load_number=load_number,
        store_number=store_number, load_one=load_one, size=size, dot=dot, exp=exp,
    )  # fmt: skip


def make_load_rows(lanes_rows, count, masked):
    """Device function that loads ``count`` rows by number; where ``masked``, a negative one is none."""
    dims, load = lanes_rows.dims, lanes_rows.load

    @device_function
    def load_rows(into, base, stride, rows, lane):
        for u in range(count):
            row = max(rows[u], numba.int32(0)) if masked else rows[u]  # of none, the first is read
            load(into, u * dims, row_address(base, row, stride), lane)

    return load_rows


def _make_scaled(count):
    """Device function: ``count`` entries of a row from ``first`` on, times ``factor``, as a tuple."""
    if count == 2:
        return device_function(lambda row, first, factor: (factor * row[first], factor * row[first + 1]))

    @device_function
    def four(row, first, factor):
        return (
            factor * row[first],
            factor * row[first + 1],
            factor * row[first + 2],
            factor * row[first + 3],
        )

    if count == 4:
        return four
    return device_function(lambda row, first, factor: four(row, first, factor) + four(row, first + 4, factor))
