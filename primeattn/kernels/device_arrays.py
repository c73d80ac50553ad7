"""Arrays in the memory of a GPU, seen as NumPy arrays that are never read.

Such a view has the address, shape, strides and dtype of the array, which is all that checks and launches
need. CuPy, torch, JAX and Numba export these by ``__cuda_array_interface__`` or DLPack, without a copy.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np

from primeattn.kernels.call import BFLOAT16

__all__ = [
    "address_view",
    "carried_streams",
    "device_interface",
    "device_number",
    "interface_view",
    "is_turned",
    "read_dlpack",
    "stream_handle",
    "view",
]

DLPACK_CUDA = (2, 13)  # device types: memory of a GPU, managed memory
DLPACK_CODES = {2: "f", 4: "bfloat"}
LEGACY_STREAM = 1  # the default stream in both protocols


def device_interface(array) -> dict | None:
    """Return the ``__cuda_array_interface__`` of an array in the memory of the GPU, None for other arrays.

    If the array supports only DLPack, the result is an empty dict.
    """
    if isinstance(array, (np.ndarray, type(None))):
        return None
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None and hasattr(array, "__dlpack_device__"):
        interface = {} if int(array.__dlpack_device__()[0]) in DLPACK_CUDA else None
    return interface


def view(name, array, interface, stream) -> np.ndarray:
    """Return ``array`` as a NumPy array that must not be read; ``stream`` is where it will be used."""
    if is_turned(array):
        raise TypeError(
            f"{name}: expected a tensor as its memory holds it, got one whose sign torch has yet to change; "
            "tensor.resolve_neg() does so"
        )
    if interface:
        if interface.get("mask") is not None:
            raise TypeError(f"{name}: expected an array without a mask, got one with")
        return interface_view(interface, array, _is_bfloat16(array))
    capsule = array.__dlpack__(stream=LEGACY_STREAM if stream is None else stream)
    interface, bfloat = read_dlpack(name, capsule)
    return interface_view(interface, capsule, bfloat)


def is_turned(array) -> bool:
    """Whether the memory of a tensor of torch holds its numbers with the other sign."""
    return getattr(array, "is_neg", bool)()


def _is_bfloat16(array):
    dtype = getattr(array, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind != "V":
        return False  # early, as the name of a dtype is slow to get
    return str(dtype).rpartition(".")[2] == "bfloat16"


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


def carried_streams(arrays, interfaces) -> set[int]:
    """Return the handles of the streams that the arrays' libraries name.

    torch names none in its interface, so its tensors count as carrying the current stream of their device.
    """
    found, devices = set(), set()
    for name, interface in interfaces.items():
        if type(arrays[name]).__module__.partition(".")[0] == "torch":
            devices.add(arrays[name].device)
        else:
            found.add(interface.get("stream"))
    for device in devices:
        found.add(sys.modules["torch"].cuda.current_stream(device).cuda_stream or LEGACY_STREAM)
    return found - {None}


def device_number(array) -> int | None:
    """Return the number of the GPU that holds ``array``, or None if its library does not say."""
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[1])
    memory = getattr(array, "gpu_data", None)  # of Numba
    return None if memory is None else memory.context.device.id


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
    """Gives NumPy an address, and keeps the memory behind it alive."""

    def __init__(self, interface, owner):
        self.__array_interface__, self.owner = interface, owner


def interface_view(interface, owner, bfloat) -> np.ndarray:
    """Return a NumPy array of an array interface, as BFLOAT16 if ``bfloat``; it keeps ``owner`` alive."""
    address, read_only = interface["data"]
    shape = tuple(interface["shape"])
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


def read_dlpack(name, capsule, read_only=False) -> tuple[dict, bool]:
    """Return the array interface of a capsule, and whether the numbers are bfloat16.

    It holds a DLTensor, which is the first member of DLManagedTensor.
    """
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(pointer(capsule, b"dltensor"))
    kind = DLPACK_CODES.get(tensor.code)
    if kind is None or tensor.lanes != 1:
        raise TypeError(f"{name}: expected floating point numbers, got DLPack type code {tensor.code}")
    size = tensor.bits // 8
    interface = {
        "data": ((tensor.data or 0) + tensor.byte_offset, read_only),
        "shape": tensor.shape[: tensor.ndim],
        "strides": tuple(s * size for s in tensor.strides[: tensor.ndim]) if tensor.strides else None,
        "typestr": f"<f{size}",
    }
    return interface, kind == "bfloat"
