"""What attention has learned about distances."""

from __future__ import annotations

from typing import TYPE_CHECKING

from primeattn.nn.attention import SparseIndexAttention
from primeattn.plot.style import COLORS, GREY, MARKERS, own_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from primeattn.typing import Params

__all__ = ["offset_bias"]


def offset_bias(layer: SparseIndexAttention, ps: Params, ax: Axes | None = None) -> Axes:
    """Draw the learned bias of each offset against its distance, a line for each head.

    Parameters
    ----------
    layer : SparseIndexAttention
        With ``offset_bias``.
    ps : nested dict
        Its parameters.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    Raises
    ------
    TypeError
        If the layer has no ``offset_bias``.

    See Also
    --------
    primeattn.SparseIndexAttention : The layer that learns it.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> layer = pa.PrimeSelfAttention(8, heads=2, offset_bias=20)
    >>> ps, st = pa.setup(np.random.default_rng(0), layer)
    >>> ax = pa.plot.offset_bias(layer, ps)
    >>> ax.lines[0].get_xdata().tolist()
    [0, 1, 2, 3, 5, 7, 11, 13, 17, 19]
    """
    if not isinstance(layer, SparseIndexAttention) or layer.offset_bias is None:
        raise TypeError(f"layer: expected a SparseIndexAttention with offset_bias, got {layer!r}")
    layer.check_parameters(ps)
    ax = own_axes(ax, (7.2, 4.0))
    for head in range(layer.heads):
        distances = layer.pattern_of(head).offsets(layer.offset_bias + 1)
        style = {"color": COLORS[head % len(COLORS)], "marker": MARKERS[head % len(MARKERS)]}
        bias = ps["offset_bias"][head, : len(distances)]
        ax.plot(distances, bias, **style, markersize=4, linewidth=1, label=f"head {head}")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xlabel("distance between query and key (tokens)")
    ax.set_ylabel("learned bias of the score")
    ax.grid(alpha=0.3, linewidth=0.5)
    if layer.heads > 1:
        ax.legend(frameon=False, fontsize="small", ncols=min(layer.heads, 4))
    return ax
