"""Initialisers: ``f(rng, shape, dtype) -> array``. fan_in is the first axis, fan_out the last.

All draw in float64 and round, so that float32 and float64 parameters of one seed agree. Any function with
this signature is an initialiser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import Config, freeze_real

if TYPE_CHECKING:
    from primeattn.typing import Array, DTypeLike, Shape

__all__ = ["Normal", "TruncatedNormal", "glorot_uniform", "he_normal", "ones", "zeros"]


def zeros(rng: Any, shape: Shape, dtype: DTypeLike = np.float32) -> Array:
    """All 0; draws nothing.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of the array.

    Returns
    -------
    array
        A new one.

    See Also
    --------
    ones : The same with 1.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.nn.zeros(None, (2,))
    array([0., 0.], dtype=float32)
    """
    return np.zeros(shape, dtype)


def ones(rng: Any, shape: Shape, dtype: DTypeLike = np.float32) -> Array:
    """All 1; draws nothing.

    Parameters
    ----------
    rng : numpy.random.Generator
        Not used.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of the array.

    Returns
    -------
    array
        A new one.

    See Also
    --------
    zeros : The same with 0.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.nn.ones(None, (2,))
    array([1., 1.], dtype=float32)
    """
    return np.ones(shape, dtype)


def glorot_uniform(rng: np.random.Generator, shape: Shape, dtype: DTypeLike = np.float32) -> Array:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)): preserves the variance forward and backward.

    Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks (2010).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the numbers.
    shape : tuple of int
        The first axis is fan_in, the last fan_out.
    dtype : dtype
        Of the array.

    Returns
    -------
    array
        A new one.

    See Also
    --------
    he_normal : For layers before relu.
    Normal : With a fixed deviation.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> w = pa.nn.glorot_uniform(np.random.default_rng(0), (100, 50))
    >>> bool(abs(w).max() <= np.sqrt(6 / 150)), w.dtype
    (True, dtype('float32'))
    """
    bound = math.sqrt(6 / (shape[0] + shape[-1]))
    return rng.uniform(-bound, bound, shape).astype(dtype)


def he_normal(rng: np.random.Generator, shape: Shape, dtype: DTypeLike = np.float32) -> Array:
    """Normal with variance 2 / fan_in: preserves the variance through relu.

    He, Zhang, Ren and Sun, Delving deep into rectifiers (2015).

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the numbers.
    shape : tuple of int
        The first axis is fan_in.
    dtype : dtype
        Of the array.

    Returns
    -------
    array
        A new one.

    See Also
    --------
    glorot_uniform : For layers without relu.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> w = pa.nn.he_normal(np.random.default_rng(0), (800, 500))
    >>> bool(abs(w.std() - 0.05) < 1e-3)
    True
    """
    return (rng.standard_normal(shape) * math.sqrt(2 / shape[0])).astype(dtype)


@dataclass(frozen=True, repr=False)
class Normal(Config):
    """Normal with mean 0 and standard deviation ``std``.

    Parameters
    ----------
    std : float
        At least 0.

    See Also
    --------
    TruncatedNormal : Without far values.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.Dense(2, 2, init=pa.nn.Normal(0.1))
    Dense(2, 2, init=Normal(std=0.1))
    """

    std: float = 0.02

    def __post_init__(self) -> None:
        freeze_real(self, "std", 0)

    def __call__(self, rng: np.random.Generator, shape: Shape, dtype: DTypeLike = np.float32) -> Array:
        return (rng.standard_normal(shape) * self.std).astype(dtype)


@dataclass(frozen=True, repr=False)
class TruncatedNormal(Config):
    """Normal with mean 0 and scale ``std``, cut at ±2 std: values beyond are drawn again.

    Parameters
    ----------
    std : float
        At least 0; that of the normal before it is cut.

    See Also
    --------
    Normal : With far values.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> w = pa.nn.TruncatedNormal(0.1)(np.random.default_rng(0), (100, 100))
    >>> bool(abs(w).max() <= 0.2)
    True
    """

    std: float = 0.02

    def __post_init__(self) -> None:
        freeze_real(self, "std", 0)

    def __call__(self, rng: np.random.Generator, shape: Shape, dtype: DTypeLike = np.float32) -> Array:
        values = rng.standard_normal(shape)
        while (beyond := np.abs(values) > 2).any():
            values[beyond] = rng.standard_normal(np.count_nonzero(beyond))
        return (values * self.std).astype(dtype)
