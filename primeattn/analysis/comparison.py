"""Patterns side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from primeattn.analysis.paths import redundancy
from primeattn.analysis.reach import as_pattern, hops
from primeattn.analysis.spectral import extreme_eigenvalues
from primeattn.analysis.tiling import tile_occupancy
from primeattn.checks import as_int
from primeattn.patterns import Pattern
from primeattn.table import Table

if TYPE_CHECKING:
    from primeattn.typing import LabelledPatterns

__all__ = ["compare", "reach_by_layer"]


def compare(patterns: LabelledPatterns, n: int) -> Table:
    """Return a table of what each of the ``patterns`` costs and achieves at length ``n``.

    The columns, over the distances d = 1, ..., n - 1:

    - offsets, pairs, density: how many offsets, (query, key) pairs, and their share of the causal pairs
    - hops_max, hops_mean: over the distances that layers can connect; unreached: how many they cannot
    - within_1, within_2, within_3: share of the distances that so many layers connect
    - redundancy: share of superfluous two-hop paths (see ``redundancy``)
    - gap, largest: extreme eigenvalues of the normalised Laplacian (see ``extreme_eigenvalues``)
    - tiles: share of causal 64 × 64 tiles that are not empty

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        A row of the table for each; a dict names them.
    n : int
        Length of the sequence.

    Returns
    -------
    Table
        Of the columns above.

    See Also
    --------
    reach_by_layer : Over more layers.
    controls : What to compare a pattern with.

    Examples
    --------
    >>> import primeattn as pa
    >>> patterns = [pa.Pattern(s, window=3) for s in ("primes", "squares", "mian_chowla")]
    >>> table = pa.analysis.compare(patterns, 1025)
    >>> table.column("within_2").round(3)
    array([0.8  , 0.382, 0.347])
    >>> squares = pa.Pattern("squares", window=3)
    >>> rivals = {"squares": squares, **pa.analysis.controls(squares, 257, seeds=1)}
    >>> print(pa.analysis.compare(rivals, 257).column("pattern"))
    ['squares' 'window' 'strided' 'powers of two' 'dense' 'random 0']
    """
    n = as_int("n", n, minimum=2)
    return Table({"pattern": label, **_row(pattern, n)} for label, pattern in _with_bar(_labelled(patterns)))


def reach_by_layer(patterns: LabelledPatterns, n: int, layers: int = 6) -> Table:
    """Return a table of how far layers see: for each of the ``patterns``, over d = 1, ..., n - 1,

    - pairs: the cost of a layer
    - hops_max, hops_mean: over the distances that layers can connect; unreached: how many they cannot
    - within_1, ..., within_L: share of the distances that so many layers connect, L = ``layers``

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        A row of the table for each; a dict names them.
    n : int
        Distances 1, ..., n - 1.
    layers : int
        L, the number of columns within_1, within_2, ...

    Returns
    -------
    Table
        Of the columns above.

    See Also
    --------
    hops : The numbers behind it.
    primeattn.plot.reach : A picture of it.

    Examples
    --------
    >>> import primeattn as pa
    >>> patterns = [pa.Pattern(s, window=3) for s in ("primes", "squares")]
    >>> print(pa.analysis.reach_by_layer(patterns, 4097, layers=3))
    pattern                       pairs  hops_max  hops_mean  unreached  within_1  within_2  within_3
    Pattern(primes, window=3)   1248810         3     2.1130          0    0.1379    0.7490    1.0000
    Pattern(squares, window=3)   185054         4     2.7100          0    0.0161    0.3196    0.9543
    """
    n, layers = as_int("n", n, minimum=2), as_int("layers", layers, minimum=1)
    return Table(
        {"pattern": label, "pairs": pattern.num_pairs(n), **_hop_columns(pattern, n, layers)}
        for label, pattern in _with_bar(_labelled(patterns))
    )


def _labelled(patterns):
    """Pairs of label and Pattern, of a dict by label or of one or several that are called by their repr."""
    if isinstance(patterns, Mapping):
        return [(str(label), as_pattern(pattern)) for label, pattern in patterns.items()]
    if isinstance(patterns, str) or not isinstance(patterns, (Pattern, Iterable)):
        raise TypeError(f"patterns: expected a Pattern, several, or a dict of them, got {patterns!r}")
    several = [patterns] if isinstance(patterns, Pattern) else list(patterns)
    return [(repr(pattern), as_pattern(pattern)) for pattern in several]


def _with_bar(patterns):
    from tqdm import tqdm

    return tqdm(patterns, unit=" patterns", leave=False, disable=None)


def _hop_columns(pattern, n, layers):
    h = hops(pattern, n)[1:]
    reached = h[h > 0]
    return {
        "hops_max": int(reached.max()) if reached.size else None,
        "hops_mean": float(reached.mean()) if reached.size else None,
        "unreached": len(h) - len(reached),
        **{f"within_{layer}": float(np.mean((h > 0) & (h <= layer))) for layer in range(1, layers + 1)},
    }


def _row(pattern, n):
    eigenvalues = extreme_eigenvalues(pattern, n)
    return {
        "offsets": len(pattern.offsets(n)) - 1,
        "pairs": pattern.num_pairs(n),
        "density": pattern.density(n),
        **_hop_columns(pattern, n, 3),
        "redundancy": redundancy(pattern, n),
        "gap": eigenvalues.gap,
        "largest": eigenvalues.largest,
        "tiles": tile_occupancy(pattern, n),
    }
