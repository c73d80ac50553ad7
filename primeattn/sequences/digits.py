"""Numbers whose digits follow a rule."""

from __future__ import annotations

import numpy as np

from primeattn.sequences.registry import register

__all__ = ["evil", "moser_de_bruijn", "stanley"]


def _digits_0_or_1(base, first, stop):
    """Return the terms <= stop with digits 0 and 1 in ``base``, from rank ``first`` on.

    The digits of the term of rank k are the bits of k.
    """
    width, power = 0, 1
    while power <= stop:
        width, power = width + 1, power * base
    rank = np.arange(first, 1 << width, dtype=np.int64)
    terms = sum(((rank >> i & 1) * base**i for i in range(width)), np.zeros_like(rank))
    return terms[terms <= stop]


@register(
    "moser_de_bruijn",
    title="Moser-de Bruijn",
    oeis="A000695",
    count=lambda x: 3**0.25 * x**0.5,
    asymptotic="between √x and √(3x)",
    why="d = a + 2b in exactly one way, so three layers reach every distance; falls into blocks of 4^k",
)
def moser_de_bruijn(known, start, stop):
    """Sums of distinct powers of 4: 1, 4, 5, 16, 17, 20, 21, 64, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.moser_de_bruijn(22)
    array([ 1,  4,  5, 16, 17, 20, 21])
    """
    return _digits_0_or_1(4, len(known) + 1, stop)


@register(
    "stanley",
    title="Stanley",
    oeis="A005836",
    count=lambda x: 2**0.185 * x**0.6309,
    asymptotic="between x^0.631 and (2x)^0.631",
    why="no three terms in arithmetic progression, and still two layers reach every distance",
)
def stanley(known, start, stop):
    """Sums of distinct powers of 3: 1, 3, 4, 9, 10, 12, 13, 27, …

    With 0 it is the greedy set without three terms in arithmetic progression (Odlyzko and Stanley, 1978).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.stanley(30)
    array([ 1,  3,  4,  9, 10, 12, 13, 27, 28, 30])
    """
    return _digits_0_or_1(3, len(known) + 1, stop)


@register(
    "evil",
    title="Evil numbers",
    oeis="A001969",
    count=lambda x: x / 2,
    asymptotic="x / 2",
    why="a dense control without period: every second distance, chosen by the Thue-Morse sequence",
    needs=lambda stop: 0,
)
def evil(known, start, stop):
    """The numbers with an even number of binary ones: 3, 5, 6, 9, 10, 12, 15, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.evil(16)
    array([ 3,  5,  6,  9, 10, 12, 15])
    """
    numbers = np.arange(start + 1, stop + 1)
    ones = numbers.copy()
    for half in (32, 16, 8, 4, 2, 1):
        ones ^= ones >> half
    return numbers[ones & 1 == 0]
