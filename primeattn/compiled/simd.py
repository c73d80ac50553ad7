"""Vector micro-kernels: LLVM vector code behind ``@intrinsic``, for float32 and float64.

Numba's loop vectoriser handles the horizontal sums of short dot products badly. These intrinsics are written
in vectors, and LLVM lowers the same code to AVX-512, AVX2 or NEON. Everything works on addresses (int64), so
that array layouts cause no specialisation; ``one`` is a 1 of the working dtype.

Rows are cut into *chunks* of at most four cache lines (64 bytes each, so 64 float32 or 32 float64 columns):
``lines`` is 4, 2 or 1 and must be a literal. Scores come in *groups* of eight (``GROUP``): the scores of one
row with eight others, side by side.
"""

from __future__ import annotations

import math
from contextlib import contextmanager

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from primeattn.compiled.addresses import I32, I64, LINE

GROUP = 8  # scores computed at once
CHUNK = 4  # lines of a full chunk: with eight accumulators it just fits the registers

VECTOR = 64 if get_host_cpu_features().get("avx512f") else 32  # bytes of a vector register

# ln 2 rounded to the dtype, and the remainder.
LN2_SINGLE = (float(np.float32(math.log(2))), math.log(2) - float(np.float32(math.log(2))))
LN2_DOUBLE = (math.log(2), 2.3190468138462996e-17)


