"""Sequences of exponential growth and their products: O(n log n) pairs, or a power of the logarithm more."""

from __future__ import annotations

from math import factorial, log, prod, sqrt

import numpy as np

from primeattn.checks import as_int
from primeattn.sequences.registry import alias, register
from primeattn.sequences.sieves import as_prime, primes

__all__ = ["fibonacci", "lucas", "powers", "powers_of_two", "smooth", "three_smooth"]

_GOLDEN = (1 + sqrt(5)) / 2


def _base(base):
    return (as_int("base", base, minimum=2),)


@register(
    "powers",
    title="Powers of {}",
    oeis={2: "A000079", 3: "A000244", 4: "A000302", 5: "A000351", 10: "A011557"}.get,
    count=lambda x, base: log(x) / log(base) + 1 if x >= 1 else 0.0,
    asymptotic="ln x / ln {}",
    why="O(n log n) pairs, and every distance within O(log n) layers; base 2 is LogSparse attention",
    params=_base,
)
def powers(known, start, stop, base):
    """Powers of the number ``base``: 1, b, b², b³, … (not the b-th powers: these are ``kth_powers(b)``).

    With base 2 a distance takes as many layers as it has binary ones (Li et al., Enhancing the locality and
    breaking the memory bottleneck of Transformer on time series forecasting, NeurIPS 2019).

    Parameters
    ----------
    base : int
        At least 2.

    Returns
    -------
    Sequence
        Named by its parameter.

    See Also
    --------
    kth_powers : The squares, cubes and so on.
    smooth : Products of small primes.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.powers(3)(100)
    array([ 1,  3,  9, 27, 81])
    """
    terms, term = [], base * int(known[-1]) if len(known) else 1
    while term <= stop:
        terms.append(term)
        term *= base
    return terms


powers_of_two = alias("powers_of_two", powers(2))


@register(
    "fibonacci",
    title="Fibonacci numbers",
    oeis="A000045",
    count=lambda x: log(sqrt(5) * x) / log(_GOLDEN) - 1 if x >= 1 else 0.0,
    asymptotic="ln x / ln φ",
    why="1.4 times the offsets of the powers of two for a third fewer layers (Zeckendorf's theorem)",
    needs=lambda stop: 0,
)
def fibonacci(known, start, stop):
    """The Fibonacci numbers 1, 2, 3, 5, 8, 13, …, each once.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.fibonacci(40)
    array([ 1,  2,  3,  5,  8, 13, 21, 34])
    """
    return _sums_of_two_before(1, 2, start, stop)


@register(
    "lucas",
    title="Lucas numbers",
    oeis="A000032",
    count=lambda x: log(x) / log(_GOLDEN) + 1 if x >= 1 else 0.0,
    asymptotic="ln x / ln φ",
    why="the Fibonacci recurrence from another start: is it the growth or the numbers?",
    needs=lambda stop: 0,
)
def lucas(known, start, stop):
    """The Lucas numbers 1, 2, 3, 4, 7, 11, 18, … in ascending order: 2, and the sums from 1 and 3 on.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.lucas(40)
    array([ 1,  2,  3,  4,  7, 11, 18, 29])
    """
    return sorted(({2} if start < 2 <= stop else set()).union(_sums_of_two_before(1, 3, start, stop)))


def _sums_of_two_before(a, b, start, stop):
    terms = []
    while a <= stop:
        if a > start:
            terms.append(a)
        a, b = b, a + b
    return terms


def _largest_prime(p):
    p = as_prime("p", p)
    return powers_of_two if p == 2 else (p,)


_MANY = 100  # for larger primes, the formula is far off


def _smooth_count(x, p):
    """Volume of the simplex { a : sum a_q ln q <= ln x + half of each ln q } (Ramanujan, for p = 3)."""
    if x < 1:
        return 0.0
    if p >= x or p > _MANY:
        return float(x) if p >= x else None
    factors = primes(p).tolist()
    reach = log(x) + log(prod(factors)) / 2
    return prod(reach / log(q) for q in factors) / factorial(len(factors))


@register(
    "smooth",
    title="{}-smooth numbers",
    oeis={3: "A003586", 5: "A051037", 7: "A002473"}.get,
    count=_smooth_count,
    asymptotic="(ln x)^k / (k! ∏ ln q) over the k primes q ≤ {}",
    why="musical and periodic lags: smooth periods are hit, and so are their smooth multiples",
    params=_largest_prime,
    needs=lambda stop: 0,
)
def smooth(known, start, stop, p):
    """The numbers without a prime factor above the prime ``p``.

    Parameters
    ----------
    p : int
        A prime.

    Returns
    -------
    Sequence
        Named by its parameter.

    See Also
    --------
    powers : Of one number.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.smooth(3)(20)
    array([ 1,  2,  3,  4,  6,  8,  9, 12, 16, 18])
    """
    terms = np.ones(1, np.int64)
    for q in primes(min(p, stop)).tolist():
        multiples = terms
        while (multiples := multiples[multiples <= stop // q] * q).size:
            terms = np.concatenate([terms, multiples])
    return np.sort(terms[terms > start])


three_smooth = alias("three_smooth", smooth(3))
