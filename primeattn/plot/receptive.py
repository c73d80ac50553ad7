"""How far a stack of layers sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from primeattn import analysis
from primeattn.checks import as_int
from primeattn.plot.labels import labelled
from primeattn.plot.style import COLORS, MARKERS, own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from primeattn.typing import LabelledPatterns

__all__ = ["reach"]


def reach(patterns: LabelledPatterns, n: int, layers: int = 6, ax: Axes | None = None) -> Axes:
    """Draw the share of the distances 1, ..., n - 1 that L layers connect, against L.

    Dashed: the most that as many offsets could connect, min(1, (C(k + L, L) - 1) / (n - 1)).

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets a line; a dict names them.
    n : int
        Length of the sequence.
    layers : int
        Draw L = 1, ..., ``layers``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.analysis.hops, primeattn.analysis.counting_bound : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.reach(pa.Pattern("primes", window=3), 4097, layers=3)
    >>> ax.get_lines()[0].get_ydata().round(3)
    array([0.138, 0.749, 1.   ])
    """
    n, layers = as_int("n", n, minimum=2), as_int("layers", layers, minimum=1)
    items = labelled(patterns)
    ax = own_axes(ax, (7.6, 4.4))
    depths = range(1, layers + 1)
    for i, (label, pattern) in enumerate(items):
        h = analysis.hops(pattern, n)[1:]
        shares = [((h > 0) & (h <= depth)).mean() for depth in depths]
        k = len(pattern.offsets(n)) - 1
        bound = [min(1, analysis.counting_bound(k, depth) / (n - 1)) for depth in depths]
        style = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        ax.plot(depths, shares, **style, label=label)
        ax.plot(depths, bound, color=style["color"], linestyle="--", linewidth=1)
    ax.plot([], [], color="black", linestyle="--", linewidth=1, label="most for as many offsets")
    ax.set(xlabel="layers", ylabel=f"share of distances below {n:,} connected", ylim=(0, 1.03))
    ax.set_xticks(depths)
    ax.grid(alpha=0.3, linewidth=0.5)
    ax.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return ax
