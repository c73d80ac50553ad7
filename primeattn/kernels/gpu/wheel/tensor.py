"""Tensor core instructions as intrinsics: fragments of 16-bit numbers, products, asynchronous copies.

A fragment is what the 32 threads of a warp hold together of a small matrix, as words of two 16-bit numbers
(PTX ISA, "Matrix fragments for mma.m16n8k16"). Thread t has, with g = t // 4 and c = t % 4,

    A (16×16), 4 words: rows g, g + 8, g, g + 8; columns 2c, 2c + 1 and, in the last two, these + 8
    B (16×8),  2 words: rows 2c, 2c + 1 and these + 8; column g
    C (16×8),  4 numbers: row g, columns 2c, 2c + 1; row g + 8, the same columns
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types

from primeattn.kernels.gpu.ptx import GLOBAL, intrinsic, read

__all__ = [
    "copy_async",
    "copy_pair_async",
    "funnel",
    "load_matrices",
    "load_matrices_transposed",
    "load_shared_numbers",
    "load_shared_words",
    "load_word",
    "make_mma",
    "make_pack",
    "make_unpack",
    "maximum",
    "reload_word",
    "shared_address",
    "store_shared_numbers",
    "store_shared_words",
    "store_word",
    "wait_copies",
]

_NAMES = {"float16": "f16", "bfloat16": "bf16"}
_I32, _I64, _F32, _VOID = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.VoidType()


def _asm(builder, result, kinds, text, constraints, arguments, effect=False):
    kind, together = ir.FunctionType(result, kinds), ".sync." in text
    if together:  # by all threads of a warp: not to be moved or copied to where some of them are
        builder.function.attributes.add("convergent")
    code = ir.InlineAsm(kind, text, constraints, side_effect=effect)
    return builder.call(code, arguments, attrs=["convergent"] if together else [])


@intrinsic
def shared_address(typingctx, array):
    """Return the address of a shared array among shared memory, rounded up to 16 bytes."""

    def codegen(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
        text = "{ .reg .u64 t; cvta.to.shared.u64 t, $1; cvt.u32.u64 $0, t; }"
        address = _asm(builder, _I32, [_I64], text, "=r,l", [builder.ptrtoint(data, _I64)])
        return builder.and_(builder.add(address, ir.Constant(_I32, 15)), ir.Constant(_I32, -16))

    return types.int32(array), codegen


def _make_copy(text):
    @intrinsic
    def copy(typingctx, shared, address):
        def codegen(context, builder, signature, arguments):
            _asm(builder, _VOID, [_I32, _I64], text, "r,l,~{memory}", arguments, effect=True)
            return context.get_dummy_value()

        return types.void(types.int32, types.int64), codegen

    return copy


# Begin to copy 16 or 8 bytes from global to shared memory.
copy_async = _make_copy("cp.async.cg.shared.global [$0], [$1], 16;")
copy_pair_async = _make_copy("cp.async.ca.shared.global [$0], [$1], 8;")


@intrinsic
def wait_copies(typingctx):
    """Wait until this thread's copies have arrived."""

    def codegen(context, builder, signature, arguments):
        _asm(builder, _VOID, [], "cp.async.wait_all;", "~{memory}", [], effect=True)
        return context.get_dummy_value()

    return types.void(), codegen


def _make_load(text, kind, numbers):
    @intrinsic
    def load(typingctx, shared):
        def codegen(context, builder, signature, arguments):
            outputs = ",".join([f"={'f' if kind is _F32 else 'r'}"] * 4)
            struct = ir.LiteralStructType([kind] * 4)
            found = _asm(builder, struct, [_I32], text, outputs + ",r,~{memory}", arguments, effect=True)
            return cgutils.pack_array(builder, [builder.extract_value(found, i) for i in range(4)])

        return types.UniTuple(numbers, 4)(types.int32), codegen

    return load


# Four 8×8 matrices: thread t gives the address of row t % 8 of matrix t // 8, and gets of each matrix the
# word of row t // 4, columns 2 (t % 4) and the next, or, transposed, the word of these rows and that column.
load_matrices = _make_load(
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];", _I32, types.uint32
)
load_matrices_transposed = _make_load(
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0,$1,$2,$3}, [$4];", _I32, types.uint32
)


def _make_store(text, kind, number):
    @intrinsic
    def store(typingctx, shared, x0, x1, x2, x3):
        def codegen(context, builder, signature, arguments):
            constraints = f"r,{','.join(['f' if kind is _F32 else 'r'] * 4)},~{{memory}}"
            _asm(builder, _VOID, [_I32] + [kind] * 4, text, constraints, arguments, effect=True)
            return context.get_dummy_value()

        return types.void(types.int32, *[number] * 4), codegen

    return store