class Emitter:
    """LLVM vector code of one element type."""

    def __init__(self, builder, dtype):
        self.b = builder
        self.double = dtype == types.float64
        self.size = 8 if self.double else 4
        self.element = ir.DoubleType() if self.double else ir.FloatType()
        self.group = ir.VectorType(self.element, GROUP)
        self.lanes = VECTOR // self.size
        self.vector = ir.VectorType(self.element, self.lanes)
        self._take(1)

    def _take(self, together):
        """From now on, ``groups`` is the type of the groups of ``together`` rows."""
        self.together, self.groups = together, ir.VectorType(self.element, together * GROUP)

    def at(self, address, offset=0):
        return self.b.add(address, I64(offset)) if offset else address

    def at_rows(self, address, rows, lines):
        """Addresses of the rows numbered in a tuple, each ``lines`` cache lines wide."""
        width = I64(lines * LINE)
        return [self.b.add(address, self.b.mul(r, width)) for r in cgutils.unpack_tuple(self.b, rows)]

    def load(self, kind, address, offset=0):
        pointer = self.b.inttoptr(self.at(address, offset), kind.as_pointer())
        return self.b.load(pointer, align=self.size)

    def store(self, value, address, offset=0):
        pointer = self.b.inttoptr(self.at(address, offset), value.type.as_pointer())
        self.b.store(value, pointer, align=self.size)

    def const(self, value, kind=None):
        kind = kind or self.group
        return ir.Constant(kind, [value] * kind.count)

    def fma(self, x, y, z):
        name = f"llvm.fma.v{x.type.count}f{8 * self.size}"  # llvmlite's own fma refuses vectors
        kind = ir.FunctionType(x.type, [x.type] * 3)
        function = self.b.module.globals.get(name) or ir.Function(self.b.module, kind, name)
        return self.b.call(function, [x, y, z])

    def multiply_add(self, x, y, total):
        """x * y + total, or x * y if there is no total yet."""
        return self.b.fmul(x, y) if total is None else self.fma(x, y, total)

    def shuffle(self, x, y, index):
        return self.b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(index)), index))

    def splat(self, scalar, kind):
        first = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, I32(0))
        return self.shuffle(first, first, [0] * kind.count)

    @contextmanager
    def rows(self, n, *moving):
        """Loop over n rows; ``moving`` are (address, step) pairs, and the body gets the addresses."""
        steps = [I64(step) if isinstance(step, int) else step for _, step in moving]
        before, body, after = (self.b.append_basic_block(name) for name in ("before", "row", "after"))
        self.b.branch(before)
        self.b.position_at_end(before)
        self.b.cbranch(self.b.icmp_signed(">", n, I64(0)), body, after)
        self.b.position_at_end(body)
        states = [self.b.phi(I64) for _ in range(len(moving) + 1)]
        for state, start in zip(states, [n, *(address for address, _ in moving)], strict=True):
            state.add_incoming(start, before)
        yield states[1:]
        following = [self.b.sub(states[0], I64(1)), *map(self.b.add, states[1:], steps)]
        for state, value in zip(states, following, strict=True):
            state.add_incoming(value, self.b.block)
        self.b.cbranch(self.b.icmp_signed(">", following[0], I64(0)), body, after)
        self.b.position_at_end(after)

    def fold(self, at, stride, count, start, step):
        """``step(address, value)`` over ``count`` >= 1 addresses ``stride`` apart, beginning at ``start``."""
        before, body, after = self.b.block, *(self.b.append_basic_block(name) for name in ("fold", "folded"))
        self.b.branch(body)
        self.b.position_at_end(body)
        left, address, value = self.b.phi(I64), self.b.phi(I64), self.b.phi(start.type)
        result = step(address, value)
        following = self.b.sub(left, I64(1)), self.b.add(address, stride), result
        for state, first, later in zip((left, address, value), (count, at, start), following, strict=True):
            state.add_incoming(first, before)
            state.add_incoming(later, self.b.block)
        self.b.cbranch(self.b.icmp_signed(">", following[0], I64(0)), body, after)
        self.b.position_at_end(after)
        return result

    def over_rows(self, n, moving, body):
        """``body(*addresses)`` for n rows: in pairs if two groups fit a register, the rest one by one."""
        moving = [(at, I64(step) if isinstance(step, int) else step) for at, step in moving]
        for together in dict.fromkeys((max(self.lanes // GROUP, 1), 1)):
            self._take(together)
            times = self.b.sdiv(n, I64(together))
            done = self.b.mul(times, I64(together))
            with self.rows(times, *((at, self.b.mul(step, I64(together))) for at, step in moving)) as at:
                body(*at)
            n = self.b.sub(n, done)
            moving = [(self.b.add(at, self.b.mul(done, step)), step) for at, step in moving]

    def spread(self, address, step):
        """Load one number per row, ``step`` bytes apart, into all lanes of the row's group."""
        at = [self.b.add(address, self.b.mul(step, I64(i))) for i in range(self.together)]
        vectors = [self.splat(self.load(self.element, a), self.group) for a in at]
        return vectors[0] if self.together == 1 else self.shuffle(*vectors, list(range(2 * GROUP)))

    def by_row(self, x):
        """Split into the groups of single rows."""
        return [x] if self.together == 1 else self.halves(x)

    def halves(self, x):
        half = x.type.count // 2
        low = self.shuffle(x, x, list(range(half)))
        return low, self.shuffle(x, x, list(range(half, 2 * half)))

    def total(self, x):
        """Sum of all lanes of ``x``, in pairs."""
        while x.type.count > 1:
            x = self.b.fadd(*self.halves(x))
        return self.b.extract_element(x, I32(0))

    def maximum(self, x, y):
        """Larger of x and y; x if y is NaN."""
        return self.b.select(self.b.fcmp_ordered(">", y, x), y, x)

    def sums(self, vectors):
        """Lane sums of up to eight vectors in one vector, by a tree of pairwise transpose-and-add.

        A vector that holds ``k`` different sums holds them in runs of k lanes; joining two such vectors adds
        alternate runs of both and leaves runs of 2k. Vectors shorter than a group are laid end to end once
        every lane is a finished sum. The order of additions is the same for each vector, however many there
        are; missing sums are 0.
        """
        k, count = 1, len(vectors)
        vectors = [*vectors, *[vectors[-1]] * (GROUP - count)]
        while len(vectors) > 1:
            n = vectors[0].type.count
            if k >= n:
                pairs = zip(vectors[::2], vectors[1::2], strict=True)
                vectors = [self.shuffle(x, y, list(range(2 * n))) for x, y in pairs]
                k *= 2
                continue
            even, odd = [], []
            for lane in range(0, n, 2 * k):
                run = range(lane, lane + k)
                even += [*run, *(n + i for i in run)]
                odd += [*(i + k for i in run), *(n + i + k for i in run)]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.b.fadd(self.shuffle(x, y, even), self.shuffle(x, y, odd)) for x, y in pairs]
            k *= 2
        result = vectors[0]
        while result.type.count > GROUP:
            result = self.b.fadd(*self.halves(result))
        if count == GROUP:
            return result
        lanes = [*range(count), *[GROUP] * (GROUP - count)]
        return self.shuffle(result, self.const(0.0), lanes)

    def exp(self, x):
        """e^x to within 2 units in the last place; 0 below the normal range, saturates above, NaN for NaN."""
        e, r, power = self.exp_parts(x)
        return self.b.fmul(self.fma(e, r, self.const(1.0, x.type)), power)

    def exp_parts(self, x):
        """e, r and 2^n, of which e^x is (1 + e r) 2^n.

        x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor polynomial, 2^n through the exponent bits.
        Adding 1.5 * 2^(mantissa bits) + bias rounds to an integer and leaves it, as an exponent, in the low
        bits, without a conversion to integer, undefined for NaN; the lowest exponent stands for 0.
        ln 2 is subtracted in two parts, the first without rounding.
        """
        b = self.b
        mantissa, bias, degree = (52, 1023, 13) if self.double else (23, 127, 7)
        ln2, ln2_rest = LN2_DOUBLE if self.double else LN2_SINGLE
        magic = self.const(1.5 * 2**mantissa + bias, x.type)
        low = self.const(-bias * math.log(2), x.type)
        high = self.const(709.0 if self.double else 88.0, x.type)
        x = b.select(b.fcmp_ordered("<", x, low), low, x)
        x = b.select(b.fcmp_ordered(">", x, high), high, x)
        shifted = self.fma(x, self.const(1 / math.log(2), x.type), magic)
        n = b.fsub(shifted, magic)
        r = self.fma(n, self.const(-ln2, x.type), x)
        r = self.fma(n, self.const(-ln2_rest, x.type), r)
        e = self.const(1 / math.factorial(degree), x.type)
        for k in range(degree - 1, 0, -1):
            e = self.fma(e, r, self.const(1 / math.factorial(k), x.type))
        integer = ir.VectorType(I64 if self.double else I32, x.type.count)
        power = b.shl(b.bitcast(shifted, integer), self.const(mantissa, integer))
        return e, r, b.bitcast(power, x.type)


def _literal(lines):
    return lines.literal_value if isinstance(lines, types.IntegerLiteral) else None


@intrinsic
def dot8(typingctx, lines, one, heads, x, y, rows, y_step, old, old_step, s, n):
    """s[r, h, u] = old[r, h, u] + x[r, h] · y[rows[u], r] for n rows r and eight ``rows``.

    Of two rows, the rest is old. There are as many h as numbers in the tuple ``heads``: heads whose rows
    meet the same rows of y. Rows of x and rows[u] of y are ``lines`` cache lines wide, and x[r, h] lie
    one after the other; y[rows[u], r] are ``y_step`` bytes apart, and old[r] ``old_step``.
    """
    n_lines = _literal(lines)
    if n_lines is None:
        return None

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        x, y, rows, y_step, old, old_step, s, n = args[3:]
        ys, row, group = emit.at_rows(y, rows, n_lines), n_lines * LINE, GROUP * emit.size
        with emit.rows(
            n, (x, len(heads) * row), (I64(0), y_step), (old, old_step), (s, len(heads) * group)
        ) as at:
            x, offset, old, s = at
            at = [builder.add(y, offset) for y in ys]
            totals = [[None] * len(ys) for _ in heads]
            for step in range(0, row, VECTOR):  # eight chains side by side hide their latency
                y_parts = [emit.load(emit.vector, y, step) for y in at]
                for h, sums in enumerate(totals):
                    x_part = emit.load(emit.vector, x, h * row + step)
                    for u, y_part in enumerate(y_parts):
                        sums[u] = emit.multiply_add(x_part, y_part, sums[u])
            for h, sums in enumerate(totals):
                total = builder.fadd(emit.sums(sums), emit.load(emit.group, old, h * group))
                emit.store(total, s, h * group)
        return context.get_dummy_value()

    return types.void(lines, one, heads, x, y, rows, y_step, old, old_step, s, n), codegen


@intrinsic
def axpy8(typingctx, lines, one, heads, x, y, rows, y_step, s, n):
    """x[r, h] += sum over u of s[r, h, u] * y[rows[u], r] for n rows r; all else as in ``dot8``.

    The sum is taken before x is added: a chain of additions to x is an eighth as long.
    """
    n_lines = _literal(lines)
    if n_lines is None:
        return None

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        x, y, rows, y_step, s, n = args[3:]
        ys, row, group = emit.at_rows(y, rows, n_lines), n_lines * LINE, GROUP * emit.size
        steps = range(0, row, VECTOR)
        with emit.rows(n, (x, len(heads) * row), (I64(0), y_step), (s, len(heads) * group)) as (x, offset, s):
            totals = [[None] * len(steps) for _ in heads]
            for u, y in enumerate(ys):
                y = builder.add(y, offset)
                parts = [emit.load(emit.vector, y, step) for step in steps]
                for h, sums in enumerate(totals):
                    weight = emit.load(emit.element, s, h * group + u * emit.size)
                    weight = emit.splat(weight, emit.vector)
                    for i, part in enumerate(parts):
                        sums[i] = emit.multiply_add(weight, part, sums[i])
            for h, sums in enumerate(totals):
                for step, total in zip(steps, sums, strict=True):
                    at = h * row + step
                    emit.store(builder.fadd(emit.load(emit.vector, x, at), total), x, at)
        return context.get_dummy_value()

    return types.void(lines, one, heads, x, y, rows, y_step, s, n), codegen


@intrinsic
def scale_lines(typingctx, lines, one, x, factor, y):
    """y = factor * x, ``lines`` cache lines of numbers."""
    n_lines = _literal(lines)
    if n_lines is None:
        return None

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        x, factor, y = args[2:]
        factor = emit.splat(factor, emit.vector)
        steps = range(0, n_lines * LINE, VECTOR)
        parts = [emit.load(emit.vector, x, step) for step in steps]
        for part, step in zip(parts, steps, strict=True):
            emit.store(builder.fmul(factor, part), y, step)
        return context.get_dummy_value()

    return types.void(lines, one, x, factor, y), codegen


@intrinsic
def row_max(typingctx, one, s, stride, groups, best, n):
    """best[r] = the largest of best[r] and of ``groups`` groups s[g, r], ``stride`` bytes apart, for n rows.

    NaN is ignored.
    """

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, stride, groups, best, n = args

        def largest(at, so_far):
            return emit.maximum(so_far, emit.load(emit.groups, at))

        def reduce(group):
            while group.type.count > 1:
                group = emit.maximum(*emit.halves(group))
            return builder.extract_element(group, I32(0))

        def body(s, best):
            found = emit.fold(s, stride, groups, emit.spread(best, I64(emit.size)), largest)
            for i, group in enumerate(emit.by_row(found)):
                emit.store(reduce(group), best, i * emit.size)

        emit.over_rows(n, [(s, GROUP * emit.size), (best, emit.size)], body)
        return context.get_dummy_value()

    return types.void(one, s, stride, groups, best, n), codegen


@intrinsic
def row_exp(typingctx, one, s, stride, groups, shift, total, n):
    """s[g, r] <- exp(s[g, r] - shift[r]) in place, total[r] += their sum, over groups as in ``row_max``."""

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, stride, groups, shift, total, n = args

        def body(s, shift, total):
            shifts = emit.spread(shift, I64(emit.size))

            def add(at, so_far):
                p = emit.exp(builder.fsub(emit.load(emit.groups, at), shifts))
                emit.store(p, at)
                return builder.fadd(so_far, p)

            summed = emit.fold(s, stride, groups, emit.const(0.0, emit.groups), add)
            for i, group in enumerate(emit.by_row(summed)):
                so_far = emit.load(emit.element, total, i * emit.size)
                emit.store(builder.fadd(so_far, emit.total(group)), total, i * emit.size)

        emit.over_rows(n, [(s, GROUP * emit.size), (shift, emit.size), (total, emit.size)], body)
        return context.get_dummy_value()

    return types.void(one, s, stride, groups, shift, total, n), codegen


@intrinsic
def exp_times(typingctx, one, s, t, a, b, step, n):
    """s[r] <- exp(s[r] + a[r]) and t[r] <- exp(s[r] + a[r]) * (t[r] + b[r]) in place, for n rows of a group.

    Numbers a[r] and b[r] are ``step`` bytes apart.
    """

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, s, t, a, b, step, n = args

        def body(s, t, a, b):
            p = emit.exp(builder.fadd(emit.load(emit.groups, s), emit.spread(a, step)))
            emit.store(p, s)
            factor = builder.fadd(emit.load(emit.groups, t), emit.spread(b, step))
            emit.store(builder.fmul(p, factor), t)

        row = GROUP * emit.size
        emit.over_rows(n, [(s, row), (t, row), (a, step), (b, step)], body)
        return context.get_dummy_value()

    return types.void(one, s, t, a, b, step, n), codegen


@intrinsic
def transpose8(typingctx, one, sources, offset, s, stride):
    """Number r at address sources[u] + offset becomes number u at address s + r * stride, for r, u = 0..7."""

    def codegen(context, builder, sig, args):
        emit = Emitter(builder, one)
        _, sources, offset, s, stride = args
        rows = [
            emit.load(emit.group, builder.add(source, offset))
            for source in cgutils.unpack_tuple(builder, sources)
        ]
        for span in (1, 2, 4):  # swap the off-diagonal span x span blocks of every 2*span x 2*span block
            for i in [i for i in range(GROUP) if not i & span]:
                x, y = rows[i], rows[i + span]
                upper = [lane if not lane & span else GROUP + lane - span for lane in range(GROUP)]
                lower = [lane + span if not lane & span else GROUP + lane for lane in range(GROUP)]
                rows[i], rows[i + span] = emit.shuffle(x, y, upper), emit.shuffle(x, y, lower)
        for r, row in enumerate(rows):
            emit.store(row, builder.add(s, builder.mul(stride, I64(r))))
        return context.get_dummy_value()

    return types.void(one, sources, offset, s, stride), codegen
