"""Which periods of the data a pattern sees."""

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

__all__ = ["residues"]

_MOST = 4


def residues(patterns: LabelledPatterns, n: int, largest: int = 64, ax: Axes | None = None) -> Axes:
    """Draw how often multiples of each period P = 2, ..., ``largest`` are offsets, a row for each pattern.

    The colour is that share divided by the share of all distances: 1 means that the pattern sees a signal of
    period P as well as any other, 0 that it is blind to it.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets a row; a dict names them.
    n : int
        Length of the sequence, more than ``largest``.
    largest : int
        The largest period.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.analysis.residue_coverage : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.residues(pa.Pattern("squares"), 101, largest=4)
    >>> ax.images[0].get_array().round(2).tolist()  # of 10 squares, 5 are among the 25 multiples of 4
    [[1.0, 0.91, 2.0]]
    """
    from matplotlib.colors import TwoSlopeNorm

    largest = as_int("largest", largest, minimum=2)
    n, items = as_int("n", n, minimum=largest + 1), labelled(patterns)
    ax = own_axes(ax, (9.6, max(2.4, 1.3 + 0.45 * len(items))))
    coverage = np.array([analysis.residue_coverage(pattern, n, largest) for _, pattern in items])
    with np.errstate(invalid="ignore"):  # a pattern without offsets sees no period: 0 / 0
        lift = coverage[:, 2:] / coverage[:, 1:2]
    image = strips(ax, lift, [label for label, _ in items], 2, "PuOr", norm=TwoSlopeNorm(1, 0, _MOST))
    ax.set_xlabel("period P of the data (tokens)")
    bar = ax.figure.colorbar(
        image, ax=ax, label="share of multiples of P\n/ share of distances", extend="max"
    )
    bar.set_ticks([0, 0.5, 1, 2, 3, 4], labels=["0", "0.5", "1", "2", "3", "4"])
    bar.outline.set_visible(False)
    return ax
