"""Terms of the score beside q·k, and dropout, in the gather kernels.

A kernel is compiled for the terms that its call has, so that others pay nothing. All lanes of a group compute
them alike: a number for each pair. Scores are in units of ``rows.unit``, and so are caps, biases and slopes
as soon as they are read.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numba

from primeattn.kernels.gpu.device import device_function

__all__ = ["Given", "Scores", "Terms", "make_scores", "no_side"]


class Terms(NamedTuple):
    """What a kernel is compiled for; a call without any of these has None instead."""

    biases: bool  # or slopes
    cap: bool
    dropout: bool


class Given(NamedTuple):
    """The terms of a call: what its kernels take. Addresses are 0 for what was not given."""

    offset_bias: int
    global_bias: int
    slopes: int
    seed: int  # of 64 bits
    limit: int  # pairs whose hash is below are dropped
    kept: float  # the weight of the others
    cap: float
    inverse: float  # of the cap
    offset_width: int  # biases of a head
    global_width: int


class Side(NamedTuple):
    """What the terms of a thread's pairs have in common, for one query head."""

    here: int  # position of the thread's row
    at: int  # the same, from the first row that it may meet
    offset_bias: int  # address of the bias of the first offset, or 0
    global_bias: int  # of that of position 0, or 0
    slope: float
    cap: float
    inverse: float
    first: int  # hash of the row that is met, less its number
    other: int  # hash from half the way on
    limit: int
    kept: float


class Scores(NamedTuple):
    """Device functions, and what they compute with."""

    number: Any
    biased: bool  # whether there are biases or slopes
    open: Any  # (given, head, place) -> Side
    score: Any  # (side, product, bias, row) -> score of the pair with a row, derivative of the cap
    weight: Any  # (side, row) -> 0 or ``kept``, what dropout makes of the pair
    offset_bias: Any  # (side, i) -> bias of an offset by its number
    global_bias: Any  # (side, key)


def make_scores(lanes_rows, terms, sign) -> Scores:
    """Device functions for the terms of a call; ``sign`` is 1 where queries meet keys, else -1."""
    number, unit, load_one, size = lanes_rows.number, lanes_rows.unit, lanes_rows.load_one, lanes_rows.size
    biased, capped, drops = terms

    @device_function
    def open_side(given, head, place):
        offset_bias, global_bias, slope = given.offset_bias, given.global_bias, number(0)
        if offset_bias != 0:
            offset_bias += head * given.offset_width * size
        if global_bias != 0:
            global_bias += head * given.global_width * size
        if given.slopes != 0:
            slope = number(unit) * load_one(given.slopes + head * size)
        low, other = drop_key(given.seed, place.number, head)
        first = numba.uint32(place.begin + low)
        if sign > 0:
            row = mixed(numba.uint32(place.here + low), numba.uint32(0))
            first = numba.uint32(place.begin + row)
            other = mixed(numba.uint32(other + row), numba.uint32(0))
        return Side(
            place.here, numba.int32(place.here - place.begin), offset_bias, global_bias, slope, given.cap,
            given.inverse, first, other, numba.uint32(given.limit), given.kept,
        )  # fmt: skip

    @device_function
    def score(side, product, bias, row):
        result, rate = product, number(1)
        if capped:
            tanh = math.tanh(product * side.inverse)
            result, rate = side.cap * tanh, number(1) - tanh * tanh
        if biased:
            result += bias - side.slope * number(numba.int32(sign * (side.at - row)))
        return result, rate

    @device_function
    def weight(side, row):
        result = number(1)
        if drops:
            met = numba.uint32(side.first + row)
            if sign > 0:
                pair = mixed(met, side.other)
            else:
                row_hash = mixed(met, numba.uint32(0))
                half_way = mixed(numba.uint32(side.other + row_hash), numba.uint32(0))
                pair = mixed(numba.uint32(side.here + row_hash), half_way)
            result = number(0) if pair < side.limit else side.kept
        return result

    @device_function
    def offset_bias(side, i):
        base = side.offset_bias
        return number(unit) * load_one(base + i * size) if base != 0 else number(0)

    @device_function
    def global_bias(side, key):
        base = side.global_bias
        return number(unit) * load_one(base + key * size) if base != 0 else number(0)

    return Scores(number, biased, open_side, score, weight, offset_bias, global_bias)


@device_function
def no_side(given, head, place):
    """Side of a thread without terms."""
    return None


@device_function
def mixed(x, half_way):
    """Numbers of 32 bits, mixed, together with those of another from half the way on; see the reference."""
    x = numba.uint32(x ^ (x >> numba.uint32(16)))
    x = numba.uint32(x * numba.uint32(0x21F0AAAD))
    x = numba.uint32(x ^ (x >> numba.uint32(15)) ^ half_way)
    x = numba.uint32(x * numba.uint32(0x735A2D97))
    return numba.uint32(x ^ (x >> numba.uint32(15)))


@device_function
def drop_key(seed, sequence, head):
    """Both halves of the key of dropout's hash: :func:`primeattn.kernels.cpu.drop_keys.drop_keys`."""
    key = split_mix(numba.uint64(0), numba.uint64(seed))
    key = split_mix(split_mix(key, numba.uint64(sequence)), numba.uint64(head))
    return numba.uint32(key), numba.uint32(key >> numba.uint64(32))


@device_function
def split_mix(bits, part):
    bits = numba.uint64(bits + part + numba.uint64(0x9E3779B97F4A7C15))
    bits = numba.uint64((bits ^ (bits >> numba.uint64(30))) * numba.uint64(0xBF58476D1CE4E5B9))
    bits = numba.uint64((bits ^ (bits >> numba.uint64(27))) * numba.uint64(0x94D049BB133111EB))
    return numba.uint64(bits ^ (bits >> numba.uint64(31)))
