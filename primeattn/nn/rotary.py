"""Rotary positions: queries and keys turn with their positions, and scores depend on distances alone."""

from __future__ import annotations

import numpy as np

from primeattn._config import freeze_real, freeze_size
from primeattn.compiled import heads, threads

__all__ = ["angles", "rotate", "tables"]

SERIAL = 1 << 16  # numbers that are turned before a second thread pays
KEPT = 4  # tables
_kept: dict = {}  # (base, dims, dtype) -> tables as long as was ever needed


def freeze_options(layer):
    """Check and complete ``rotary`` and ``rotary_dims`` of a layer; errors name them."""
    name = type(layer).__name__
    if layer.rotary is None:
        if layer.rotary_dims is not None:
            raise ValueError(f"{name}: rotary_dims needs rotary, got rotary_dims={layer.rotary_dims!r}")
        return
    freeze_real(layer, "rotary", 0)
    if layer.rotary == 0:
        raise ValueError(f"{name}: rotary must be above 0, got 0")
    if layer.rotary_dims is None:
        object.__setattr__(layer, "rotary_dims", layer.head_dim)
    freeze_size(layer, "rotary_dims")
    if layer.rotary_dims % 2 or layer.rotary_dims > layer.head_dim:
        raise ValueError(
            f"{name}: rotary_dims must be even and at most head_dim, got rotary_dims={layer.rotary_dims}, "
            f"head_dim={layer.head_dim}"
        )


def angles(positions, base, dims, dtype):
    """``angle[t, c] = positions_t * base**(-2 c / dims)`` for c < dims / 2.

    In float32, frequencies and angles are rounded to float32 as in the implementations that models are
    trained with: at position 10^5 that moves angles by up to 0.004.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.nn.rotary import angles
    >>> angles(np.arange(3), 10000.0, 4, np.dtype(np.float64))
    array([[0.  , 0.  ],
           [1.  , 0.01],
           [2.  , 0.02]])
    """
    exponent = np.arange(0, dims, 2, dtype=dtype) / dtype.type(dims)
    power = (np.float64(base) ** exponent.astype(np.float64)).astype(dtype)
    return np.multiply.outer(positions.astype(dtype), dtype.type(1) / power)


def tables(length, base, dims, dtype):
    """Cosines and sines of the angles of positions 0 to length - 1 or more, (positions, dims / 2)."""
    key = base, dims, dtype
    known = _kept.get(key)
    if known is None or len(known[0]) < length:
        # Decoding asks for one more each time.
        size = max(length, 256 if known is None else 2 * len(known[0]))
        angle = angles(np.arange(size), base, dims, dtype).astype(np.float64)
        known = np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)
        if len(_kept) >= KEPT:
            _kept.clear()
        _kept[key] = known
    return known


def rotate(x, positions, base, dims, inverse=False):
    """Turn the rows of x (batch, heads, length, head_dim) in place by the angles of their positions.

    ``(x_c, x_d) -> (x_c cos - x_d sin, x_d cos + x_c sin)`` for c < dims / 2 and d = c + dims / 2, the "half"
    pairing of Llama. Su et al., RoFormer (2021).

    Parameters
    ----------
    x : array of float32 or float64
        Its last axis is contiguous.
    positions : int array (batch or 1, length)
        Rows with a position below 0 stay as they are.
    base : float
    dims : int
        Even, at most head_dim.
    inverse : bool
        Turn back. This is also the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.nn.rotary import rotate
    >>> x = np.ones((1, 1, 2, 2))
    >>> rotate(x, np.array([[0, 1]]), 10000.0, 2)
    >>> x.round(3)
    array([[[[ 1.   ,  1.   ],
             [-0.301,  1.382]]]])
    """
    if x.size == 0:
        return
    cos, sin = tables(int(positions.max()) + 1, base, dims, x.dtype)
    sign = x.dtype.type(-1 if inverse else 1)
    positions = np.ascontiguousarray(positions, np.int64)
    workers = threads.get_num_threads() if x.size > SERIAL else 1
    threads.run(
        lambda *way: heads.rotate(sign, x.ctypes.data, x.shape[:3], x.strides[:3], positions, cos, sin, *way),
        workers,
    )
