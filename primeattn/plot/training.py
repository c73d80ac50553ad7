"""The course of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.plot.style import COLORS, DASHES, own_axes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

__all__ = ["loss_curve"]


def loss_curve(bits: Any, *, levels: Mapping[str, float] | None = None, ax: Axes | None = None) -> Axes:
    """Draw training loss against steps, with horizontal lines to compare it with.

    Parameters
    ----------
    bits : array_like, shape (steps,)
        Loss of each step, in bits per byte. A running mean over a fiftieth of the steps is drawn over it.
    levels : dict of str to float, optional
        Label -> height of a line.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.train.run : Draws it at the end of a training run.

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.loss_curve([8.0, 5.0, 4.0, 3.5], levels={"gzip": 2.1})
    """
    bits, levels = np.asarray(bits, float), levels or {}
    ax = own_axes(ax, (6.4, 4.2))
    ax.plot(np.arange(1, bits.size + 1), bits, color=COLORS[0], linewidth=0.6, alpha=0.35)
    width = max(1, bits.size // 50)
    mean = np.convolve(bits, np.full(width, 1 / width), mode="valid") if bits.size else bits
    ax.plot(np.arange(width, width + mean.size), mean, color=COLORS[0], linewidth=1.8, label="training")
    highest_first = sorted(levels.items(), key=lambda level: -level[1])
    for i, (label, height) in enumerate(highest_first):
        style, color = DASHES[(i + 1) % len(DASHES)], COLORS[1 + i % (len(COLORS) - 1)]
        ax.axhline(height, linestyle=style, color=color, linewidth=1.4, label=f"{label} {height:.3f}")
    if levels:  # the first steps fall from 8 bits; the comparison is near the levels
        ax.set_ylim(top=min(ax.get_ylim()[1], 2 * max(levels.values())))
    ax.set(xlabel="step", ylabel="bits per byte")
    ax.legend(frameon=False)
    return ax
