"""Rows of cells, one row for each pattern."""

from __future__ import annotations

__all__ = ["strips"]


def strips(ax, values, labels, first, colors, **scale):
    """Draw each row of ``values`` as a strip of cells, numbered from ``first``; return the image.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.plot.strips import strips
    >>> from primeattn.plot.style import own_axes
    >>> strips(own_axes(None, (4, 2)), np.eye(2, 3), ["above", "below"], 5, "gray").get_extent()
    [4.5, 7.5, 1.5, -0.5]
    """
    rows, columns = values.shape
    cells = (first - 0.5, first + columns - 0.5, rows - 0.5, -0.5)
    image = ax.imshow(values, colors, aspect="auto", interpolation="nearest", extent=cells, **scale)
    for row in range(1, rows):
        ax.axhline(row - 0.5, color="white", linewidth=4)
    ax.set_yticks(range(rows), labels)
    ax.tick_params(left=False)
    ax.spines[:].set_visible(False)
    return image
