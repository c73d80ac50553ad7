"""The hop comb: how many layers each distance needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import analysis
from primeattn.checks import as_int
from primeattn.plot.labels import labelled
from primeattn.plot.strips import strips
from primeattn.plot.style import own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from primeattn.typing import LabelledPatterns

__all__ = ["hops"]

_MAX_DISTANCES = 4096  # more than a page has pixels
_MAX_LAYERS = 8  # more colours are hard to tell apart
_UNREACHED = "#D55E00"


def hops(patterns: LabelledPatterns, n: int, ax: Axes | None = None) -> Axes:
    """Draw how many layers connect each distance d = 1, ..., ``n``: a strip of cells for each pattern.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets a strip; a dict names them.
    n : int
        The largest distance, at most 4096.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ValueError
        If ``n`` is above 4096.

    See Also
    --------
    primeattn.analysis.hops : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.hops([pa.Pattern("primes"), pa.Pattern("squares")], 27)
    >>> ax.images[0].get_array()[0].tolist()  # 27 is the first that takes three primes; 1 is out of reach
    [0, 1, 1, 2, 1, 2, 1, 2, 2, 2, 1, 2, 1, 2, 2, 2, 1, 2, 1, 2, 2, 2, 1, 2, 2, 2, 3]
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    n, items = as_int("n", n, minimum=1), labelled(patterns)
    if n > _MAX_DISTANCES:
        raise ValueError(f"n: expected at most {_MAX_DISTANCES} distances, got {n}")
    ax = own_axes(ax, (9.6, 1.2 + 0.5 * len(items)))
    h = np.array([analysis.hops(pattern, n + 1)[1:] for _, pattern in items])
    most = max(1, min(int(h.max()), _MAX_LAYERS))
    shades = colormaps["viridis"](np.linspace(0, 1, most))
    kind = np.where(h < 0, 0, np.minimum(h, _MAX_LAYERS))
    colors = ListedColormap([_UNREACHED, *shades])
    strips(ax, kind, [label for label, _ in items], 1, colors, vmin=0, vmax=most)
    for row, layers in enumerate(h):
        reached = layers[layers > 0]
        text = f"mean {reached.mean():.2f}" if reached.size else "none"
        ax.text(1.01, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize=9)
    ax.set_xlabel("distance between query and key (tokens)")
    shown = set(np.unique(kind).tolist())
    texts = ["out of reach", "1 layer", *(f"{layers} layers" for layers in range(2, most + 1))]
    if h.max() > _MAX_LAYERS:
        texts[-1] = f"{_MAX_LAYERS} layers or more"
    handles = [
        Patch(color=color, label=text)
        for value, (color, text) in enumerate(zip([_UNREACHED, *shades], texts, strict=True))
        if value in shown
    ]
    compact = {"ncols": len(handles), "fontsize": "small", "handlelength": 1.2, "columnspacing": 1.2}
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, **compact)
    return ax
