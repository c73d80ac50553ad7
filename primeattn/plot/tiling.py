"""What hardware that computes square tiles can skip, before and after regrouping tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn import analysis
from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int
from primeattn.plot.labels import name, percent
from primeattn.plot.style import HIDDEN, RULE_COLORS, grid_of_axes

if TYPE_CHECKING:
    from primeattn.patterns import Pattern

__all__ = ["wheel"]

_MAX_TOKENS = 2048
_LIVE = "#BFE3D9"


def wheel(pattern: Pattern, n: int, wheel: int, block: int = 16, axes: Any = None) -> np.ndarray:
    """Draw the mask in natural order, and with tokens grouped by residue modulo ``wheel``, cut into tiles.

    Tiles that hold a pair are shaded; hardware that works on tiles skips the others. Only offsets beyond the
    window are drawn: window and global tokens are left to a pass in natural order. Where no offset is
    ≡ a - b (mod wheel), all tiles of queries in class a and keys in class b are empty: modulo 30, the primes
    other than 2, 3 and 5 leave 8 of 30 differences.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Number of tokens, at most 2048.
    wheel : int
        Tokens with the same residue modulo ``wheel`` become neighbours.
    block : int
        Side of a tile, which never crosses from one class to the next.
    axes : array of two matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    array of two matplotlib.axes.Axes
        Natural order, regrouped.

    Raises
    ------
    ValueError
        If ``n`` is above 2048.

    See Also
    --------
    primeattn.analysis.wheel_fraction : The area of the shaded tiles as a share of dense, shown in titles.

    Examples
    --------
    >>> import primeattn as pa
    >>> axes = pa.plot.wheel(pa.Pattern("primes", window=5), 384, wheel=6)
    >>> [ax.get_title() for ax in axes]
    ['natural order: computes 100%', 'regrouped modulo 6: computes 40%']
    """
    as_pattern(pattern)
    n, wheel = as_int("n", n, minimum=1), as_int("wheel", wheel, minimum=1)
    block = as_int("block", block, minimum=1)
    if n > _MAX_TOKENS:
        raise ValueError(f"n: expected at most {_MAX_TOKENS} tokens, got {n}")
    axes = grid_of_axes(axes, 2, (5.2, 5.6))
    for ax, modulus in zip(axes, (1, wheel), strict=True):
        share = percent(analysis.wheel_fraction(pattern, n, modulus, block))
        order = "natural order" if modulus == 1 else f"regrouped modulo {modulus}"
        _draw(ax, pattern, n, modulus, block)
        ax.set_title(f"{order}: computes {share}")
    _legend(axes[0], name(pattern))
    return axes


def _draw(ax, pattern, n, modulus, block):
    from matplotlib.colors import ListedColormap

    position = np.argsort(np.arange(n) % modulus, kind="stable")
    distance = position[:, None] - position
    attended = np.isin(distance, pattern.offsets(n)[pattern.window + 1 :])
    starts = np.searchsorted(position % modulus, np.arange(min(modulus, n)))  # of the classes
    ends = np.append(starts[1:], n)
    edges = np.concatenate([np.arange(*ends_of, block) for ends_of in zip(starts, ends, strict=True)])
    kind = np.select([attended, _tiles_with(attended, edges), _tiles_with(distance >= 0, edges)], [3, 2, 1])
    colors = ListedColormap(["white", HIDDEN, _LIVE, RULE_COLORS[2]])
    ax.imshow(kind, colors, vmin=0, vmax=3, interpolation="nearest")
    ax.spines[:].set_visible(False)
    if modulus == 1:
        ax.set(xlabel="key", ylabel="query")
        return
    shown = slice(None, None, -(-len(starts) // 15))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(((starts + ends - 1) / 2)[shown], np.arange(len(starts))[shown])
    ax.set(xlabel=f"key modulo {modulus}", ylabel=f"query modulo {modulus}")
    ax.tick_params(length=0)


def _tiles_with(pairs, edges):
    """Return the mask of all tiles, cut at ``edges``, that hold one of the ``pairs``."""
    holds = np.logical_or.reduceat(np.logical_or.reduceat(pairs, edges, axis=0), edges, axis=1)
    sizes = np.diff(np.append(edges, len(pairs)))
    return np.repeat(np.repeat(holds, sizes, axis=0), sizes, axis=1)


def _legend(ax, sequence):
    from matplotlib.patches import Patch

    handles = [
        Patch(color=RULE_COLORS[2], label=f"{sequence} beyond the window"),
        Patch(color=_LIVE, label="rest of a live tile"),
        Patch(color=HIDDEN, label="empty tile, skipped"),
    ]
    ax.legend(handles=handles, loc="upper right", frameon=False)
