"""Masks of tiles: which pairs of a thread's two rows and a tile are attended, as bits of words.

The mask of a tile is a window of a bitmask (:mod:`primeattn.wheel.tables`). Every thread reads the words that
hold it and shifts them until its own first bit comes first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import row_address
from primeattn.kernels.gpu.wheel import tensor

__all__ = ["BITS", "Masks", "make_masks"]

BITS = 32


class Masks(NamedTuple):
    """Device functions for the masks of tiles of one width."""

    read_window: Any  # (raw, bitmasks, at): the words from word ``at`` on that a tile's window needs
    shift_window: Any  # (mask, raw, shift): bits of the window, and the same shifted by 8
    mask_outside: Any  # (mask, low, high): clear all but bits ``low`` to ``high - 1`` of both
    number_before: Any  # (start, wheel, end) -> how many rows start, start + wheel, ... are before end


def make_masks(columns) -> Masks:
    """Masks of tiles of ``columns`` rows."""
    parts, halvings = columns // BITS, columns.bit_length()
    funnel, load_word = tensor.funnel, tensor.load_word

    @device_function
    def read_window(raw, bitmasks, at):
        first = row_address(bitmasks, at, BITS // 8)
        for i in range(parts + 2):
            raw[i] = load_word(first + BITS // 8 * i)

    @device_function
    def shift_window(mask, raw, shift):
        beyond = funnel(raw[parts], raw[parts + 1], shift)
        for i in range(parts):
            mask[i] = funnel(raw[i], raw[i + 1], shift)
        for i in range(parts):
            mask[parts + i] = funnel(mask[i], mask[i + 1] if i + 1 < parts else beyond, 8)

    @device_function
    def ones(count):
        return (numba.int64(1) << numba.int64(min(max(count, 0), BITS))) - numba.int64(1)

    @device_function
    def mask_outside(mask, low, high):
        for i in range(parts):
            inside = numba.uint32(ones(high - BITS * i) & ~ones(low - BITS * i))
            mask[i] &= inside
            mask[parts + i] &= inside

    @device_function
    def number_before(start, wheel, end):
        count = numba.int32(0)  # a search in place of a division
        for halving in range(halvings):
            more = numba.int32(count + (columns >> halving))
            if numba.int32(start + (more - 1) * wheel) < end:
                count = more
        return count

    return Masks(read_window, shift_window, mask_outside, number_before)
