"""Loops over the rows of attention heads: rotation by position, and the share that a sink leaves."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from primeattn.compiled.addresses import I64, atomic_add
from primeattn.compiled.handover import enter, leave
from primeattn.compiled.jit import cached_njit, part_njit
from primeattn.compiled.simd import Emitter

__all__ = ["rotate", "weigh", "weigh_backward"]

ROWS = 64  # positions that a worker draws at once
ZERO, ONE = np.int64(0), np.int64(1)


@intrinsic
def _turn(typingctx, sign, low, high, cos, sin, n):
    """``low, high = low cos - high s, high cos + low s`` with s = sign sin, for n numbers at addresses."""

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, sign)
        sign_of, *places, n = args
        for lanes in (emit.lanes, 1):
            kind, step = ir.VectorType(emit.element, lanes), lanes * emit.size
            times = builder.sdiv(n, I64(lanes))
            with emit.rows(times, *((place, step) for place in places)) as at:
                a, b, c, s = (emit.load(kind, place) for place in at)
                s = builder.fmul(emit.splat(sign_of, kind), s)
                emit.store(builder.fsub(builder.fmul(a, c), builder.fmul(b, s)), at[0])
                emit.store(builder.fadd(builder.fmul(b, c), builder.fmul(a, s)), at[1])
            done = builder.mul(times, I64(step))
            places = [builder.add(place, done) for place in places]
            n = builder.srem(n, I64(lanes))
        return context.get_dummy_value()

    return types.void(sign, low, high, cos, sin, n), codegen


@cached_njit
def rotate(sign, address, shape, strides, positions, cos, sin, word, helps):
    """Turn the first 2 * cos.shape[1] numbers of each row by ``sign`` times the angle of its position.

    The rows are those of an array (batch, heads, length, head_dim) with these strides in bytes. ``positions``
    (batch or 1, length) are rows of the tables cos and sin; below 0 nothing is turned.
    """
    if not enter(word, helps):
        return
    batch, heads, length = shape
    half, size = cos.shape[1], sin.itemsize
    blocks = (length + ROWS - 1) // ROWS
    while True:
        block = atomic_add(word + 8, ONE)
        if block >= batch * blocks:
            break
        b, first = block // blocks, block % blocks * ROWS
        at = positions[b if len(positions) > 1 else 0]
        for r in range(first, min(first + ROWS, length)):
            if at[r] >= 0:
                c, s = np.int64(cos[at[r]].ctypes.data), np.int64(sin[at[r]].ctypes.data)
                for h in range(heads):
                    row = address + b * strides[0] + h * strides[1] + r * strides[2]
                    _turn(sign, row, row + half * size, c, s, half)
    leave(word, helps)


@part_njit
def _sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    e = np.exp(-abs(x))
    return 1.0 / (1.0 + e) if x >= 0 else e / (1.0 + e)


@cached_njit
def weigh(out, lse, sinks, result):
    """``result = out * sigmoid(lse - sink)``: the share of the weight that the sink of the head leaves.

    out and result are (rows, heads, head_dim), lse (heads, rows), sinks (heads,).
    """
    for r in range(len(out)):
        for h in range(sinks.size):
            share = out.dtype.type(_sigmoid(np.float64(lse[h, r]) - np.float64(sinks[h])))
            for c in range(out.shape[2]):
                result[r, h, c] = out[r, h, c] * share if share != 0 else share


@cached_njit
def weigh_backward(dresult, out, lse, sinks, dout, dlse, dsinks):
    """Gradients of ``weigh``: dout and dlse, and onto dsinks in float64."""
    for r in range(len(out)):
        for h in range(sinks.size):
            share = _sigmoid(np.float64(lse[h, r]) - np.float64(sinks[h]))
            weight, along = out.dtype.type(share), 0.0
            for c in range(out.shape[2]):
                along += np.float64(dresult[r, h, c]) * np.float64(out[r, h, c])
                dout[r, h, c] = dresult[r, h, c] * weight
            slope = along * share * (1.0 - share)
            dlse[h, r] = slope
            dsinks[h] -= slope
