"""Beatty sequences of the golden ratio: spread evenly over residues, with no parity or period."""

from __future__ import annotations

from math import sqrt

import numpy as np

from primeattn.sequences.registry import register

__all__ = ["wythoff_lower", "wythoff_upper"]

_GOLDEN = (1 + sqrt(5)) / 2


def _floor_golden(k):
    """Return ⌊k φ⌋ = ⌊(k + ⌊√(5k²)⌋) / 2⌋ exactly."""
    square = 5 * k * k
    root = np.sqrt(square).astype(np.int64)
    root -= root * root > square
    root += (root + 1) * (root + 1) <= square
    return (k + root) // 2


@register(
    "wythoff_lower",
    title="Lower Wythoff",
    oeis="A000201",
    count=lambda x: x / _GOLDEN,
    asymptotic="x / φ",
    why="a dense control without residue bias: it is even over the residues of every modulus",
)
def wythoff_lower(known, start, stop):
    """⌊k φ⌋: 1, 3, 4, 6, 8, 9, 11, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.wythoff_lower(14)
    array([ 1,  3,  4,  6,  8,  9, 11, 12, 14])
    """
    terms = _floor_golden(np.arange(len(known) + 1, int(stop / _GOLDEN) + 2))
    return terms[terms <= stop]


@register(
    "wythoff_upper",
    title="Upper Wythoff",
    oeis="A001950",
    count=lambda x: x / _GOLDEN**2,
    asymptotic="x / φ²",
    why="the complement of the lower Wythoff numbers: gaps of 2 and 3 only, without period",
)
def wythoff_upper(known, start, stop):
    """⌊k φ²⌋ = ⌊k φ⌋ + k: 2, 5, 7, 10, 13, 15, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.wythoff_upper(20)
    array([ 2,  5,  7, 10, 13, 15, 18, 20])
    """
    k = np.arange(len(known) + 1, int(stop / _GOLDEN**2) + 2)
    terms = _floor_golden(k) + k
    return terms[terms <= stop]
