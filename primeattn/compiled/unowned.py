"""Arrays without a share in their memory."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["unowned"]


@intrinsic
def unowned(typingctx, arrays):
    """The same arrays, of a named tuple, for as long as the caller keeps them alive.

    Compiled code counts who shares in an array, atomically, wherever it hands one on: for a short block that
    took most of the time, above all where several workers count on one array. Nobody counts on these.
    """
    if not isinstance(arrays, types.BaseNamedTuple):
        return None

    def codegen(context, builder, signature, args):
        parts = []
        for i, kind in enumerate(arrays.types):
            array = context.make_array(kind)(context, builder, builder.extract_value(args[0], i))
            array.meminfo = ir.Constant(array.meminfo.type, None)
            array.parent = ir.Constant(array.parent.type, None)
            parts.append(array._getvalue())
        return cgutils.pack_struct(builder, parts)

    return arrays(arrays), codegen
