"""In how many ways two layers connect a distance: the waste that a Sidon set avoids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int

if TYPE_CHECKING:
    from primeattn.patterns import Pattern

__all__ = ["redundancy", "two_hop_paths"]


def two_hop_paths(pattern: Pattern, n: int) -> np.ndarray:
    """Return in how many ways each distance is a sum of two offsets,

        r(d) = #{ {s, t} : s, t in D, 0 < s <= t, s + t = d }.

    For the primes r is the comet of Goldbach's conjecture; r <= 1 everywhere characterises a Sidon set.

    Parameters
    ----------
    pattern : Pattern
        Its global tokens do not count.
    n : int
        Distances 0, ..., n - 1.

    Returns
    -------
    int64 array, shape (n,)
        The number of ways by distance.

    See Also
    --------
    redundancy : The share of ways that are superfluous.
    primeattn.plot.two_hop_paths : A picture of it.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.two_hop_paths(pa.Pattern("primes"), 11)  # 10 = 3 + 7 = 5 + 5
    array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2])
    """
    n = as_int("n", n, minimum=0)
    offsets = as_pattern(pattern).offsets(n)[1:]
    has = np.zeros(n)
    has[offsets] = 1
    size = 1 << (2 * n).bit_length()
    ordered = np.fft.irfft(np.fft.rfft(has, size) ** 2, size)[:n]
    ordered = np.rint(ordered).astype(np.int64)  # integers < n, off by far less than 1/2
    ordered[2 * offsets[: np.searchsorted(offsets, (n + 1) // 2)]] += 1  # s + s came once, s + t twice
    return ordered // 2


def redundancy(pattern: Pattern, n: int) -> float:
    """Return the share of two-hop paths that are superfluous, as another one connects their distance,

        1 - #{ d : r(d) > 0 } / sum_d r(d),    d < n,

    with r(d) of ``two_hop_paths``; 0 for a Sidon set, and if there is no path at all.

    Parameters
    ----------
    pattern : Pattern
        Its global tokens do not count.
    n : int
        Distances below n.

    Returns
    -------
    float
        A share, 0 to 1.

    See Also
    --------
    two_hop_paths : The number of ways for each distance.

    Examples
    --------
    >>> import primeattn as pa
    >>> [round(pa.analysis.redundancy(pa.Pattern(s), 4096), 3) for s in ("primes", "squares", "mian_chowla")]
    [0.971, 0.275, 0.0]
    """
    paths = two_hop_paths(pattern, n)
    total = int(paths.sum())
    return 1 - int(np.count_nonzero(paths)) / total if total else 0.0
