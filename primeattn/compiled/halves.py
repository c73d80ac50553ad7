"""Numbers of 16 bits, float16 and bfloat16: read as float32, and written rounded.

To the nearest, ties to even. By integers, so that no instructions for such numbers are needed; by addresses,
as in :mod:`.simd`.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from primeattn.compiled.addresses import I32, I64
from primeattn.compiled.simd import Emitter

__all__ = ["read_bfloat16", "read_float16", "write_bfloat16", "write_float16"]

LESS = 13  # bits that the mantissa of float16 has less than that of float32
HIDDEN = 1 << 23  # the lowest bit of the exponent of float32
REBIAS = 112 * HIDDEN  # what its exponent has more than that of float16
LEAST = REBIAS + HIDDEN  # 2^-14, the least normal float16
INFINITY = 255 * HIDDEN


class _Bits:
    """Numbers of ``lanes`` lanes as integers of 32 bits: of float32, or in the low half those of 16 bits."""

    def __init__(self, builder, lanes):
        self.b = builder
        self.short, self.integers, self.numbers = (
            ir.VectorType(kind, lanes) for kind in (ir.IntType(16), I32, ir.FloatType())
        )

    def integer(self, value):
        return ir.Constant(self.integers, [value] * self.integers.count)

    def tiny(self, bits, operation, value):
        """The bits of a float32, of ``bits``, after adding or subtracting a number."""
        number = ir.Constant(self.numbers, [value] * self.numbers.count)
        return self.b.bitcast(operation(self.b.bitcast(bits, self.numbers), number), self.integers)

    def below(self, bits, limit):
        return self.b.icmp_unsigned("<", bits, self.integer(limit))

    def to_even(self, bits, cut):
        """``bits`` without the lowest ``cut`` ones, rounded."""
        odd = self.b.and_(self.b.lshr(bits, self.integer(cut)), self.integer(1))
        up = self.b.add(odd, self.integer((1 << cut - 1) - 1))
        return self.b.lshr(self.b.add(bits, up), self.integer(cut))


def _read_bfloat16(at, bits):
    return at.b.shl(bits, at.integer(16))


def _write_bfloat16(at, bits):
    plain = at.below(at.b.and_(bits, at.integer(0x7FFFFFFF)), INFINITY + 1)
    return at.b.select(plain, at.to_even(bits, 16), at.integer(0x7FC0))


def _read_float16(at, bits):
    b = at.b
    low, sign = b.and_(bits, at.integer(0x7FFF)), b.and_(bits, at.integer(0x8000))
    low = b.shl(low, at.integer(LESS))
    finite = at.below(low, 31 << 23)
    normal = b.add(low, b.select(finite, at.integer(REBIAS), at.integer(2 * REBIAS)))
    tiny = at.tiny(b.add(low, at.integer(LEAST)), b.fsub, 2.0**-14)  # 2^-14 (1 + m) - 2^-14
    return b.or_(b.select(at.below(low, HIDDEN), tiny, normal), b.shl(sign, at.integer(16)))


def _write_float16(at, bits):
    b = at.b
    low, sign = b.and_(bits, at.integer(0x7FFFFFFF)), b.lshr(bits, at.integer(16))
    # Added to 1/2, a tiny number is rounded at the last bit of a float16, which becomes the last of the sum.
    tiny = b.sub(at.tiny(low, b.fadd, 0.5), at.integer(126 * HIDDEN))
    result = b.select(at.below(low, LEAST), tiny, at.to_even(b.sub(low, at.integer(REBIAS)), LESS))
    special = b.select(at.below(low, INFINITY + 1), at.integer(0x7C00), at.integer(0x7E00))
    result = b.select(at.below(low, REBIAS + (31 << 23)), result, special)
    return b.or_(result, b.and_(sign, at.integer(0x8000)))


def _conversion(convert, reads):
    """``y[i] = factor * x[i]`` for n numbers at addresses, of which x or y has 16 bits, and the other 32."""
    sizes = (2, 4) if reads else (4, 2)

    @intrinsic
    def scale(typingctx, one, x, factor, y, n):
        def codegen(context, builder, sig, args):
            emit = Emitter(builder, one)
            _, x, factor, y, n = args

            def body(at, x, y):
                kinds = (at.short, at.numbers) if reads else (at.numbers, at.short)
                source, target = (
                    builder.inttoptr(address, kind.as_pointer())
                    for address, kind in zip((x, y), kinds, strict=True)
                )
                value, by = builder.load(source, align=sizes[0]), emit.splat(factor, at.numbers)
                if reads:
                    bits = convert(at, builder.zext(value, at.integers))
                    value = builder.fmul(by, builder.bitcast(bits, at.numbers))
                else:
                    bits = builder.bitcast(builder.fmul(by, value), at.integers)
                    value = builder.trunc(convert(at, bits), at.short)
                builder.store(value, target, align=sizes[1])

            for lanes in () if emit.double else (emit.lanes, 1):  # of 16 bits, nothing becomes float64
                times = builder.sdiv(n, I64(lanes))
                done = builder.mul(times, I64(lanes))
                with emit.rows(times, *zip((x, y), (lanes * size for size in sizes), strict=True)) as at:
                    body(_Bits(builder, lanes), *at)
                n = builder.sub(n, done)
                x, y = (
                    builder.add(address, builder.mul(done, I64(size)))
                    for address, size in zip((x, y), sizes, strict=True)
                )
            return context.get_dummy_value()

        return types.void(one, x, factor, y, n), codegen

    return scale


read_float16, read_bfloat16 = _conversion(_read_float16, True), _conversion(_read_bfloat16, True)
write_float16, write_bfloat16 = _conversion(_write_float16, False), _conversion(_write_bfloat16, False)
