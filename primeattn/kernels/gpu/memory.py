"""New arrays in the memory of the GPU: results for the caller's library, and copies of NumPy arrays."""

from __future__ import annotations

import sys

import numpy as np
from numba import cuda

from primeattn.kernels.device_arrays import address_view

__all__ = ["DeviceArray", "empty_results", "seen"]


class DeviceArray:
    """C-ordered array in the memory of the GPU.

    ``array`` has its address, shape and dtype, and must not be read; views of it are handed to kernels by
    :func:`seen`.
    """

    def __init__(self, shape, dtype):
        self.nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.memory = cuda.device_array(max(self.nbytes, 1), np.uint8)
        self.array = address_view(self.memory.device_ctypes_pointer.value, shape, np.dtype(dtype).str, self)

    def upload(self, host):
        """Copy a C-ordered NumPy array to the GPU."""
        if self.nbytes:
            self.memory.copy_to_device(host.reshape(-1).view(np.uint8))

    def download(self, host):
        """Copy to a C-ordered NumPy array, once the kernels before have run."""
        if self.nbytes:
            self.memory.copy_to_host(host.reshape(-1).view(np.uint8))


class seen:
    """What kernels take for the array in the memory of the GPU that ``array`` is a view of."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__array_interface__


def empty_results(q):
    """Return (out, lse) for queries ``q``: like it, and one number for each of its rows.

    torch and CuPy arrays for theirs; Numba device arrays for all else.
    """
    library = sys.modules.get(type(q).__module__.partition(".")[0])
    if hasattr(library, "empty_like") and not type(q).__module__.startswith("numba"):
        number = library.float64 if q.dtype == library.float64 else library.float32
        return library.empty_like(q), library.empty_like(q[..., 0], dtype=number)
    number = np.float64 if q.dtype == np.float64 else np.float32
    return cuda.device_array(q.shape, q.dtype), cuda.device_array(q.shape[:3], number)
