"""Names for the types in signatures, to annotate code of your own.

>>> import primeattn as pa
>>> def mean_output(model: pa.Layer, x: pa.typing.Array, ps: pa.typing.Params, st: pa.typing.States) -> float:
...     y, st = model(x, ps, st)
...     return float(y.mean())

Shapes and dtypes are not part of them: arguments are checked when a function is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Several
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from primeattn.nn._memory import Memory
from primeattn.patterns import Pattern
from primeattn.sequences import Sequence

__all__ = [
    "AnyArray",
    "Array",
    "ArrayT",
    "DTypeLike",
    "FilePath",
    "Initializer",
    "LabelledPatterns",
    "Memory",
    "OtherT",
    "Params",
    "Patterns",
    "Pullback",
    "SequenceLike",
    "Shape",
    "States",
    "Tree",
]

Array: TypeAlias = NDArray[Any]  # of NumPy
AnyArray: TypeAlias = Any  # of NumPy, torch, JAX, CuPy or Numba
ArrayT = TypeVar("ArrayT")  # the same, where a result is what an argument is
OtherT = TypeVar("OtherT")
Shape: TypeAlias = tuple[int, ...]

Tree: TypeAlias = dict[str, Any]  # nested dict
Params: TypeAlias = Tree  # of arrays: parameters of a layer, or gradients of these
States: TypeAlias = Tree  # of arrays, flags and counters
Pullback: TypeAlias = Callable[[Array], tuple[Any, Params]]  # dy -> dx, dps; dx is None for integer inputs
Initializer: TypeAlias = Callable[[np.random.Generator, Shape, Any], Array]  # rng, shape, dtype

SequenceLike: TypeAlias = Sequence | str | Callable[[int], Any] | Iterable[int] | None  # see Pattern
Patterns: TypeAlias = Pattern | Several[Pattern]  # one for all, or one for each head or layer
LabelledPatterns: TypeAlias = Patterns | Mapping[str, Pattern]  # by what a picture calls them

FilePath: TypeAlias = str | os.PathLike[str]
