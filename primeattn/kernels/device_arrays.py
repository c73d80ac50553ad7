"""Arrays in the memory of a GPU, seen as NumPy arrays that are never read.

Such a view has the address, shape, strides and dtype of the array, which is all that checks and launches
need. CuPy, torch, JAX and Numba hand these out by ``__cuda_array_interface__`` or DLPack, without a copy.
"""

from __future__ import annotations

import ctypes

import numpy as np

__all__ = [
    "BFLOAT16",
    "address_view",
    "array_stream",
    "is_device_array",
    "stream_handle",
    "view",
    "view_of_host",
]

BFLOAT16 = np.dtype([("bfloat16", "<u2")])  # NumPy has no such numbers; only the bits are carried
DLPACK_CUDA = (2, 13)  # device types: memory of a GPU, managed memory
DLPACK_CODES = {2: "f", 4: "bfloat"}
LEGACY_STREAM = 1  # what both protocols call the default stream


def is_device_array(array) -> bool:
    """Return whether ``array`` lies in the memory of a GPU."""
    if isinstance(array, (np.ndarray, type(None))):
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    return hasattr(array, "__dlpack_device__") and int(array.__dlpack_device__()[0]) in DLPACK_CUDA


def view_of_host(array):
    """Return ``array``, under the dtype above if it is a NumPy array of ml_dtypes.bfloat16."""
    if isinstance(array, np.ndarray) and array.dtype.name == "bfloat16":
        return array.view(BFLOAT16)
    return array


def view(name, array, stream) -> np.ndarray:
    """Return ``array`` as a NumPy array that must not be read; ``stream`` is where it will be used."""
    if hasattr(array, "__cuda_array_interface__"):
        interface = dict(array.__cuda_array_interface__)
        if interface.get("mask") is not None:
            raise TypeError(f"{name}: expected an array without a mask, got one with")
        bfloat = str(getattr(array, "dtype", "")).rpartition(".")[2] == "bfloat16"
        return _view(interface, array, bfloat)
    capsule = array.__dlpack__(stream=LEGACY_STREAM if stream is None else stream)
    interface, bfloat = _read_dlpack(name, capsule)
    return _view(interface, capsule, bfloat)


def array_stream(array) -> int | None:
    """Return the handle of the stream that the array's owner works on, if the interface tells."""
    interface = getattr(array, "__cuda_array_interface__", None) or {}
    return interface.get("stream")


def stream_handle(stream) -> int | None:
    """Return the handle of a stream of Numba, torch, CuPy or any library that has ``__cuda_stream__``."""
    if stream is None:
        return None
    if isinstance(stream, (int, np.integer)) and not isinstance(stream, bool):
        if stream >= 0:
            return int(stream)
        raise ValueError(f"stream: expected a handle >= 0, got {stream}")
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        if isinstance(getattr(stream, name, None), int):
            return getattr(stream, name)
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    if type(stream).__module__.startswith("numba."):
        return int(stream)
    raise TypeError(f"stream: expected a CUDA stream or its handle, got {type(stream).__name__}")


def address_view(address, shape, typestr, owner, read_only=False, strides=None) -> np.ndarray:
    """Return a NumPy array at ``address`` that must not be read; it keeps ``owner`` alive."""
    fields = {
        "data": (address, read_only),
        "shape": shape,
        "strides": strides,
        "typestr": typestr,
        "version": 3,
    }
    return np.asarray(_Owner(fields, owner))


class _Owner:
    """What NumPy asks for an address, and keeps alive."""

    def __init__(self, interface, owner):
        self.__array_interface__, self.owner = interface, owner


def _view(interface, owner, bfloat):
    address, read_only = interface["data"]
    shape = tuple(int(n) for n in interface["shape"])
    typestr = "<u2" if bfloat else interface["typestr"]
    strides = interface.get("strides")
    array = address_view(int(address or 0), shape, typestr, owner, bool(read_only), strides)
    return array.view(BFLOAT16) if bfloat else array


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


def _read_dlpack(name, capsule):
    """Array interface of a capsule that holds a DLTensor (the first member of DLManagedTensor)."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    kind = DLPACK_CODES.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        raise TypeError(f"{name}: expected floating point numbers, got DLPack type code {tensor.code}")
    size = tensor.bits // 8
    interface = {
        "data": ((tensor.data or 0) + tensor.byte_offset, False),
        "shape": tensor.shape[: tensor.ndim],
        "strides": tuple(s * size for s in tensor.strides[: tensor.ndim]) if tensor.strides else None,
        "typestr": f"<f{size}",
    }
    return interface, kind == "bfloat"
