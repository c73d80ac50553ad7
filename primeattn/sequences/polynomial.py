"""Values of polynomials: squares, triangular numbers, k-th powers."""

from __future__ import annotations

from math import isqrt

import numpy as np

from primeattn.checks import as_int
from primeattn.sequences.registry import register

__all__ = ["cubes", "int_root", "kth_powers", "squares", "triangular"]


def int_root(x: int, k: int) -> int:
    """Return the largest integer whose ``k``-th power is at most the integer 0 <= ``x`` < 2**63."""
    root = round(x ** (1 / k))  # never too small
    while root**k > x:
        root -= 1
    return root


@register(
    "squares",
    title="Squares",
    oeis="A000290",
    count=lambda x: x**0.5,
    asymptotic="√x",
    why="O(n√n) pairs, and four layers reach every distance (Lagrange's four-square theorem)",
    needs=lambda stop: 0,
)
def squares(known, start, stop):
    """The squares 1, 4, 9, 16, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.squares(30)
    array([ 1,  4,  9, 16, 25])
    """
    return np.arange(isqrt(start) + 1, isqrt(stop) + 1, dtype=np.int64) ** 2


@register(
    "triangular",
    title="Triangular numbers",
    oeis="A000217",
    count=lambda x: (2 * x) ** 0.5,
    asymptotic="√(2x)",
    why="1.4 times the pairs of the squares, and three layers reach every distance (Gauss)",
)
def triangular(known, start, stop):
    """The triangular numbers k (k + 1) / 2: 1, 3, 6, 10, 15, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.triangular(30)
    array([ 1,  3,  6, 10, 15, 21, 28])
    """
    k = np.arange(len(known) + 1, (isqrt(8 * stop + 1) - 1) // 2 + 1, dtype=np.int64)
    return k * (k + 1) // 2


@register(
    "cubes",
    title="Cubes",
    oeis="A000578",
    count=lambda x: x ** (1 / 3),
    asymptotic="x^(1/3)",
    why="as few offsets as Mian-Chowla without its distinct sums: up to nine layers (Waring, Wieferich)",
    needs=lambda stop: 0,
)
def cubes(known, start, stop):
    """The cubes 1, 8, 27, 64, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.cubes(100)
    array([ 1,  8, 27, 64])
    """
    return _powers(3, start, stop)


def _powers(k, start, stop):
    return [base**k for base in range(int_root(start, k) + 1, int_root(stop, k) + 1)]


def _exponent(k):
    k = as_int("k", k, minimum=2)
    return {2: squares, 3: cubes}.get(k, (k,))


@register(
    "kth_powers",
    title="Powers of exponent {}",
    oeis={4: "A000583", 5: "A000584", 6: "A001014"}.get,
    count=lambda x, k: x ** (1 / k),
    asymptotic="x^(1/{})",
    why="thins out at a chosen rate; the number of layers that suffices is Waring's problem",
    params=_exponent,
    needs=lambda stop: 0,
)
def kth_powers(known, start, stop, k):
    """The ``k``-th powers 1, 2^k, 3^k, … (not the powers of the number k: these are ``powers(k)``).

    Parameters
    ----------
    k : int
        At least 2.

    Returns
    -------
    Sequence
        Named by its parameter; ``squares`` and ``cubes`` for 2 and 3.

    See Also
    --------
    powers : The powers of a number.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.kth_powers(4)(300)
    array([  1,  16,  81, 256])
    >>> pa.sequences.kth_powers(2)
    squares
    """
    return _powers(k, start, stop)