# Four words, or float32, in a row, from and to a multiple of 16 bytes.
load_shared_words = _make_load("ld.shared.v4.u32 {$0,$1,$2,$3}, [$4];", _I32, types.uint32)
load_shared_numbers = _make_load("ld.shared.v4.f32 {$0,$1,$2,$3}, [$4];", _F32, types.float32)
store_shared_words = _make_store("st.shared.v4.u32 [$0], {$1,$2,$3,$4};", _I32, types.uint32)
store_shared_numbers = _make_store("st.shared.v4.f32 [$0], {$1,$2,$3,$4};", _F32, types.float32)


def make_mma(storage):
    """Return ``mma(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3)``: C + A B, summed in float32."""
    name = _NAMES[storage]

    @intrinsic
    def mma(typingctx, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
        def codegen(context, builder, signature, arguments):
            text = (
                f"mma.sync.aligned.m16n8k16.row.col.f32.{name}.{name}.f32 "
                "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
            )
            numbers, kinds = ir.LiteralStructType([_F32] * 4), [_I32] * 6 + [_F32] * 4
            product = _asm(builder, numbers, kinds, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", arguments)
            return cgutils.pack_array(builder, [builder.extract_value(product, i) for i in range(4)])

        word, number = types.uint32, types.float32
        return types.UniTuple(number, 4)(*[word] * 6, *[number] * 4), codegen

    return mma


def make_pack(storage):
    """Return ``pack(low, high)``: the word of two numbers, each rounded to nearest."""

    @intrinsic
    def pack(typingctx, low, high):
        def codegen(context, builder, signature, arguments):
            text = f"cvt.rn.{_NAMES[storage]}x2.f32 $0, $2, $1;"
            return _asm(builder, _I32, [_F32, _F32], text, "=r,f,f", arguments)

        return types.uint32(types.float32, types.float32), codegen

    return pack


def make_unpack(storage):
    """Return ``unpack(word)``: its two numbers; never moved out of a loop, to save registers."""
    if storage == "bfloat16":
        text = "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;"
    else:
        text = "{ .reg .b16 l, h; mov.b32 {l, h}, $2; cvt.f32.f16 $0, l; cvt.f32.f16 $1, h; }"

    @intrinsic
    def unpack(typingctx, word):
        def codegen(context, builder, signature, arguments):
            pair = ir.LiteralStructType([_F32] * 2)
            found = _asm(builder, pair, [_I32], text, "=f,=f,r", arguments, effect=True)
            return cgutils.pack_array(builder, [builder.extract_value(found, i) for i in range(2)])

        return types.UniTuple(types.float32, 2)(types.uint32), codegen

    return unpack


@intrinsic
def maximum(typingctx, x, y):
    """Return the larger of two float32, or the other where one is NaN, in one instruction."""

    def codegen(context, builder, signature, arguments):
        return _asm(builder, _F32, [_F32, _F32], "max.f32 $0, $1, $2;", "=f,f,f", arguments)

    return types.float32(types.float32, types.float32), codegen


@intrinsic
def funnel(typingctx, low, high, shift):
    """Return 32 bits of the 64 of ``high`` and ``low``, from bit ``shift`` % 32 on."""

    def codegen(context, builder, signature, arguments):
        return _asm(builder, _I32, [_I32] * 3, "shf.r.wrap.b32 $0, $1, $2, $3;", "=r,r,r,r", arguments)

    return types.uint32(types.uint32, types.uint32, types.int32), codegen


@intrinsic
def load_word(typingctx, address):
    """Return 4 bytes of global memory."""

    def codegen(context, builder, signature, arguments):
        return read(builder, arguments[0], _I32, 4)

    return types.uint32(types.int64), codegen


@intrinsic
def reload_word(typingctx, address):
    """Return 4 bytes of global memory, read anew each time, to save registers."""

    def codegen(context, builder, signature, arguments):
        text = "ld.global.u32 $0, [$1];"
        return _asm(builder, _I32, [_I64], text, "=r,l", arguments, effect=True)

    return types.uint32(types.int64), codegen


@intrinsic
def store_word(typingctx, address, word):
    """Write 4 bytes of global memory."""

    def codegen(context, builder, signature, arguments):
        builder.store(arguments[1], builder.inttoptr(arguments[0], _I32.as_pointer(GLOBAL)), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32), codegen
