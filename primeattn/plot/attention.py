"""Where attention goes within its pattern."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.analysis.rules import as_map, check_pairs
from primeattn.plot.labels import name
from primeattn.plot.style import COLORS, grid_of_axes, outer_labels, own_axes, query_by_key

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from matplotlib.axes import Axes

    from primeattn.patterns import Pattern
    from primeattn.typing import Patterns

__all__ = ["attention_map", "heads"]

_MAX_TOKENS = 2048
_FLOOR = 1e-3


def attention_map(probabilities: Any, pattern: Pattern, ax: Axes | None = None) -> Axes:
    """Draw the attention of each query (row) over the keys (columns) of its pattern, on a log scale.

    Probabilities below 0.001 are drawn as 0.001; pairs outside the pattern are white.

    Parameters
    ----------
    probabilities : sparse matrix, shape (n, n)
        p[i, j], such as from ``analysis.attention_map``; n at most 2048.
    pattern : Pattern
        Must hold every pair that ``probabilities`` stores, else ValueError.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    primeattn.analysis.attention_map : The numbers.
    heads : Several heads.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("primes", window=3)
    >>> uniform = pattern.to_csr(64).astype(float)
    >>> uniform = uniform.multiply(1 / uniform.sum(axis=1)).tocsr()
    >>> ax = pa.plot.attention_map(uniform, pattern)
    """
    ax = own_axes(ax, (5.4, 4.4))
    _colorbar(_draw(_image(probabilities, pattern), ax), ax)
    return ax


def heads(maps: Several[Any], patterns: Patterns, axes: Any = None) -> np.ndarray:
    """Draw the attention of several heads side by side, on one scale.

    Parameters
    ----------
    maps : sequence of sparse matrices, each of shape (n, n)
        As for ``attention_map``.
    patterns : Pattern, or sequence of Pattern
        One for all heads, or one per head.
    axes : array of matplotlib.axes.Axes, optional
        One for each head.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (heads,)
        What was drawn on.

    Raises
    ------
    ValueError
        If there is no map, or another number of patterns.

    See Also
    --------
    attention_map : One head.
    primeattn.analysis.attention_summary : What each head does, as a table.

    Examples
    --------
    >>> import primeattn as pa
    >>> patterns = [pa.Pattern("primes", window=3), pa.Pattern("squares", window=3)]
    >>> maps = [pattern.to_csr(64) / 64 for pattern in patterns]
    >>> [ax.get_title() for ax in pa.plot.heads(maps, patterns)]
    ['head 0: Primes', 'head 1: Squares']
    """
    maps = list(maps)
    if not maps:
        raise ValueError("maps: expected at least one, got none")
    several = np.iterable(patterns)
    patterns = list(patterns) if several else [patterns] * len(maps)
    if len(patterns) != len(maps):
        raise ValueError(f"patterns: expected one or {len(maps)}, one per head, got {len(patterns)}")
    made_here = axes is None
    axes = grid_of_axes(axes, len(maps), (3.5, 3.9))
    images = [_image(*head) for head in zip(maps, patterns, strict=True)]
    for head, (ax, image) in enumerate(zip(axes, images, strict=True)):
        drawn = _draw(image, ax)
        ax.set_title(f"head {head}: {name(patterns[head])}" if several else f"head {head}", fontsize="medium")
    if made_here:
        outer_labels(axes)
    _colorbar(drawn, axes.tolist())
    return axes


def _image(probabilities, pattern):
    """Return p as a dense array, at least the floor within the pattern, and NaN outside."""
    as_pattern(pattern)
    p, n = as_map(probabilities).tocoo(), probabilities.shape[0]
    if n > _MAX_TOKENS:
        raise ValueError(f"probabilities: expected at most {_MAX_TOKENS} tokens to draw, got {n}")
    check_pairs(pattern, p.row, p.col)
    image = np.where(pattern.to_dense(n), _FLOOR, np.nan)
    image[p.row, p.col] = np.maximum(p.data, _FLOOR)
    return image


def _draw(image, ax):
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    colors = LinearSegmentedColormap.from_list("attention", ["#D3E3EF", COLORS[0], "#00131E"])
    drawn = ax.imshow(image, colors, LogNorm(_FLOOR, 1), interpolation="nearest")
    query_by_key(ax)
    return drawn


def _colorbar(drawn, axes):
    bar = drawn.figure.colorbar(drawn, ax=axes, label="attention probability", extend="min")
    bar.outline.set_visible(False)
