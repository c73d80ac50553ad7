"""Vector micro-kernels for scores that are more than q·k: a soft cap, biases, and sums of their gradients.

Also for dropout, which weighs what comes after.

Addresses and groups as in :mod:`.simd`.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from primeattn.compiled.addresses import I32, I64
from primeattn.compiled.simd import GROUP, Emitter

__all__ = ["add_biases", "cap_scores", "column_sums", "drop_pairs"]


def _tanh(emit, x, twice):
    """tanh(x) from ``twice`` x, to within a few units in the last place; NaN for NaN.

    It is (e^2x - 1) / (e^2x + 1). e^2x - 1 = e r 2^n + (2^n - 1) is as exact for small x as for large.
    """
    e, r, power = emit.exp_parts(twice)
    less = emit.fma(emit.b.fmul(e, r), power, emit.b.fsub(power, emit.const(1.0, x.type)))
    return emit.b.fdiv(less, emit.b.fadd(less, emit.const(2.0, x.type)))


@intrinsic
def cap_scores(typingctx, one, s, rates, cap, n):
    """s[r] <- cap * tanh(s[r] / cap), and rates[r] <- 1 - tanh(s[r] / cap)^2, for n rows of a group.

    ``rates`` is None where they are not wanted.
    """
    wanted = not isinstance(rates, types.NoneType)

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, rates, cap, n = args
        double = builder.fdiv(ir.Constant(emit.element, 2.0), cap)

        def body(s, *rates):
            x, kind = emit.load(emit.groups, s), emit.groups
            tanh = _tanh(emit, x, builder.fmul(x, emit.splat(double, kind)))
            emit.store(builder.fmul(emit.splat(cap, kind), tanh), s)
            for at in rates:
                emit.store(emit.fma(builder.fneg(tanh), tanh, emit.const(1.0, kind)), at)

        row = GROUP * emit.size
        emit.over_rows(n, [(s, row), *([(rates, row)] if wanted else [])], body)
        return context.get_dummy_value()

    return types.void(one, s, rates, cap, n), codegen


@intrinsic
def add_biases(typingctx, one, s, stride, n, by_row, row_step, by_slot, slope, distances, step):
    """s[r, u] += by_row[r] + by_slot[u] - slope * (distances[u] + step * r) for n rows of a group.

    Rows of s are ``stride`` bytes apart, numbers by_row[r] ``row_step`` bytes; step is an integer.
    """

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, stride, n, by_row, row_step, by_slot, slope, distances, step = args
        by_slot, distances = (emit.load(emit.group, at) for at in (by_slot, distances))
        slope = emit.splat(builder.fneg(slope), emit.group)
        with emit.rows(n, (s, stride), (by_row, row_step), (I64(0), step)) as (s, by_row, further):
            further = emit.splat(builder.sitofp(further, emit.element), emit.group)
            bias = builder.fadd(by_slot, emit.splat(emit.load(emit.element, by_row), emit.group))
            bias = emit.fma(slope, builder.fadd(distances, further), bias)
            emit.store(builder.fadd(emit.load(emit.group, s), bias), s)
        return context.get_dummy_value()

    kinds = one, s, stride, n, by_row, row_step, by_slot, slope, distances, step
    return types.void(*kinds), codegen


@intrinsic
def column_sums(typingctx, one, s, n, total):
    """total[u] = sum over n >= 1 rows of s[r, u], eight numbers in float64."""

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, n, total = args
        doubles = ir.VectorType(ir.DoubleType(), GROUP)

        def add(at, so_far):
            group = emit.load(emit.group, at)
            return builder.fadd(so_far, group if emit.double else builder.fpext(group, doubles))

        zeros = ir.Constant(doubles, [0.0] * GROUP)
        emit.store(emit.fold(s, I64(GROUP * emit.size), n, zeros, add), total)
        return context.get_dummy_value()

    return types.void(one, s, n, total), codegen


def _mix(emit, x, half_way=None):
    """Mix the 32 bits of each x, and those of other numbers from half the way on."""
    b = emit.b

    def shifted(x, bits):
        return b.xor(x, b.lshr(x, emit.const(bits, x.type)))

    x = shifted(b.mul(shifted(x, 16), emit.const(0x21F0AAAD, x.type)), 15)
    if half_way is not None:
        x = b.xor(x, half_way)
    return shifted(b.mul(x, emit.const(0x735A2D97, x.type)), 15)


@intrinsic
def drop_pairs(typingctx, one, s, stride, n, queries, query_step, keys, key_step, drop, kept):
    """s[r, u] *= 0 or ``kept``, by a hash of the positions of query and key, for n rows of a group.

    The query is queries[u] + query_step * r, and so is the key. ``drop`` is the key of the hash, two numbers,
    and its limit, below which a pair is dropped. All these are integers.
    """

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, stride, n, queries, query_step, keys, key_step, drop, kept = args
        wide, kind = ir.VectorType(I64, GROUP), ir.VectorType(I32, GROUP)
        queries, keys = (builder.trunc(emit.load(wide, at), kind) for at in (queries, keys))
        key, other, limit = (
            emit.splat(builder.trunc(builder.extract_value(drop, i), I32), kind) for i in range(3)
        )
        queries, kept = builder.add(queries, key), emit.splat(kept, emit.group)
        moving = (s, stride), (I64(0), query_step), (I64(0), key_step)
        with emit.rows(n, *moving) as (s, *further):
            further = (emit.splat(builder.trunc(x, I32), kind) for x in further)
            query, key = map(builder.add, (queries, keys), further)
            row = _mix(emit, query)
            number = _mix(emit, builder.add(key, row), _mix(emit, builder.add(row, other)))
            weight = builder.select(builder.icmp_unsigned("<", number, limit), emit.const(0.0), kept)
            emit.store(builder.fmul(emit.load(emit.group, s), weight), s)
        return context.get_dummy_value()

    return types.void(one, s, stride, n, queries, query_step, keys, key_step, drop, kept), codegen
