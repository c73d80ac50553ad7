"""Memory accesses and instructions that Numba lacks, as intrinsics.

Kernels take addresses, not arrays: a launch converts only a few integers, and one compilation serves all
layouts. A *number* is what kernels compute with, float64 for float64 and float32 for all else; *storage* is
what lies in memory. Vectors are 16 bytes, the widest access there is. No thread writes memory that the same
launch reads here, which `invariant.load` tells the compiler.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

try:
    from numba.cuda.extending import intrinsic  # numba-cuda from 0.21 on
except ImportError:
    from numba.extending import intrinsic

__all__ = [
    "ENTRY_BYTES", "STORED_BYTES", "VECTOR_BYTES", "WARP", "add_to", "entry", "exp2", "intrinsic", "read",
    "row_address", "scalar_access", "vector_access",
]  # fmt: skip

VECTOR_BYTES = 16
ENTRY_BYTES = 8  # of a table: int64
WARP = 0xFFFFFFFF  # mask of all its threads
GLOBAL = 1  # address space

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_STORED = {"float64": _F64, "float32": _F32, "float16": _F16, "bfloat16": _I16}
STORED_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@intrinsic
def exp2(typingctx, x):
    """Return 2**x of a float32 in one instruction, to about 2 units in the last place; 0 below 2**-126."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(_F32, [_F32])
        return builder.call(ir.InlineAsm(kind, "ex2.approx.ftz.f32 $0, $1;", "=f,f"), arguments)

    return types.float32(types.float32), codegen


@intrinsic
def row_address(typingctx, base, row, stride):
    """Return base + row * stride, both of 32 bits, in one instruction, where 64-bit factors take several."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(_I64, [_I32, _I32, _I64])
        base, row, stride = arguments
        return builder.call(
            ir.InlineAsm(kind, "mad.wide.s32 $0, $1, $2, $3;", "=l,r,r,l"), [row, stride, base]
        )

    return types.int64(types.int64, types.int32, types.int32), codegen


@intrinsic
def add_to(typingctx, address, value):
    """Add a float64 to that at an address, which no other thread may change meanwhile."""

    def codegen(context, builder, signature, arguments):
        address, value = arguments
        at = _pointer(builder, address, _F64)
        builder.store(builder.fadd(builder.load(at, align=8), value), at, align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), codegen


@intrinsic
def entry(typingctx, table, i):
    """Return entry i of a table of int64 at an address; read anew where memory is said to have changed."""

    def codegen(context, builder, signature, arguments):
        table, i = arguments
        offset = builder.mul(i, ir.Constant(_I64, ENTRY_BYTES))
        return builder.load(_pointer(builder, builder.add(table, offset), _I64), align=ENTRY_BYTES)

    return types.int64(types.int64, types.int64), codegen


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer(GLOBAL))


def read(builder, address, kind, align):
    """Value of a kind at an address."""
    load = builder.load(_pointer(builder, address, kind), align=align)
    load.set_metadata("invariant.load", builder.module.add_metadata([]))
    return load


def _number(builder, storage, value):
    """Number of a stored value."""
    if storage == "float16":
        return builder.fpext(value, _F32)
    if storage == "bfloat16":  # the upper half of a float32
        return builder.bitcast(builder.shl(builder.zext(value, _I32), _constant(16)), _F32)
    return value


def _halves(builder, storage, word):
    """Numbers of two 16-bit values that were read as one word, in one instruction each."""
    if storage == "bfloat16":
        low, high = builder.shl(word, _constant(16)), builder.and_(word, _constant(0xFFFF0000))
        return [builder.bitcast(bits, _F32) for bits in (low, high)]
    pair = builder.bitcast(word, ir.VectorType(_F16, 2))
    return [builder.fpext(builder.extract_element(pair, _constant(i)), _F32) for i in range(2)]


def _stored(builder, storage, value):
    """What is stored for a number, rounded to nearest."""
    if storage == "float16":
        return builder.fptrunc(value, _F16)
    if storage == "bfloat16":
        kind = ir.FunctionType(_I16, [_F32])
        return builder.call(ir.InlineAsm(kind, "cvt.rn.bf16.f32 $0, $1;", "=h,f"), [value])
    return value


def _constant(value):
    return ir.Constant(_I32, value)


def vector_access(storage):
    """Return ``load(address) -> numbers`` and ``store(address, numbers)`` of 16 aligned bytes."""
    count = VECTOR_BYTES // STORED_BYTES[storage]
    vector = ir.VectorType(_STORED[storage], count)
    words = ir.VectorType(_I32, 4)
    numbers = types.UniTuple(types.float64 if storage == "float64" else types.float32, count)

    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, arguments):
            found = read(builder, arguments[0], words if count == 8 else vector, VECTOR_BYTES)
            items = [builder.extract_element(found, _constant(i)) for i in range(min(count, 4))]
            if count == 8:
                items = [half for word in items for half in _halves(builder, storage, word)]
            return cgutils.pack_array(builder, items)

        return numbers(types.int64), codegen

    @intrinsic
    def store(typingctx, address, values):
        def codegen(context, builder, signature, arguments):
            items = ir.Constant(vector, ir.Undefined)
            for i, value in enumerate(cgutils.unpack_tuple(builder, arguments[1])):
                items = builder.insert_element(items, _stored(builder, storage, value), _constant(i))
            builder.store(items, _pointer(builder, arguments[0], vector), align=VECTOR_BYTES)
            return context.get_dummy_value()

        return types.void(types.int64, numbers), codegen

    return load, store


def scalar_access(storage):
    """Return ``load(address) -> number`` and ``store(address, number)`` of one element."""
    kind, size = _STORED[storage], STORED_BYTES[storage]
    number = types.float64 if storage == "float64" else types.float32

    @intrinsic
    def load(typingctx, address):
        def codegen(context, builder, signature, arguments):
            return _number(builder, storage, read(builder, arguments[0], kind, size))

        return number(types.int64), codegen

    @intrinsic
    def store(typingctx, address, value):
        def codegen(context, builder, signature, arguments):
            item = _stored(builder, storage, arguments[1])
            builder.store(item, _pointer(builder, arguments[0], kind), align=size)
            return context.get_dummy_value()

        return types.void(types.int64, number), codegen

    return load, store
