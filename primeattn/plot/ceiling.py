"""Accuracy against the share of questions that theory expects to be answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from primeattn.plot.panels import marker_styles, name_lines, panels, title
from primeattn.plot.style import GREY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy as np

__all__ = ["ceiling"]


def ceiling(rows: Iterable[Mapping[str, Any]], axes: Any = None, guess: float | None = None) -> np.ndarray:
    """Draw the accuracy of each pattern against what theory predicts, such as the one-hop ceiling of mqar.

    There is a panel for each task and number of layers. Bars are 95 % intervals over seeds; on the solid line
    theory is right and other questions are never answered, on the dashed line they are guessed. A short line
    above a pattern is the share of answers that its layers connect, where that is more than theory expects.

    Parameters
    ----------
    rows : list of dict
        Of ``study.summary``; those without a mean or a prediction, or in bits, are left out, and "connected"
        may be missing.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each panel; by default on a new figure.
    guess : float, optional
        Share of guesses that are right; by default chance.

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
    >>> row = {"task": "mqar()", "pattern": "primes", "layers": 1, "length": 128, "metric": "accuracy"}
    >>> row |= {"predicted": 0.27, "mean": 0.28, "low": 0.26, "high": 0.3, "chance": 0.016}
    >>> [ax] = pa.plot.ceiling([row])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['theory', 'and guesses elsewhere', 'primes']
    """
    rows = [
        row for row in rows if row["metric"] == "accuracy" and None not in (row["mean"], row["predicted"])
    ]
    axes, groups = panels(rows, axes, (4.6, 4.0))
    styles = marker_styles(rows)
    for ax, mine in zip(axes, groups, strict=True):
        right = mine[0]["chance"] if guess is None else guess
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, label="theory")
        ax.plot([0, 1], [right, 1], "--", color=GREY, linewidth=0.9, label="and guesses elsewhere")
        for row in mine:
            bar = None if row["low"] is None else [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
            style = {"linewidth": 0, "elinewidth": 1, "capsize": 2, "markersize": 5, **styles[row["pattern"]]}
            ax.errorbar(row["predicted"], row["mean"], bar, label=row["pattern"], **style)
        relayed = [row for row in mine if (row.get("connected") or 0) > row["predicted"]]
        for row in relayed:
            label = "connected by relays" if row is relayed[0] else None
            color = styles[row["pattern"]]["color"]
            ax.plot(row["predicted"], row["connected"], "_", markersize=14, color=color, label=label)
        ax.set(xlim=(-0.03, 1.06), ylim=(-0.03, 1.06), xlabel="share of answers in reach (theory)")
        ax.set(ylabel="accuracy (test)")
        ax.set_title(title(mine[0]), fontsize=9)
    name_lines(axes, groups)
    return axes
