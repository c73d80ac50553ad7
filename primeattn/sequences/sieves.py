"""Sequences from sieves: the primes, their near relatives, and the lucky numbers."""

from __future__ import annotations

from math import isqrt, log
from typing import Any

import numpy as np

from primeattn.sequences.polynomial import int_root
from primeattn.sequences.registry import register
from primeattn.sequences.value import EMPTY, as_parameter, check_reach

__all__ = ["as_prime", "lucky", "prime_powers", "primes", "semiprimes", "sophie_germain", "twin_primes"]


_LUCKY = 2**21  # limit, since each step copies all that is left


def as_prime(name: str, value: Any) -> int:
    """Return ``value`` as a Python int; ValueError unless it is a prime."""
    value = as_parameter(name, value, minimum=None)
    if not _is_prime(value):
        raise ValueError(f"{name}: expected a prime, got {value}")
    return value


def _is_prime(n):
    """Miller and Rabin's test, to bases that make it exact below 3 * 10^24 (Sorenson and Webster)."""
    bases = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
    if n < 2 or any(n % base == 0 for base in bases):
        return n in bases
    twos = (n - 1 & 1 - n).bit_length() - 1
    for base in bases:
        x = pow(base, n - 1 >> twos, n)
        if x not in (1, n - 1) and all((x := x * x % n) != n - 1 for _ in range(twos - 1)):
            return False
    return True


def _within(terms, start, stop):
    return terms[np.searchsorted(terms, start, side="right") : np.searchsorted(terms, stop, side="right")]


def _per_log(x):
    return x / log(x) if x >= 2 else 0.0


@register(
    "primes",
    title="Primes",
    oeis="A000040",
    count=_per_log,
    asymptotic="x / ln x",
    why="dense near, thinning out slowly; two layers reach the even distances (Goldbach)",
    needs=isqrt,
)
def primes(known, start, stop):
    """The primes 2, 3, 5, 7, 11, …: a sieve of Eratosthenes over the odd numbers of (start, stop].

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.primes(20)
    array([ 2,  3,  5,  7, 11, 13, 17, 19])
    """
    if stop < 2:
        return EMPTY
    root = isqrt(stop)
    sieving = known if start >= root else np.concatenate([known, primes._extend(known, start, root)])
    first = max(3, (start + 1) | 1)
    is_prime = np.ones(max(0, (stop - first) // 2 + 1), bool)  # entry t stands for first + 2 t
    for p in sieving[1 : np.searchsorted(sieving, root, side="right")].tolist():
        odd_multiple = p * max(p, -(-first // p) | 1)
        is_prime[(odd_multiple - first) // 2 :: p] = False
    odd = 2 * np.flatnonzero(is_prime) + first
    return np.concatenate([[2], odd]) if start < 2 else odd


@register(
    "prime_powers",
    title="Prime powers",
    oeis="A246655",
    count=lambda x: _per_log(x) * (1 + 1 / log(x) + 2 / x**0.5) if x >= 2 else 0.0,
    asymptotic="x / ln x",
    why="a few even offsets 2^k cure the parity defect of the primes: two layers reach almost everything",
)
def prime_powers(known, start, stop):
    """The prime powers p^k with k >= 1: 2, 3, 4, 5, 7, 8, 9, 11, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.prime_powers(16)
    array([ 2,  3,  4,  5,  7,  8,  9, 11, 13, 16])
    """
    parts = [_within(primes(stop), start, stop)]
    for k in range(2, stop.bit_length()):
        bases = _within(primes(isqrt(stop)), int_root(start, k), int_root(stop, k))
        parts.append(bases**k)
    return np.sort(np.concatenate(parts))


@register(
    "semiprimes",
    title="Semiprimes",
    oeis="A001358",
    count=lambda x: _per_log(x) * log(log(x)) if x >= 4 else 0.0,
    asymptotic="x ln ln x / ln x",
    why="products of two primes: denser than the primes and of both parities",
)
def semiprimes(known, start, stop):
    """The products p q of two primes p <= q: 4, 6, 9, 10, 14, 15, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.semiprimes(22)
    array([ 4,  6,  9, 10, 14, 15, 21, 22])
    """
    cofactors = primes(stop // 2)
    parts = [p * _within(cofactors, max(p - 1, start // p), stop // p) for p in primes(isqrt(stop)).tolist()]
    return np.sort(np.concatenate([EMPTY, *parts]))


@register(
    "twin_primes",
    title="Twin primes",
    oeis="A001097",
    count=lambda x: 2.64 * x / log(x) ** 2 * (1 + 2 / log(x)) if x >= 3 else 0.0,
    asymptotic="2.64 x / ln² x, conjectured",
    why="the primes thinned out by their own rule: 2.6 times fewer offsets, one more layer",
)
def twin_primes(known, start, stop):
    """The primes p with p - 2 or p + 2 prime: 3, 5, 7, 11, 13, 17, 19, 29, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.twin_primes(30)
    array([ 3,  5,  7, 11, 13, 17, 19, 29])
    """
    candidates = primes(stop + 2)
    found = _within(candidates, start, stop)
    return found[np.isin(found - 2, candidates) | np.isin(found + 2, candidates)]


@register(
    "sophie_germain",
    title="Sophie Germain primes",
    oeis="A005384",
    count=lambda x: 1.32 * x / (log(x) * log(2 * x)) * (1 + 2 / log(x)) if x >= 2 else 0.0,
    asymptotic="1.32 x / ln² x, conjectured",
    why="a prime thinning with as few offsets as its density allows: what do the other primes add?",
)
def sophie_germain(known, start, stop):
    """The primes p with 2p + 1 prime: 2, 3, 5, 11, 23, 29, 41, …

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.sophie_germain(45)
    array([ 2,  3,  5, 11, 23, 29, 41])
    """
    candidates = primes(2 * stop + 1)
    found = _within(candidates, start, stop)
    return found[np.isin(2 * found + 1, candidates)]


@register(
    "lucky",
    title="Lucky numbers",
    oeis="A000959",
    count=_per_log,
    asymptotic="x / ln x",
    why="like the primes, from another sieve: separates 'prime' from 'odd and of density 1 / ln x'",
)
def lucky(known, start, stop):
    """The lucky numbers 1, 3, 7, 9, 13, …: of the odd numbers left, every 3rd goes, then every 7th, 9th, …

    If m numbers <= start are left before every s-th goes, m - m // s are left after it. So the sieve can
    begin at any ``start`` (Gardiner, Lazarus, Metropolis and Ulam, Math. Mag. 29, 1956).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.lucky(25)
    array([ 1,  3,  7,  9, 13, 15, 21, 25])
    """
    check_reach("lucky", stop, _LUCKY)
    longest = (stop + 1) // 2  # a step longer than the list removes nothing
    enough = start >= longest or stop == 1
    steps = known if enough else np.concatenate([known, lucky._extend(known, start, longest)])
    left = np.arange((start + 1) | 1, stop + 1, 2)
    before = (start + 1) // 2
    for step in steps[1:].tolist():
        if step > before + len(left):
            break
        left = np.delete(left, slice(step - 1 - before % step, None, step))
        before -= before // step
    return left
