"""New arrays in the memory of the GPU, of the library that the caller's arrays are of."""

from __future__ import annotations

import sys

import numpy as np

__all__ = ["empty_results"]


def empty_results(q):
    """Return (out, lse) for queries ``q``: like it, and one number for each of its rows.

    torch and CuPy arrays for theirs; Numba device arrays for all else.
    """
    library = sys.modules.get(type(q).__module__.partition(".")[0])
    if hasattr(library, "empty_like") and not type(q).__module__.startswith("numba"):
        number = library.float64 if q.dtype == library.float64 else library.float32
        return library.empty_like(q), library.empty_like(q[..., 0], dtype=number)
    from numba import cuda

    number = np.float64 if q.dtype == np.float64 else np.float32
    return cuda.device_array(q.shape, q.dtype), cuda.device_array(q.shape[:3], number)
