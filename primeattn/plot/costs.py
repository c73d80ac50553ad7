"""What a pattern costs, as sequences grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import analysis
from primeattn.checks import as_int
from primeattn.plot.labels import labelled, right_of_ends
from primeattn.plot.style import COLORS, GREY, MARKERS, own_axes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes

    from primeattn.typing import LabelledPatterns

__all__ = ["pairs"]


def pairs(
    patterns: LabelledPatterns,
    lengths: Iterable[int] = tuple(2**k for k in range(8, 17)),
    ax: Axes | None = None,
) -> Axes:
    """Draw the attended pairs against the length, both logarithmic, with the law that they follow.

    The law (thin) is ``analysis.asymptotic_pairs``; the grey line is dense causal attention, n(n + 1) / 2.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets a line; a dict names them.
    lengths : sequence of int
        At least two.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    ValueError
        For fewer than two lengths.

    See Also
    --------
    primeattn.analysis.asymptotic_pairs : The law.
    primeattn.Pattern.num_pairs : The numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.pairs(pa.Pattern("primes", window=3), [1024, 4096])
    >>> ax.get_lines()[0].get_ydata()
    array([  97986, 1248244])
    """
    items = labelled(patterns)
    if not np.iterable(lengths) or len(lengths) < 2:
        raise ValueError(f"lengths: expected at least two lengths, got {lengths!r}")
    lengths = np.sort([as_int("lengths", n, minimum=1) for n in lengths])
    ax = own_axes(ax, (6.4, 4.4))
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    fine = np.unique(np.geomspace(lengths[0], lengths[-1], 60).round().astype(np.int64)).tolist()
    ends = []
    for i, (_, pattern) in enumerate(items):
        counts = np.array([pattern.num_pairs(n) for n in lengths.tolist()])
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        ax.plot(lengths, counts, color=color, marker=marker, markersize=5, linestyle="none")
        ax.plot(fine, [analysis.asymptotic_pairs(pattern, n) for n in fine], color=color, linewidth=1)
        ends.append(counts[-1])
    ax.plot([], [], color="black", marker="o", markersize=5, linestyle="none", label="counted")
    ax.plot([], [], color="black", linewidth=1, label="law")
    ax.legend(frameon=False, loc="lower right")
    dense = lengths * (lengths + 1) // 2
    ax.plot(lengths, dense, color=GREY, linewidth=1.4)
    ax.set(xlabel="sequence length (tokens)", ylabel="attended pairs")
    ax.set_xticks(lengths, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in lengths])
    ax.minorticks_off()
    ax.grid(alpha=0.3, linewidth=0.5)
    right_of_ends(ax, [*ends, dense[-1]], [*(label for label, _ in items), "dense causal"])
    return ax
