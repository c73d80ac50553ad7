"""In how many ways two layers connect a distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import analysis
from primeattn.checks import as_int
from primeattn.plot.labels import labelled
from primeattn.plot.style import COLORS, own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from primeattn.typing import LabelledPatterns

__all__ = ["two_hop_paths"]


def two_hop_paths(patterns: LabelledPatterns, n: int, ax: Axes | None = None) -> Axes:
    """Draw r(d), the number of ways in which distance d < ``n`` is a sum of two offsets, where it is not 0.

    For the primes it is the comet of Goldbach's conjecture, for a Sidon set such as Mian-Chowla's r(d) <= 1.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets its points; a dict names them.
    n : int
        Distances 1, ..., n - 1.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.analysis.two_hop_paths : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.two_hop_paths(pa.Pattern("primes"), 11)
    >>> ax.collections[0].get_offsets().tolist()  # 10 = 3 + 7 = 5 + 5
    [[4.0, 1.0], [5.0, 1.0], [6.0, 1.0], [7.0, 1.0], [8.0, 1.0], [9.0, 1.0], [10.0, 2.0]]
    """
    n, items = as_int("n", n, minimum=2), labelled(patterns)
    ax = own_axes(ax, (7.2, 4.4))
    for i, (label, pattern) in enumerate(items):
        r = analysis.two_hop_paths(pattern, n)
        d = np.flatnonzero(r)
        text = f"{label}: {len(d):,} distances, r ≤ {r.max()}"
        ax.scatter(d, r[d], s=3, color=COLORS[i % len(COLORS)], linewidths=0, label=text)
    ax.set_yscale("log", base=2)
    ax.set(xlabel="distance between query and key (tokens)", ylabel="two-hop paths r", xlim=(0, n))
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.legend(frameon=False, markerscale=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax
