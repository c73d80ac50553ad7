"""The course of training, many patterns at once; and results by position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.checks import as_int
from primeattn.plot.panels import line_styles, metric, name_lines, panels, title

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["by_position", "learning_curves"]


def learning_curves(rows: Iterable[Mapping[str, Any]], axes: Any = None) -> np.ndarray:
    """Draw training loss against steps, a line for each pattern, a panel for each task and number of layers.

    Parameters
    ----------
    rows : list of dict
        Of ``study.curves``.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each task and number of layers; by default on a new figure.

    Returns
    -------
    array of matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.study.curves : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> row = {"task": "mqar()", "pattern": "primes", "layers": 1, "length": 128}
    >>> [ax] = pa.plot.learning_curves([row | {"steps": [10, 20], "losses": [4.0, 3.0]}])
    >>> ax.get_ylabel()
    'training loss (nats)'
    """
    rows = list(rows)
    axes, groups = panels(rows, axes, (5.2, 3.4))
    styles = line_styles(rows)
    for ax, mine in zip(axes, groups, strict=True):
        for row in mine:
            ax.plot(
                row["steps"], row["losses"], **styles[row["pattern"]], linewidth=1.3, label=row["pattern"]
            )
        ax.set(xlabel="step", ylabel="training loss (nats)", ylim=(0, None))
        ax.set_title(title(mine[0]), fontsize=9)
    name_lines(axes, groups)
    return axes


def by_position(
    rows: Iterable[Mapping[str, Any]], axes: Any = None, parts: int = 16, against: str | None = None
) -> np.ndarray:
    """Draw the metric in the test against the position in the sequence, a line for each pattern.

    All patterns are tested on the same sequences, some of whose parts are easier: the difference from one of
    the patterns shows more.

    Parameters
    ----------
    rows : list of dict
        Of ``study.places``, by position; others are left out.
    axes : sequence of matplotlib.axes.Axes, optional
        One for each task and number of layers.
    parts : int
        Positions are drawn as means over this many equal parts.
    against : str, optional
        Pattern whose metric is subtracted from that of the others.

    Returns
    -------
    array of matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ValueError
        If ``against`` is not among the patterns.

    See Also
    --------
    primeattn.study.places : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> row = {"task": "text()", "pattern": "primes", "layers": 1, "length": 4}
    >>> row |= {"by": "position", "metric": "bits", "at": [0, 1, 2, 3], "score": [5.0, 4.0, 3.5, 2.5]}
    >>> [ax] = pa.plot.by_position([row], parts=2)
    >>> ax.get_lines()[0].get_ydata()
    array([4.5, 3. ])
    """
    parts = as_int("parts", parts, minimum=1)
    rows = [row for row in rows if row["by"] == "position"]
    axes, groups = panels(rows, axes, (5.2, 3.4))
    styles = line_styles(rows)
    for ax, mine in zip(axes, groups, strict=True):
        means = {}
        for row in mine:
            split = min(parts, len(row["at"]))
            at, score = ([part.mean() for part in np.array_split(row[key], split)] for key in ("at", "score"))
            means[row["pattern"]] = np.array(at), np.array(score)
        if against is not None and against not in means:
            raise ValueError(f"against: expected one of {', '.join(means)}, got {against!r}")
        for name, (at, score) in means.items():
            less = 0 if against is None else means[against][1]
            ax.plot(at, score - less, **styles[name], linewidth=1.3, label=name)
        label = metric(mine[0])
        ax.set(
            xlabel="position (tokens)",
            ylabel=label if against is None else f"{label}\nless that of {against}",
        )
        ax.set_title(title(mine[0]), fontsize=9)
    name_lines(axes, groups)
    return axes
