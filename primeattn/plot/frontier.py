"""How few layers a budget of pairs buys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import analysis
from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int
from primeattn.plot.labels import beside_points, labelled
from primeattn.plot.style import COLORS, GREY, own_axes

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from matplotlib.axes import Axes

    from primeattn.patterns import Pattern
    from primeattn.typing import LabelledPatterns

__all__ = ["pareto"]


def pareto(
    patterns: LabelledPatterns, n: int, controls: Several[Pattern] = (), ax: Axes | None = None
) -> Axes:
    """Draw the mean number of layers that connect a distance against the cost, one point for each pattern.

    The cost is pairs per query, the mean is over the distances 1, ..., n - 1. One colour marks the
    ``patterns`` on the front, another those that some pattern beats.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each must connect every distance, as a window of 1 does, so that all means are over the same
        distances.
    n : int
        Length of the sequence.
    controls : sequence of Pattern
        Such as random patterns; drawn hollow and without names.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.analysis.compare : The numbers.
    primeattn.analysis.controls : Patterns to compare with.

    Examples
    --------
    >>> import primeattn as pa
    >>> patterns = [pa.Pattern(s, window=3) for s in ("primes", "squares", "cubes")]
    >>> ax = pa.plot.pareto(patterns, 1024)
    >>> sorted(text.get_text() for text in ax.texts)
    ['Cubes', 'Primes', 'Squares']
    """
    from matplotlib.ticker import LogLocator, NullLocator

    n, items = as_int("n", n, minimum=2), labelled(patterns)
    ax = own_axes(ax, (8.4, 5.2))
    points = np.array([_point(pattern, n) for _, pattern in items])
    hollow = np.array([_point(pattern, n) for pattern in controls]).reshape(-1, 2)
    beaten = np.array(
        [np.any((points <= point).all(axis=1) & (points < point).any(axis=1)) for point in points]
    )
    ax.scatter(*points[~beaten].T, s=26, color=COLORS[0], label="on the Pareto front")
    if beaten.any():
        ax.scatter(*points[beaten].T, s=22, color=COLORS[5], marker="D", label="beaten in cost and layers")
    if len(hollow):
        ax.scatter(*hollow.T, s=24, facecolors="none", edgecolors=GREY, linewidths=0.9, label="controls")
    ax.set(xscale="log", yscale="log", xlabel="pairs per query")
    ax.set_ylabel(f"mean layers to connect a distance below {n:,}")
    for axis, ticks in ((ax.xaxis, (1, 2, 5)), (ax.yaxis, (1, 1.5, 2, 3, 4, 6))):
        axis.set_major_locator(LogLocator(subs=ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter("{x:g}")
    ax.grid(alpha=0.3, linewidth=0.5)
    ax.legend(frameon=False)
    beside_points(ax, points, [label for label, _ in items], hollow)
    return ax


def _point(pattern, n):
    h = analysis.hops(as_pattern(pattern), n)[1:]
    unreached = int((h < 0).sum())
    if unreached:
        raise ValueError(
            f"patterns: expected all distances below {n} connected, got {pattern!r}, which leaves {unreached}"
        )
    return pattern.num_pairs(n) / n, h.mean()
