"""New arrays in the memory of the GPU: results for the caller's library, copies of NumPy arrays, scratch."""

from __future__ import annotations

import sys
import threading
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
from numba import cuda

from primeattn.kernels.device_arrays import address_view

__all__ = ["DeviceArray", "Table", "empty_results", "scratch", "seen", "upload"]


class DeviceArray:
    """C-ordered array in the memory of the GPU.

    ``array`` has its address, shape and dtype, and must not be read; views of it are handed to kernels by
    :func:`seen`.
    """

    def __init__(self, shape, dtype):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self.memory = cuda.device_array(max(self.nbytes, 1), np.uint8)
        self.array = address_view(self.memory.device_ctypes_pointer.value, shape, self.dtype.str, self)

    def upload(self, host):
        """Copy a C-ordered NumPy array to the GPU."""
        if self.nbytes:
            self.memory.copy_to_device(host.reshape(-1).view(np.uint8))

    def download(self, host):
        """Copy to a C-ordered NumPy array, once the kernels before have run."""
        if self.nbytes:
            self.memory.copy_to_host(host.reshape(-1).view(np.uint8))

    def copy(self):
        """Return a copy, made on the GPU."""
        result = DeviceArray(self.shape, self.dtype)
        result.memory.copy_to_device(self.memory)
        return result


class seen:
    """What kernels take for the array in the memory of the GPU that ``array`` is a view of."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.__cuda_array_interface__ = array.__array_interface__


def empty_results(q, stream):
    """Return (out, lse) for queries ``q``: like it, and one number for each of its rows.

    torch and CuPy arrays for theirs; Numba device arrays for all else. With ``stream``, a handle, their
    memory belongs to that stream: the allocators of these libraries give it to later work of the same stream
    only.
    """
    library = sys.modules.get(type(q).__module__.partition(".")[0])
    if hasattr(library, "empty_like") and not type(q).__module__.startswith("numba"):
        number = library.float64 if q.dtype == library.float64 else library.float32
        with nullcontext() if stream is None else _on_stream(library, stream):
            return library.empty_like(q), library.empty_like(q[..., 0], dtype=number)
    number = np.float64 if q.dtype == np.float64 else np.float32
    return cuda.device_array(q.shape, q.dtype), cuda.device_array(q.shape[:3], number)


def _on_stream(library, stream):
    external = library.cuda.ExternalStream(stream)
    return library.cuda.stream(external) if library.__name__ == "torch" else external  # CuPy's is a context


class Table(NamedTuple):
    """Numbers that kernels read."""

    memory: object  # keeps it
    address: int


def upload(host) -> Table:
    """Return a copy of a NumPy array in the memory of the GPU that is complete: any stream may read it."""
    stream = cuda.stream()
    copy = cuda.to_device(host, stream=stream)
    stream.synchronize()
    return Table(copy, copy.device_ctypes_pointer.value)


_kept = threading.local()  # scratch by (device, stream): work of one stream follows in order


def scratch(nbytes, device, stream):
    """Return at least ``nbytes`` bytes that later work of this thread on the stream may overwrite.

    The memory is kept: freed while kernels that use it still wait to run, it would be given to others.
    """
    buffers = vars(_kept).setdefault("buffers", {})
    buffer = buffers.get((device, stream))
    if buffer is None or buffer.nbytes < nbytes:
        buffer = buffers[device, stream] = cuda.device_array(nbytes, np.uint8)
    return buffer
