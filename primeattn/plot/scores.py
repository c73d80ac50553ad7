"""Results of patterns side by side, with what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.plot.panels import metric, panels, title
from primeattn.plot.style import COLORS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["scores"]


def scores(rows: Iterable[Mapping[str, Any]], axes: Any = None) -> np.ndarray:
    """Draw the mean of each pattern with its 95 % interval, the best on top, and its pairs beside the name.

    There is a panel for each task and number of layers.

    Parameters
    ----------
    rows : list of dict
        Of ``study.summary``; those without a mean are left out.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each panel; by default on a new figure.

    Returns
    -------
    array of matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.study.summary : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> row = {"task": "text()", "pattern": "primes", "layers": 2, "length": 256, "metric": "bits"}
    >>> [ax] = pa.plot.scores([row | {"pairs": 9000, "mean": 3.0, "low": 2.9, "high": 3.1}])
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['primes\\n9,000 pairs']
    """
    rows = [row for row in rows if row["mean"] is not None]
    most = len({row["pattern"] for row in rows})
    axes, groups = panels(rows, axes, (5.2, 1.0 + 0.42 * most))
    for ax, mine in zip(axes, groups, strict=True):
        sign = 1 if mine[0]["metric"] == "accuracy" else -1
        mine = sorted(mine, key=lambda row: sign * row["mean"])
        for height, row in enumerate(mine):
            if row["low"] is not None:
                ax.plot([row["low"], row["high"]], [height] * 2, color=COLORS[0], linewidth=1.4)
        ax.plot([row["mean"] for row in mine], np.arange(len(mine)), "o", color=COLORS[0], markersize=5)
        ax.set_yticks(
            range(len(mine)), [f"{row['pattern']}\n{row['pairs']:,} pairs" for row in mine], fontsize=8
        )
        ax.set(ylim=(-0.6, len(mine) - 0.4), xlabel=metric(mine[0]))
        ax.set_title(title(mine[0]), fontsize=9)
        ax.grid(axis="x", alpha=0.3, linewidth=0.5)
    return axes
