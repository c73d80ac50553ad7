"""Recall by distance, against what hops allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.plot.style import COLORS, GREY, grid_of_axes, outer_labels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["recall"]


def recall(rows: Iterable[Mapping[str, Any]], axes: Any = None) -> np.ndarray:
    """Draw accuracy against the distance from question to answer, and which distances theory expects.

    There is a panel for each pattern (downwards) and number of layers. Distances at which theory expects
    answers are shaded, and points there are filled. Where theory expects nothing, though relays connect the
    distance, the shade is light and points are triangles; others are hollow. A dashed line marks chance.
    Lines have labels for a legend.

    Parameters
    ----------
    rows : list of dict
        Of ``study.places``, by distance; those in bits are left out, and "connected" may be missing. Rows of
        several tasks with one pattern share a panel.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each panel; by default on a new figure.

    Returns
    -------
    array of matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ValueError
        If no row has accuracies by distance, with a theory.

    See Also
    --------
    primeattn.study.places : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> row = {"task": "needle(5)", "pattern": "squares", "layers": 1, "by": "distance", "chance": 0.25}
    >>> row |= {"at": [1, 2, 3, 4], "score": [1.0, 0.3, 0.2, 1.0], "reached": [True, False, False, True]}
    >>> [ax] = pa.plot.recall([row])
    >>> ax.get_title()
    'squares, 1 layer'
    """
    rows = [
        row
        for row in rows
        if row["by"] == "distance" and row["reached"] is not None and row.get("metric") != "bits"
    ]
    if not rows:
        raise ValueError("rows: expected accuracies by distance, with a theory, got none")
    names, layers = dict.fromkeys(row["pattern"] for row in rows), sorted({row["layers"] for row in rows})
    own = axes is None
    axes = grid_of_axes(axes, len(names) * len(layers), (3.3, 1.5), columns=len(layers))
    cells = [(name, count) for name in names for count in layers]
    most = max(max(row["at"]) for row in rows)
    for ax, (name, count) in zip(axes, cells, strict=True):
        mine = [row for row in rows if (row["pattern"], row["layers"]) == (name, count)]
        for row in mine:
            at, score, reached = (np.array(row[key]) for key in ("at", "score", "reached"))
            relayed = np.array(row.get("connected") or row["reached"]) & ~reached
            rest = ~(reached | relayed)
            for places, alpha in ((reached, 0.3), (relayed, 0.1)):
                shades = [(place - 0.5, 1) for place in at[places]]
                ax.broken_barh(shades, (-0.1, 1.3), color=COLORS[4], alpha=alpha, linewidth=0)
            points = {"linewidth": 0, "markersize": 2.7}
            ax.plot(at[reached], score[reached], "o", color=COLORS[0], label="expected", **points)
            ax.plot(at[relayed], score[relayed], "^", color=COLORS[2], label="by relays", **points)
            style = {"color": COLORS[5], "markerfacecolor": "none", "label": "not connected"}
            ax.plot(at[rest], score[rest], "o", **style, **points)
            ax.axhline(row["chance"], color=GREY, linestyle="--", linewidth=0.8, label="chance")
        ax.set(xlim=(0.5, most + 0.5), ylim=(-0.05, 1.08), yticks=(0, 0.5, 1))
        ax.set_title(f"{name}, {count} layer{'s' if count > 1 else ''}", fontsize=9)
        ax.set(xlabel="distance (tokens)", ylabel="accuracy")
    if own:
        outer_labels(axes)
    return axes
