"""How a pattern mixes: the eigenvalues of its normalised Laplacian."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import analysis
from primeattn.checks import as_int
from primeattn.plot.labels import labelled
from primeattn.plot.style import COLORS, DASHES, own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from primeattn.typing import LabelledPatterns

__all__ = ["spectrum"]

_BINS = np.linspace(0, 2, 102)  # an odd number of bins, so that 1 is in the middle of one


def spectrum(patterns: LabelledPatterns, n: int, ax: Axes | None = None) -> Axes:
    """Draw a histogram of the eigenvalues of the normalised Laplacian, with the counts on a log scale.

    A gap above the eigenvalue 0 means that information spreads in few layers; one near 2 means that the
    graph is nearly bipartite.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets a histogram; a dict names them.
    n : int
        Number of tokens, at most 4096.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.analysis.spectrum : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.spectrum(pa.Pattern("primes", window=3), 256)
    >>> int(ax.patches[0].get_data().values.sum())
    256
    """
    n, items = as_int("n", n, minimum=2), labelled(patterns)
    ax = own_axes(ax, (7.2, 4.2))
    for i, (label, pattern) in enumerate(items):
        values = np.clip(analysis.spectrum(pattern, n), 0, 2)  # rounding may leave [0, 2]
        counts, _ = np.histogram(values, _BINS)
        ax.stairs(
            counts,
            _BINS,
            color=COLORS[i % len(COLORS)],
            linestyle=DASHES[i % len(DASHES)],
            linewidth=1.4,
            label=f"{label}: gap {values[1]:.3f}, largest {values[-1]:.3f}",
        )
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
    ax.set(
        xlabel="eigenvalue of the normalised Laplacian",
        ylabel=f"number of {n:,} eigenvalues",
        ylim=(0.7, None),
    )
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    return ax
