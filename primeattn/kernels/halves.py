"""float16 and bfloat16 in NumPy: arrays of such numbers widened to float32, and rounded from it."""

from __future__ import annotations

import numpy as np

from primeattn.kernels.call import BFLOAT16, HALF_DTYPES

__all__ = ["rounded", "widened"]


def widened(array) -> np.ndarray:
    """Return an array of 16-bit numbers in float32, and any other as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.kernels.halves import rounded, widened
    >>> widened(rounded(np.array([1 + 2**-9, 3.0]), np.float16))
    array([1.0019531, 3.       ], dtype=float32)
    """
    if array.dtype == BFLOAT16:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype in HALF_DTYPES else array


def rounded(array, dtype) -> np.ndarray:
    """Return an array in ``dtype``, rounded to the nearest, ties to even; BFLOAT16 included.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.kernels.call import BFLOAT16
    >>> from primeattn.kernels.halves import rounded, widened
    >>> widened(rounded(np.array([1 + 2**-9, 3.0]), BFLOAT16))
    array([1., 3.], dtype=float32)
    """
    if dtype != BFLOAT16:
        with np.errstate(over="ignore"):  # beyond the largest float16 is infinity
            return array.astype(dtype, copy=False)
    bits = np.asarray(array, np.float32, order="C").view(np.uint32)
    short = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(array), 0x7FC0, short).astype(np.uint16).view(BFLOAT16)
