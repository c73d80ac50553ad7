"""What hardware that computes square tiles can skip: in natural order, and grouped by residues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int

if TYPE_CHECKING:
    from primeattn.patterns import Pattern

__all__ = ["tile_occupancy", "wheel_fraction"]


def tile_occupancy(pattern: Pattern, n: int, block: int = 64) -> float:
    """Return the share of causal ``block`` × ``block`` tiles of the mask that hold at least one pair.

    Query i and key j lie in tile (i // block, j // block), causal if i // block >= j // block. A kernel that
    skips empty tiles computes this share of dense attention. Takes O(n) memory.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Length of the sequence.
    block : int
        Side of a tile.

    Returns
    -------
    float
        A share, 0 to 1.

    See Also
    --------
    wheel_fraction : The same with tokens grouped by residue.

    Examples
    --------
    >>> import primeattn as pa
    >>> round(pa.analysis.tile_occupancy(pa.Pattern("squares", window=3), 4096, block=32), 3)
    0.828
    """
    n, block = as_int("n", n, minimum=1), as_int("block", block, minimum=1)
    has = np.zeros(n, bool)
    has[as_pattern(pattern).offsets(n)] = True
    total = -(-n // block)
    leading = min(-(-pattern.global_tokens // block), total)  # tile columns with a global token are full
    rest = n - leading * block
    live = leading * total - leading * (leading - 1) // 2
    if rest > 0:
        live += _live_tiles(has[:rest], rest, block)
    return live / (total * (total + 1) // 2)


def wheel_fraction(pattern: Pattern, n: int, wheel: int, block: int = 64) -> float:
    """Return the area of live tiles with tokens grouped by residue, as a share of the causal tiles' area.

    Positions with the same residue modulo ``wheel`` form a class; each pair of classes is cut into ``block``
    × ``block`` tiles, and tiles that hold a pair count. Where no offset is ≡ a - b (mod wheel), all
    tiles of queries in class a and keys in class b are empty: primes that do not divide the wheel keep a
    share near phi(wheel) / wheel. wheel = 1 is the natural order. The window, where the small primes
    belong, and the global columns do not count: they are left to a pass in natural order.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n, wheel, block : int
        Length of the sequence, modulus, side of a tile.

    Returns
    -------
    float
        A share of the area of all causal tiles; above 1 where blocks stick out of many classes.

    See Also
    --------
    primeattn.plot.wheel : A picture of the tiles.
    primeattn.Pattern.wheel_permutation : The order of the tokens.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("primes", window=5)  # 2, 3 and 5 divide the wheels
    >>> [round(pa.analysis.wheel_fraction(pattern, 16384, wheel), 3) for wheel in (1, 2, 6, 30)]
    [1.0, 0.502, 0.345, 0.328]
    """
    n, wheel = as_int("n", n, minimum=1), as_int("wheel", wheel, minimum=1)
    block = as_int("block", block, minimum=1)
    offsets = as_pattern(pattern).offsets(n)[pattern.window + 1 :]
    small, longer = divmod(n, wheel)  # the first `longer` classes have one token more than `small`
    live = 0
    for difference in range(1 - wheel, wheel):  # of the classes a of the query and b of the key
        # offset = (t - s) wheel + difference for query t of class a and key s of class b. So t >= s, and it
        # makes no difference that class b may have a token more, or (if a < b, so that t > s) one less.
        steps, remainder = np.divmod(offsets - difference, wheel)
        has = np.zeros(small + 2, bool)
        has[steps[remainder == 0]] = True
        first, end = max(0, difference), min(wheel, wheel + difference)  # the classes a
        more = max(0, min(longer, end) - first)
        live += more * _live_tiles(has, small + 1, block)
        live += (end - first - more) * _live_tiles(has, small, block)
    total = -(-n // block)
    return live / (total * (total + 1) // 2)


def _live_tiles(has, n, block):
    """Return how many tiles of an ``n`` × ``n`` mask hold a pair t >= s with has[t - s]."""
    before = np.concatenate([[0], np.cumsum(has)])  # before[x] members are below x
    if n == 0 or before[-1] == 0:
        return 0

    def live(u, v):
        lowest = u * block - np.minimum((v + 1) * block, n) + 1
        highest = np.minimum((u + 1) * block, n) - 1 - v * block
        return before[np.clip(highest + 1, 0, len(has))] > before[np.clip(lowest, 0, len(has))]

    # Whole tiles on a diagonal are alike; those of the last tile row may be cut.
    last = -(-n // block) - 1
    tiles = np.arange(last + 1)
    return int((live(tiles[:-1], 0) * (last - tiles[:-1])).sum()) + int(live(last, tiles).sum())
