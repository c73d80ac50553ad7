"""Arrays in the memory of the CPU, of any library, seen as NumPy arrays; and results for the same library.

NumPy's, torch's and JAX's arrays, and whatever else has DLPack or ``__array_interface__``, are seen in place.
torch and JAX are found where they were imported, and not imported here.
"""

from __future__ import annotations

import sys

import numpy as np

from primeattn.kernels.call import BFLOAT16
from primeattn.kernels.device_arrays import interface_view, is_turned, read_dlpack

__all__ = ["like", "view_of_host"]

DLPACK_CPU = 1


def _is_instance(array, library, name):
    """Whether ``array`` is of a class of a library, such as torch.Tensor."""
    known = getattr(sys.modules.get(library), name, None)
    return known is not None and isinstance(array, known)


def _dtypes_of_numpy(torch):
    """The dtypes of torch that the kernels take and NumPy has, too."""
    return torch.float16, torch.float32, torch.float64


def view_of_host(name, array):
    """Return ``array`` as a NumPy array with the same memory; what has no such memory, as it is.

    bfloat16 is seen as BFLOAT16. Only arrays of NumPy and torch can be written to.
    """
    if isinstance(array, np.ndarray):
        # Only dtypes of other libraries are asked for their name, which takes long to make.
        is_bfloat16 = array.dtype.kind == "V" and array.dtype.name == "bfloat16"
        return array.view(BFLOAT16) if is_bfloat16 else array
    is_torch = _is_instance(array, "torch", "Tensor")
    if is_torch and array.requires_grad:
        raise TypeError(
            f"{name}: expected a tensor that requires no gradient, as it would get none here: "
            "primeattn.torch.attention gives gradients, and tensor.detach() goes without"
        )
    turned = is_torch and is_turned(array)
    array = array.resolve_neg() if turned else array
    if hasattr(array, "__dlpack_device__"):
        try:
            if array.__dlpack_device__()[0] != DLPACK_CPU:
                return array
            if is_torch and not turned and array.dtype in _dtypes_of_numpy(sys.modules["torch"]):
                return array.numpy()  # the same, and much faster
            capsule = array.__dlpack__()
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            kind = type(array).__name__
            raise TypeError(f"{name}: expected memory to be seen in place, got {kind}: {error}") from error
        interface, bfloat = read_dlpack(name, capsule, read_only=turned or not is_torch)
        return interface_view(interface, capsule, bfloat)
    return np.asarray(array) if hasattr(array, "__array_interface__") else array


def like(given, *arrays):
    """Return NumPy arrays, of which nothing else has the memory, as arrays of the library of ``given``.

    Those of torch share the memory, those of JAX lie where ``given`` does. BFLOAT16 becomes its bfloat16.
    """
    if _is_instance(given, "torch", "Tensor"):
        return tuple(_to_torch(array) for array in arrays)
    if _is_instance(given, "jax", "Array"):
        put = sys.modules["jax"].device_put
        return tuple(put(_named(array, given.dtype), given.sharding) for array in arrays)
    return tuple(_named(array, getattr(given, "dtype", None)) for array in arrays)


def _to_torch(array):
    torch = sys.modules["torch"]
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _named(array, dtype):
    """``array``, or if it is BFLOAT16, the same in ``dtype`` where that is a dtype of NumPy."""
    return array.view(dtype) if array.dtype == BFLOAT16 and isinstance(dtype, np.dtype) else array
