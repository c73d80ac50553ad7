"""Plain addresses (int64) for compiled code: arrays at them, shared counters, prefetching, cache lines."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from primeattn.compiled.jit import part_njit

__all__ = ["LINE", "atomic_add", "atomic_swap", "prefetch", "view", "zeros_on_lines"]

LINE = 64  # bytes of a cache line
I32, I64 = ir.IntType(32), ir.IntType(64)


def zeros_on_lines(shape, dtype):
    """Zeros that begin on a cache line: a row of whole lines then touches no line more than it has."""
    size = int(np.prod(shape))
    memory = np.zeros(size + LINE, dtype)
    return memory[-memory.ctypes.data % LINE // memory.itemsize :][:size].reshape(shape)


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line at an address, valid or not, which will be read."""

    def codegen(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        name = "llvm.prefetch.p0i8"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        read, near, data = I32(0), I32(3), I32(1)
        builder.call(function, [pointer, read, near, data])
        return context.get_dummy_value()

    return types.void(address), codegen


def _atomic(operation):
    @intrinsic
    def atomic(typingctx, address, value):
        def codegen(context, builder, sig, args):
            pointer = builder.inttoptr(args[0], I64.as_pointer())
            return builder.atomic_rmw(operation, pointer, args[1], "seq_cst")

        return types.int64(types.int64, types.int64), codegen

    return atomic


# Add a number to the int64 at an address, or replace it; both return the old value.
atomic_add, atomic_swap = _atomic("add"), _atomic("xchg")


@intrinsic
def _pointer(typingctx, address, one):
    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.return_type))

    return types.CPointer(one)(address, one), codegen


@part_njit
def view(address, size, one):
    """1-D array of ``size`` numbers of the dtype of ``one`` at ``address``; it owns nothing."""
    return carray(_pointer(address, one), size)
