"""Greedy sequences: each term is the smallest that keeps a condition on the sums of two terms."""

from __future__ import annotations

from math import isqrt, log

import numpy as np

from primeattn.sequences.registry import register
from primeattn.sequences.value import check_reach

__all__ = ["mian_chowla", "ulam"]


@register(
    "mian_chowla",
    title="Mian-Chowla",
    oeis="A005282",
    count=lambda x: (3.3 * x * log(x)) ** (1 / 3) if x >= 2 else float(x >= 1),
    asymptotic="≈ (3.3 x ln x)^(1/3), empirical",
    why="a Sidon set: no two pairs of offsets have the same sum, so two layers reach the most distances",
)
def mian_chowla(known, start, stop):
    """The greedy Sidon set 1, 2, 4, 8, 13, 21, …: all sums a_i + a_j with i <= j are distinct.

    c > a_m joins unless c + a_j = a_m + a_i for some i, j <= m, that is c = a_m + (a_i - a_j): each term a_m
    excludes the differences so far, shifted by a_m (Mian and Chowla, Proc. Nat. Acad. Sci. India A14, 1944).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.mian_chowla(50)
    array([ 1,  2,  4,  8, 13, 21, 31, 45])
    """
    check_reach("mian_chowla", stop, 2**26)
    size = len(known)
    room = np.zeros(isqrt(2 * stop) + 2, np.int64)  # m terms have m(m-1)/2 differences, all < stop
    terms = np.append(known, room)
    is_new = np.ones(stop + 1, bool)  # is_new[d]: d is not a difference of two terms
    is_new[np.abs(known[:, None] - known).ravel()] = False
    free = np.ones(stop - start, bool)  # free[c - start - 1]: nothing excludes c
    for a in known.tolist():
        free &= is_new[start + 1 - a : stop + 1 - a]
    at = 0
    while at < len(free) and free[at := at + int(free[at:].argmax())]:
        c = start + 1 + at
        is_new[c - terms[:size]] = False
        terms[size] = c
        size += 1
        at += 1
        free[at:] &= is_new[1 : stop - c + 1]
    return terms[len(known) : size]


@register(
    "ulam",
    title="Ulam numbers",
    oeis="A002858",
    count=lambda x: 0.074 * x,
    asymptotic="≈ 0.074 x, empirical",
    why="quasi-periodic (Steinerberger's hidden frequency), with the widest spectral gap of the sparse sets",
)
def ulam(known, start, stop):
    """1, 2, and then always the next number that is the sum of two distinct terms in exactly one way.

    1, 2, 3, 4, 6, 8, 11, 13, … (Ulam, SIAM Review 6, 1964). Bits mark the numbers that are a sum at least
    ``once`` and at least ``twice``: a new term u adds the terms so far, shifted by u. Eight copies of
    the terms, shifted by 0 to 7 bits, turn that into operations on whole bytes.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.ulam(20)
    array([ 1,  2,  3,  4,  6,  8, 11, 13, 16, 18])
    """
    check_reach("ulam", stop, 2**22)
    size = (stop >> 3) + 2
    shifted = np.zeros((8, size), np.uint8)
    once, twice = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    copy = np.arange(8)
    terms = known.tolist()

    def join(u):
        begin = u >> 3
        sums = shifted[u & 7, : min(begin + 2, size - begin)]  # all terms so far are below u
        window = slice(begin, begin + len(sums))
        twice[window] |= once[window] & sums
        once[window] |= sums
        at = copy + u
        inside = at >> 3 < size
        shifted[copy[inside], at[inside] >> 3] |= (1 << (at[inside] & 7)).astype(np.uint8)

    for u in terms:
        join(u)
    for u in (1, 2):
        if start < u <= stop:
            terms.append(u)
            join(u)
    at = max(start, 2)
    while True:
        at += 1
        chunk = slice(at >> 3, (at >> 3) + 8)
        bits = int.from_bytes((once[chunk] & ~twice[chunk]).tobytes(), "little") >> (at & 7)
        if bits:
            at += (bits & -bits).bit_length() - 1
            if at > stop:
                break
            terms.append(at)
            join(at)
        elif chunk.stop >= size:
            break
        else:
            at = 8 * chunk.stop - 1
    return terms[len(known) :]
