"""Arrays without reference counts."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["unowned"]


@intrinsic
def unowned(typingctx, arrays):
    """The arrays of a named tuple without reference counts; the caller must keep them alive. None is None.

    Compiled code counts the references to an array atomically wherever it passes one on. For a short block
    this took most of the time, above all when several workers counted on one array.
    """
    if isinstance(arrays, types.NoneType):
        return arrays(arrays), lambda context, *_: context.get_dummy_value()
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
