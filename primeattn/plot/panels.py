"""Rows of a study's tables, sorted into panels."""

from __future__ import annotations

import re

from primeattn.plot.style import COLORS, DASHES, MARKERS, grid_of_axes

__all__ = ["line_styles", "marker_styles", "metric", "name_lines", "panels", "title"]

_TOKENS = {"text": "byte", "pixels": "pixel"}  # what a token of a task is


def panels(rows, axes, size, columns=2):
    """Return an array of Axes and as many lists of rows, one for each task and number of layers.

    ValueError without rows.
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["task"], row["layers"]), []).append(row)
    if not groups:
        raise ValueError("rows: expected at least one, got none")
    return grid_of_axes(axes, len(groups), size, columns), list(groups.values())


def title(row) -> str:
    """Return the task, its length and the number of layers of a row as text.

    Examples
    --------
    >>> from primeattn.plot.panels import title
    >>> title({"task": "mqar(length=256, pairs=8)", "length": 256, "layers": 1})
    'mqar(pairs=8), 256 tokens, 1 layer'
    """
    task = re.sub(r"length=\d+(, )?", "", row["task"]).removesuffix("()")
    return f"{task}, {row['length']} tokens, {row['layers']} layer{'s' if row['layers'] > 1 else ''}"


def metric(row) -> str:
    """Return the label of an axis with the metric of a row.

    Examples
    --------
    >>> from primeattn.plot.panels import metric
    >>> metric({"task": "text(length=256)", "metric": "bits"})
    'bits per byte (test)'
    """
    task = row["task"].partition("(")[0]
    return f"bits per {_TOKENS.get(task, 'token')} (test)" if row["metric"] == "bits" else "accuracy (test)"


def line_styles(rows) -> dict:
    """Return a color and a dash for each pattern of the rows, by name, in the order in which they come.

    Examples
    --------
    >>> from primeattn.plot.panels import line_styles
    >>> line_styles([{"pattern": "primes"}, {"pattern": "squares"}])["squares"]
    {'color': '#E69F00', 'linestyle': '--'}
    """
    names = dict.fromkeys(row["pattern"] for row in rows)
    return {
        name: {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}
        for i, name in enumerate(names)
    }


def marker_styles(rows) -> dict:
    """Return a color and a marker for each pattern of the rows, by name, in the order in which they come.

    Examples
    --------
    >>> from primeattn.plot.panels import marker_styles
    >>> marker_styles([{"pattern": "primes"}, {"pattern": "squares"}])["squares"]
    {'color': '#E69F00', 'marker': 's'}
    """
    names = dict.fromkeys(row["pattern"] for row in rows)
    return {
        name: {"color": COLORS[i % len(COLORS)], "marker": MARKERS[(i + i // len(COLORS)) % len(MARKERS)]}
        for i, name in enumerate(names)
    }


def name_lines(axes, groups):
    """Add one legend, right of the last of the panels that show most patterns."""
    _, last = max((len(rows), i) for i, rows in enumerate(groups))
    axes[last].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
