"""Fair comparisons: equal cost, and the most that any pattern of that cost could reach."""

from __future__ import annotations

from math import comb

from primeattn.analysis.reach import as_pattern, receptive_field
from primeattn.checks import as_int
from primeattn.patterns import Pattern

__all__ = ["counting_bound", "efficiency", "match_budget"]


def match_budget(pattern, budget, n) -> Pattern:
    """Return ``pattern`` with the largest window W < n for which it has at most ``budget`` pairs.

    Patterns matched to one budget cost the same, so that what they reach can be compared. ``Pattern(None)``
    gives a plain window as control.

    Parameters
    ----------
    pattern : Pattern
        Its own window does not matter.
    budget : int
        Number of (query, key) pairs, such as ``other.num_pairs(n)``. ValueError if even window 0 needs more.
    n : int
        Length of the sequence.

    Examples
    --------
    >>> import primeattn as pa
    >>> primes = pa.Pattern("primes", window=3)
    >>> for sequence in (None, "squares", "mian_chowla"):
    ...     print(pa.analysis.match_budget(pa.Pattern(sequence), primes.num_pairs(4096), 4096))
    Pattern(None, window=315)
    Pattern(squares, window=287)
    Pattern(mian_chowla, window=298)
    """
    budget, n = as_int("budget", budget, minimum=0), as_int("n", n, minimum=1)
    as_pattern(pattern)

    def with_window(window):
        return Pattern(pattern.sequence, window, pattern.global_tokens)

    least = with_window(0).num_pairs(n)
    if least > budget:
        raise ValueError(f"budget: expected at least {least}, what window 0 needs at n = {n}, got {budget}")
    fits, too_large = 0, n
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if with_window(middle).num_pairs(n) <= budget:
            fits = middle
        else:
            too_large = middle
    return with_window(fits)


def counting_bound(k, layers) -> int:
    """Return the most distances d >= 1 that ``k`` offsets can connect within ``layers`` layers,

        C(k + L, L) - 1,

    the number of non-empty multisets of at most L offsets.

    Examples
    --------
    >>> import primeattn as pa
    >>> [pa.analysis.counting_bound(k, 2) for k in (89, 90)]  # 4095 distances take 90 offsets
    [4094, 4185]
    """
    k, layers = as_int("k", k, minimum=0), as_int("layers", layers, minimum=0)
    return comb(k + layers, layers) - 1


def efficiency(pattern, layers, n) -> float:
    """Return how many distances a pattern connects, as a share of the most that as many offsets could,

        #{ d : 0 < d < n, h(d) <= L }  /  min( n - 1, C(k + L, L) - 1 ),    k = #{ d in D : 0 < d < n }.

    0 for a pattern without offsets.

    Examples
    --------
    >>> import primeattn as pa
    >>> for sequence in ("mian_chowla", "squares", "primes"):
    ...     print(round(pa.analysis.efficiency(pa.Pattern(sequence), 2, 4097), 2))
    0.85
    0.56
    0.75
    """
    n = as_int("n", n, minimum=2)
    reached = int(receptive_field(as_pattern(pattern), layers, n).sum()) - 1
    most = min(n - 1, counting_bound(len(pattern.offsets(n)) - 1, layers))
    return reached / most if most else 0.0
