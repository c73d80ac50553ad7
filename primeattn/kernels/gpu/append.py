"""The kernel that appends the rows of new tokens to a cache in the memory of the GPU.

One launch serves any batch and number of tokens: where the sequences of a batch begin was uploaded with the
cache, and how many tokens there are already is a parameter.
"""

from __future__ import annotations

from functools import lru_cache

import numba
from numba import cuda

from primeattn.kernels.gpu import device
from primeattn.kernels.gpu.device import compiled
from primeattn.kernels.gpu.ptx import STORED_BYTES, entry, scalar_access

__all__ = ["append", "make_append"]

THREADS = 256


def append(cache, rows, start, used):
    """``cache[b, start[b] + used + r] = rows[b, r, -width:]``, but for rows of positions below 0.

    Parameters
    ----------
    cache, rows : DeviceArray (batch, capacity, width), (batch, t, width or more)
        Of one dtype, float32 or float64. Every position is below the capacity.
    start : DeviceArray (batch,) of int64
    used : int
    """
    (batch, count, wide), (_, capacity, width) = rows.shape, cache.shape
    if batch * count == 0:
        return
    kernel = device.configured(make_append(cache.dtype.name), (batch * count, 1), THREADS, 0)
    addresses = (array.array.ctypes.data for array in (cache, rows, start))
    kernel(*addresses, used, count, capacity, wide, width)


@lru_cache
def make_append(storage):
    """Kernel that copies a row in each block.

    ``kernel[(batch * count, 1), THREADS](cache, rows, start, used, count, capacity, wide, width)`` takes
    addresses, and the numbers of ``append``.
    """
    load, store = scalar_access(storage)
    size = STORED_BYTES[storage]

    def append_rows(cache, rows, start, used, count, capacity, wide, width):
        row = numba.int64(cuda.blockIdx.x)
        batch = row // count
        position = entry(start, batch) + used + row - batch * count
        if position >= 0:
            source = rows + (row * wide + wide - width) * size
            target = cache + (batch * capacity + position) * width * size
            for i in range(cuda.threadIdx.x, width, THREADS):
                store(target + i * size, load(source + i * size))

    return compiled(THREADS, 1)(append_rows)
