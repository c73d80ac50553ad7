"""How many layers connect two tokens: it depends on their distance alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import fft

from primeattn.checks import as_int, shown
from primeattn.patterns import Pattern

if TYPE_CHECKING:
    from primeattn.typing import Patterns

__all__ = ["as_pattern", "hops", "receptive_field"]


_FEW = 4096  # for more members, a Fourier transform is faster than shifting bits


def as_pattern(pattern: Pattern) -> Pattern:
    """Return ``pattern`` if it is a Pattern; TypeError otherwise."""
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a Pattern, got {shown(pattern)} ({type(pattern).__name__})")
    return pattern


def hops(pattern: Patterns, n: int) -> np.ndarray:
    """Return the fewest layers that connect each distance,

        h(0) = 0,    h(d) = 1 + min { h(d - s) : s in D, 0 < s <= d },    D = {0, ..., W} ∪ S.

    A path from query i to key j passes only tokens between them, so only d = i - j matters.

    With a stack of patterns, one for each layer, h(d) is the least L such that the first L layers connect
    distance d, that is d = d_1 + ... + d_L with d_l in D_l; -1 if the whole stack does not.

    These are the hops to keys j >= G, where global tokens change nothing: a path that enters a global token
    g < G can only end at j <= g. (Keys j < G are one hop from everywhere.)

    Parameters
    ----------
    pattern : Pattern or sequence of Pattern
        The pattern of every layer, or one for each, in the order of the layers.
    n : int
        Distances 0, ..., n - 1.

    Returns
    -------
    int64 array, shape (n,)
        -1 where no number of layers (or not even the whole stack) connects the distance.

    See Also
    --------
    receptive_field : Which distances a number of layers connects.
    reach_by_layer : A table of several patterns.
    primeattn.plot.hops : A picture of it.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.hops(pa.Pattern("primes"), 12)  # 9 = 2 + 7; 11 is prime
    array([ 0, -1,  1,  1,  2,  1,  2,  1,  2,  2,  2,  1])
    >>> primes, squares = pa.Pattern("primes", window=3), pa.Pattern("squares", window=3)
    >>> for stack in ([primes, primes], [primes, squares]):
    ...     print((pa.analysis.hops(stack, 4097)[1:] > 0).mean().round(3))
    0.749
    0.998
    """
    n = as_int("n", n, minimum=0)
    if isinstance(pattern, Pattern):
        return _same_in_every_layer(pattern.offsets(n), n, layers=n)
    return _stack([layer.offsets(n) for layer in _as_stack(pattern)], n)


def receptive_field(pattern: Patterns, layers: int, n: int) -> np.ndarray:
    """Return which distances d < ``n`` the first ``layers`` layers connect: h(d) <= layers.

    Parameters
    ----------
    pattern : Pattern or sequence of Pattern
        As for ``hops``; a stack has at least ``layers`` patterns.
    layers, n : int
        Number of layers; distances 0, ..., n - 1.

    Returns
    -------
    bool array, shape (n,)
        True where the distance is connected.

    Raises
    ------
    ValueError
        If a stack has fewer patterns than ``layers``.

    See Also
    --------
    hops : The number of layers for each distance.
    efficiency : The share, measured against what is possible.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.receptive_field(pa.Pattern("squares"), 1, 10).astype(int)
    array([1, 1, 0, 0, 1, 0, 0, 0, 0, 1])
    >>> pa.analysis.receptive_field(pa.Pattern("squares"), 2, 10).astype(int)
    array([1, 1, 1, 0, 1, 1, 0, 0, 1, 1])
    """
    layers, n = as_int("layers", layers, minimum=0), as_int("n", n, minimum=0)
    if isinstance(pattern, Pattern):
        return _same_in_every_layer(pattern.offsets(n), n, layers) >= 0
    stack = _as_stack(pattern)
    if layers > len(stack):
        raise ValueError(f"layers: expected at most {len(stack)}, the patterns of the stack, got {layers}")
    return _stack([layer.offsets(n) for layer in stack[:layers]], n) >= 0


def _as_stack(patterns):
    if isinstance(patterns, str) or not np.iterable(patterns):
        raise TypeError(f"pattern: expected a Pattern or several, got {patterns!r}")
    return [as_pattern(pattern) for pattern in patterns]


def _stack(offsets_of_layers, n):
    h = np.full(n, -1)
    h[:1] = 0
    reached = np.flatnonzero(h == 0)
    for layer, offsets in enumerate(offsets_of_layers, 1):
        reached = _sums(reached, offsets, n)
        h[reached[h[reached] < 0]] = layer
    return h


def _same_in_every_layer(offsets, n, layers):
    """Hops by breadth-first search, up to ``layers``.

    With M the largest offset, once h(d) = h(d - M) + 1 holds for M distances in a row, all of them >= 2M, it
    holds from there on: each of the next h(d) = 1 + min h(d - s) refers to them, shifted by M to d - M.
    """
    longest = int(offsets[-1]) if n else 0
    size = 4 * longest
    while 0 < size < n:
        h = _search(offsets, size, layers=size)
        before = h[-2 * longest : -longest]
        if np.array_equal(h[-longest:], np.where(before < 0, -1, before + 1)):
            laps, at = np.divmod(np.arange(n - size), longest)
            last = h[size - longest :][at]
            h = np.concatenate([h, np.where(last < 0, -1, last + laps + 1)])
            return np.where(h > layers, -1, h)
        size *= 2
    return _search(offsets, n, layers)


def _search(offsets, n, layers):
    steps = offsets[1 : np.searchsorted(offsets, n)]
    h = np.full(n, -1)
    h[:1] = 0
    frontier, layer, missing = np.flatnonzero(h == 0), 0, n - 1
    while frontier.size and missing > 0 and layer < layers:
        layer += 1
        reached = _sums(frontier, steps, n)
        frontier = reached[h[reached] < 0]
        h[frontier] = layer
        missing -= len(frontier)
    return h


def _sums(a, b, n):
    """Return { s + t < n : s in a, t in b }, all sorted.

    Few sums are formed one by one. For more, the bits of the longer set are shifted by each member of the
    shorter and united: eight copies, shifted by 0 to 7 bits, turn that into operations on whole bytes. A
    search makes at most n such shifts, since every distance joins its frontier once. If both sets are large,
    a product of Fourier transforms counts the ways to form each sum.
    """
    if len(a) > len(b):
        a, b = b, a
    if len(a) * len(b) <= max(64, n // 64):
        sums = np.unique(a[:, None] + b)
        return sums[: np.searchsorted(sums, n)]
    if len(a) > _FEW:
        size = fft.next_fast_len(2 * n, real=True)
        has = np.zeros((2, n))
        has[0, a[: np.searchsorted(a, n)]] = has[1, b[: np.searchsorted(b, n)]] = 1
        ways = fft.irfft(fft.rfft(has[0], size) * fft.rfft(has[1], size), size)[:n]
        return np.flatnonzero(ways > 0.5)  # integers up to n, with far smaller errors
    bits = np.zeros((8, n), bool)
    for shift in range(8):
        bits[shift, b[: np.searchsorted(b, n - shift)] + shift] = True
    copies = np.packbits(bits, axis=1, bitorder="little")
    union = np.zeros(copies.shape[1], np.uint8)
    for s in a.tolist():
        union[s >> 3 :] |= copies[s & 7, : len(union) - (s >> 3)]
    return np.flatnonzero(np.unpackbits(union, count=n, bitorder="little"))
