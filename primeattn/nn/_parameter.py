"""Declarations of parameters: what a layer says of the arrays that ``setup`` draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from primeattn.checks import as_int

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class Parameter(NamedTuple):
    """Declaration of one parameter: its shape and its initialiser, ``init(rng, shape, dtype) -> array``.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    init : callable
        Initialiser, ``init(rng, shape, dtype) -> array``.

    See Also
    --------
    primeattn.setup : Draws the arrays.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.LayerNorm(8).parameters()["scale"].shape
    (8,)
    """

    shape: tuple[int, ...]
    init: Callable


class Spec(NamedTuple):
    """What an array must be."""

    shape: tuple[int, ...]
    dtype: np.dtype


def specs(declared, name):
    """Nested dicts of `Spec`, by dtype, of what a layer declared; raise if these are no declarations."""
    _check(declared, name)

    def of(declared, dtype):
        if isinstance(declared, Parameter):
            return Spec(tuple(declared.shape), dtype)
        return {key: of(child, dtype) for key, child in declared.items()}

    return {dtype: of(declared, dtype) for dtype in DTYPES}


def _check(declared, name):
    if isinstance(declared, Parameter):
        if not isinstance(declared.shape, (tuple, list)):
            raise TypeError(f"{name}: expected a shape such as (8,), got {declared.shape!r}")
        for size in declared.shape:
            as_int(f"{name}: size", size, minimum=0)
        if not callable(declared.init):
            raise TypeError(f"{name}: expected init to be a function, got {declared.init!r}")
    elif isinstance(declared, dict):
        for key, child in declared.items():
            _check(child, f"{name}/{key}")
    else:
        raise TypeError(f"{name}: expected a nested dict of Parameter, got {type(declared).__name__}")
