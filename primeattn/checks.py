"""Checks that all parts of the library share."""

from __future__ import annotations

import numbers
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from primeattn.typing import Array

__all__ = ["as_int", "extent", "integers", "is_array", "is_real", "share_memory", "shown"]

OVERLAP_WORK = 100_000  # steps that np.shares_memory may take to prove two strided views disjoint


def is_array(value: Any) -> bool:
    """Whether ``value`` is a NumPy array, in memory or mapped from a file.

    Subclasses are refused: taken for plain arrays, they would silently lose what they add, such as a mask,
    units or another product.

    Parameters
    ----------
    value : object
        What was given.

    Returns
    -------
    bool
        Whether it is one.

    See Also
    --------
    is_real : The same for numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.checks import is_array
    >>> is_array(np.ones(2)), is_array(np.ma.masked_less([1, 2], 2)), is_array([1, 2])
    (True, False, False)
    """
    return type(value) in (np.ndarray, np.memmap)


def as_int(name: Any, value: Any, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return ``value`` as a Python int; raise unless it is an integer within the bounds.

    Parameters
    ----------
    name : str
        Name of the argument in errors.
    value : object
        What was given.
    minimum, maximum : int, optional
        The bounds, included.

    Returns
    -------
    int
        The same number.

    Raises
    ------
    TypeError
        For floats, booleans, and what is no number.
    ValueError
        Beyond the bounds.

    See Also
    --------
    integers : The same for arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.checks import as_int
    >>> as_int("n", np.int64(3), minimum=1)
    3
    """
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r} (bool)")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r} ({type(value).__name__})") from None
    if minimum is not None and value < minimum:
        raise ValueError(f"{name}: expected an integer >= {minimum}, got {value}")
    if maximum is not None and value > maximum:
        raise ValueError(f"{name}: expected an integer <= {maximum}, got {value}")
    return value


def integers(name: Any, values: Any) -> np.ndarray:
    """Return ``values`` as a new int64 array; raise unless they are integers that fit.

    Parameters
    ----------
    name : str
        Name of the argument in errors.
    values : array or iterable of int
        What was given.

    Returns
    -------
    int64 array
        A copy.

    Raises
    ------
    TypeError
        For other dtypes and kinds of arrays.
    ValueError
        For numbers that int64 cannot hold.

    See Also
    --------
    as_int : The same for one number.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.checks import integers
    >>> integers("starts", np.array([1, 2], np.uint8))
    array([1, 2])
    """
    if isinstance(values, np.ndarray) and not is_array(values):
        raise TypeError(f"{name}: expected a NumPy array, got {type(values).__name__}")
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        exact = np.asarray(values, object)  # lists of integers too large for any integer type
        if not exact.size or not all(type(value) is int for value in exact.flat):
            raise TypeError(f"{name}: expected integers, got {array.dtype}")
        array = exact
    for value in (array.min(), array.max()) if array.size else ():
        if not -(2**63) <= int(value) < 2**63:
            raise ValueError(f"{name}: expected integers below 2**63 in size, got {value}")
    return array.astype(np.int64)


def is_real(value: Any) -> bool:
    """Whether a value is a real number, and no boolean.

    Parameters
    ----------
    value : object
        What was given.

    Returns
    -------
    bool
        Whether it is one.

    See Also
    --------
    as_int : For integers.

    Examples
    --------
    >>> from primeattn.checks import is_real
    >>> is_real(0.5), is_real(True), is_real("0.5")
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def extent(array: Array) -> tuple[int, int]:
    """Return the address of the first byte of an array, and that after its last.

    Parameters
    ----------
    array : array
        Of NumPy; it may have any strides.

    Returns
    -------
    tuple of int
        The two addresses.

    See Also
    --------
    share_memory : Whether two arrays share an element.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.checks import extent
    >>> begin, end = extent(np.zeros((2, 3))[::-1])
    >>> end - begin
    48
    """
    begin = end = array.__array_interface__["data"][0]  # faster than ctypes
    if array.flags.c_contiguous:
        return begin, begin + array.nbytes
    for stride, size in zip(array.strides, array.shape, strict=True):
        begin += min(stride * (size - 1), 0)
        end += max(stride * (size - 1), 0)
    return begin, end + array.itemsize


def share_memory(a: Any, b: Any) -> bool:
    """Whether two arrays share an element; also True if disjointness takes too long to show.

    Parameters
    ----------
    a, b : array
        Of NumPy; they may have any strides.

    Returns
    -------
    bool
        Whether they do, or may.

    See Also
    --------
    extent : The bytes that an array spans.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.checks import share_memory
    >>> a = np.zeros(4)
    >>> share_memory(a, a[2:]), share_memory(a[::2], a[1::2])
    (True, False)
    """
    try:
        return np.may_share_memory(a, b) and np.shares_memory(a, b, max_work=OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def shown(value: Any) -> str:
    """Text for an error: the value, or the dtype and shape of an array, whose numbers would fill the screen.

    Parameters
    ----------
    value : object
        What was given.

    Returns
    -------
    str
        One line for arrays.

    See Also
    --------
    as_int : An error with a value.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.checks import shown
    >>> shown(np.zeros((2, 3), bool)), shown("primes")
    ('an array of bool of shape (2, 3)', "'primes'")
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return repr(value) if shape is None or dtype is None else f"an array of {dtype} of shape {tuple(shape)}"
