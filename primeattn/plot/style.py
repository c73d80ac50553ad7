"""Shared by all pictures: colours, and Axes to draw on."""

from __future__ import annotations

import numpy as np

from primeattn.plot.files import new_figure

__all__ = [
    "COLORS",
    "DASHES",
    "GREY",
    "HIDDEN",
    "MARKERS",
    "RULE_COLORS",
    "grid_of_axes",
    "outer_labels",
    "own_axes",
    "query_by_key",
]

# Okabe and Ito's colours, distinct for any common colour vision. Markers and dashes differ too.
COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "black"]
MARKERS = ["o", "s", "^", "v", "P", "D", "X"]
DASHES = ["-", "--", "-.", ":"]
RULE_COLORS = COLORS[:3]  # in the order of ``analysis.rules.RULES``
HIDDEN = "#EEEEEE"  # causal pairs that the pattern leaves out
GREY = "#777777"


def own_axes(ax, size):
    """Return ``ax``, or Axes on a new figure of ``size`` inches. TypeError for anything else."""
    if ax is not None:
        return _as_axes("ax", ax)
    return new_figure(figsize=size, layout="compressed").add_subplot()


def grid_of_axes(axes, count, size, columns=4) -> np.ndarray:
    """Return ``count`` Axes as a 1-D array: ``axes`` themselves, or a new grid of ``size`` inches each."""
    if axes is not None:
        axes = np.array(axes, dtype=object).ravel()
        if len(axes) != count:
            raise ValueError(f"axes: expected {count} Axes, got {len(axes)}")
        for ax in axes:
            _as_axes("axes", ax)
        return axes
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = new_figure(figsize=(size[0] * columns, size[1] * rows), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[count:]:
        ax.remove()
    return axes[:count]


def query_by_key(ax):
    """Set up ``ax`` for a picture of queries (rows) by keys (columns) with a blank upper right."""
    from matplotlib.ticker import MaxNLocator

    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 4, 5, 8, 10], integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.set(xlabel="key", ylabel="query")


def outer_labels(axes):
    """Keep labels only on the y axes of the first column, and on x axes with nothing below."""
    columns = axes[0].get_gridspec().ncols
    for i, ax in enumerate(axes):
        if i % columns:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
        if i + columns < len(axes):
            ax.set_xlabel("")
            ax.tick_params(labelbottom=False)


def _as_axes(name, ax):
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"{name}: expected matplotlib Axes, got {ax!r} ({type(ax).__name__})")
    return ax
