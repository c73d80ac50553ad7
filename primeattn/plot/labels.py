"""Names of patterns in pictures, and places for them where none covers another."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.patterns import Pattern
from primeattn.plot.style import GREY

__all__ = ["beside_points", "labelled", "name", "percent", "right_of_ends"]

_LONGEST = 32


def name(pattern) -> str:
    """Return the title of the pattern's sequence, or its repr, shortened.

    Examples
    --------
    >>> import primeattn as pa
    >>> from primeattn.plot.labels import name
    >>> [name(pa.Pattern(s, window=5)) for s in ("primes", 2 * pa.sequences.primes, None)]
    ['Primes', '2 * primes', 'Window 5']
    """
    if pattern.sequence is None:
        return f"Window {pattern.window}"
    text = pattern.sequence.title or repr(pattern.sequence)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def labelled(patterns) -> list[tuple[str, Pattern]]:
    """Return (label, pattern) for one Pattern, several, or a dict of labels to patterns.

    Default labels are names, with window W and global tokens G if the patterns differ in them.

    Examples
    --------
    >>> import primeattn as pa
    >>> from primeattn.plot.labels import labelled
    >>> patterns = [pa.Pattern("primes", window=3), pa.Pattern("squares", window=9)]
    >>> [label for label, _ in labelled(patterns)]
    ['Primes, W = 3', 'Squares, W = 9']
    """
    if isinstance(patterns, Pattern):
        patterns = [patterns]
    if isinstance(patterns, str) or not np.iterable(patterns):
        raise TypeError(f"patterns: expected a Pattern or several, got {patterns!r}")
    values = [as_pattern(p) for p in (patterns.values() if isinstance(patterns, Mapping) else patterns)]
    if not values:
        raise ValueError("patterns: expected at least one, got none")
    if isinstance(patterns, Mapping):
        return list(zip(map(str, patterns), values, strict=True))
    windows = len({p.window for p in values if p.sequence is not None}) > 1
    leading = len({p.global_tokens for p in values}) > 1
    return [
        (
            name(p)
            + (f", W = {p.window}" if windows and p.sequence is not None else "")
            + (f", G = {p.global_tokens}" if leading else ""),
            p,
        )
        for p in values
    ]


def percent(share) -> str:
    """Return a share as text with three digits.

    Examples
    --------
    >>> from primeattn.plot.labels import percent
    >>> percent(0.41587), percent(0.00031), percent(1)
    ('41.6%', '0.031%', '100%')
    """
    return f"{100 * share:.3g}%"


def right_of_ends(ax, heights, texts):
    """Write ``texts`` right of the Axes at ``heights`` (in data), moved apart where they would overlap."""
    ax.figure.draw_without_rendering()  # so that distances on the page are known
    size = 9 * ax.figure.dpi / 72
    at = [ax.transData.transform((ax.get_xlim()[1], height))[1] for height in heights]
    lowest = -np.inf
    for i in np.argsort(at):
        lowest = max(at[i], lowest + 1.3 * size)
        height = ax.transAxes.inverted().transform((0, lowest))[1]
        ax.text(1.015, height, texts[i], transform=ax.transAxes, fontsize=9, va="center")


def beside_points(ax, points, texts, others=()):
    """Write ``texts`` beside the ``points`` (x, y), each where it covers least of earlier texts and points.

    A thin line leads to a point that is further away. ``others`` are more points to keep clear of.
    """
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()
    unit = ax.figure.dpi / 72
    at = ax.transData.transform([*points, *others])
    taken = [Bbox.from_bounds(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit) for x, y in at]
    frame = ax.get_window_extent()
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    directions = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
    for point, (x, y), text in zip(points, at, texts, strict=False):
        written = ax.text(0, 0, text, fontsize=8)
        width, height = written.get_window_extent().size
        written.remove()
        best = np.inf
        for distance, (dx, dy) in product((6, 11, 17, 25), directions):
            left = distance * unit * dx - width * (1 - dx) / 2
            bottom = distance * unit * dy - height * (1 - dy) / 2
            box = Bbox.from_bounds(x + left, y + bottom, width, height)
            cost = width * height - _overlap(box, frame) + sum(_overlap(box, other) for other in taken)
            if cost < best - 1:  # in square pixels: rounding does not decide between equals
                best, near, place, covered = cost, distance == 6, (left / unit, bottom / unit), box
        taken.append(covered)
        arrow = None if near else line
        ax.annotate(text, point, place, textcoords="offset points", fontsize=8, arrowprops=arrow)


def _overlap(a, b):
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0) * max(height, 0)
