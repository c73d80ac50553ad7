"""Who attends whom: token by token, or as a density if there are too many tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.analysis.rules import RULES, first_rule
from primeattn.checks import as_int
from primeattn.plot.density import block_shares
from primeattn.plot.labels import labelled, name, percent
from primeattn.plot.style import HIDDEN, RULE_COLORS, grid_of_axes, outer_labels, own_axes, query_by_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from primeattn.patterns import Pattern
    from primeattn.typing import LabelledPatterns

__all__ = ["mask", "masks"]

_MAX_COUNTABLE = 64  # tokens; up to here lines between the cells help to count
_MAX_CELLS = 512  # beyond, a token is less than a pixel
_MAX_TOKENS = 2**24


def mask(pattern: Pattern, n: int, ax: Axes | None = None) -> Axes:
    """Draw which keys (columns) each query (row) attends, coloured by the rule that admits it.

    Causal pairs that the pattern leaves out are light grey. Beyond 512 tokens the colour of a pixel is the
    exact share of its causal pairs that are attended, and no n × n array is made.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Number of tokens, at most 2**24.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        What was drawn on.

    See Also
    --------
    masks : Several patterns.
    primeattn.Pattern.to_dense : The mask as an array.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.plot.mask(pa.Pattern("primes", window=3, global_tokens=2), 64).get_title()
    '865 of 2,080 causal pairs (41.6%)'
    >>> pa.plot.mask(pa.Pattern("primes", window=3), 100_000).get_title()
    '505,003,462 of 5,000,050,000 causal pairs (10.1%)'
    """
    n = _checked(n)
    as_pattern(pattern)
    ax = own_axes(ax, (5.4, 4.4))
    image = _draw(pattern, n, ax)
    if n <= _MAX_CELLS:
        texts = [f"window {pattern.window}", f"global tokens {pattern.global_tokens}", name(pattern)]
        _legend(ax, [image], texts)
    else:
        _colorbar(image, ax)
    shown = f"{pattern.num_pairs(n):,} of {n * (n + 1) // 2:,} causal pairs ({_share(pattern, n)})"
    ax.set_title(shown, fontsize="medium")
    return ax


def masks(patterns: LabelledPatterns, n: int, axes: Any = None) -> np.ndarray:
    """Draw the masks of several patterns side by side, with one legend or colour scale.

    Parameters
    ----------
    patterns : Pattern, sequence of Pattern, or dict of str to Pattern
        Each gets a panel; a dict names them.
    n : int
        Number of tokens, as for ``mask``.
    axes : array of matplotlib.axes.Axes, optional
        One for each pattern.

    Returns
    -------
    array of matplotlib.axes.Axes, shape (number of patterns,)
        What was drawn on.

    See Also
    --------
    mask : One pattern.

    Examples
    --------
    >>> import primeattn as pa
    >>> patterns = [pa.Pattern(s, window=3, global_tokens=2) for s in ("primes", "squares")]
    >>> [ax.get_title() for ax in pa.plot.masks(patterns, 64)]
    ['Primes: 41.6% of pairs', 'Squares: 28.9% of pairs']
    """
    n, items = _checked(n), labelled(patterns)
    made_here = axes is None
    axes = grid_of_axes(axes, len(items), (3.5, 3.9))
    images = []
    for (label, pattern), ax in zip(items, axes, strict=True):
        images.append(_draw(pattern, n, ax))
        ax.set_title(f"{label}: {_share(pattern, n)} of pairs", fontsize="medium")
    if made_here:
        outer_labels(axes)
    if n <= _MAX_CELLS:
        _legend(axes[0], images, RULES)
    else:
        _colorbar(images[0], axes.tolist())
    return axes


def _checked(n):
    n = as_int("n", n, minimum=1)
    if n > _MAX_TOKENS:
        raise ValueError(f"n: expected at most {_MAX_TOKENS} tokens, got {n}")
    return n


def _share(pattern, n):
    return percent(pattern.density(n))


def _draw(pattern, n, ax):
    image = _cells(pattern, n, ax) if n <= _MAX_CELLS else _density(pattern, n, ax)
    query_by_key(ax)
    return image


def _cells(pattern, n, ax):
    from matplotlib.colors import ListedColormap

    query, key = np.indices((n, n))
    shown = np.where(pattern.to_dense(n), 2 + first_rule(pattern, query, key), 1)
    kind = np.where(query < key, 0, shown)
    colors = ListedColormap(["white", HIDDEN, *RULE_COLORS])
    if n <= _MAX_COUNTABLE:
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(np.arange(n + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=15 / (n + 10))
        ax.tick_params(which="minor", length=0)
    return ax.imshow(kind, colors, vmin=0, vmax=4, interpolation="nearest")


def _density(pattern, n, ax):
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    block = -(-n // _MAX_CELLS)
    edges = np.append(np.arange(0, n, block), n)
    end = block * (len(edges) - 1) - 0.5  # the last block may reach beyond n
    colors = LinearSegmentedColormap.from_list("share", [HIDDEN, RULE_COLORS[2], "#00261C"])
    image = ax.imshow(
        np.ma.masked_invalid(block_shares(pattern, edges)),
        colors,
        PowerNorm(0.5, 0, 1),  # shows few pairs better than a linear scale
        interpolation="nearest",
        extent=(-0.5, end, end, -0.5),
    )
    ax.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    return image


def _legend(ax, images, texts):
    """Add a legend of the rules that the images show, in the blank upper right of the mask."""
    from matplotlib.patches import Patch

    shown = set(np.concatenate([np.unique(image.get_array()) for image in images]).tolist())
    handles = [
        Patch(color=color, label=text)
        for kind, (color, text) in enumerate(zip(RULE_COLORS, texts, strict=True), 2)
        if kind in shown
    ]
    ax.legend(handles=handles, loc="upper right", frameon=False)


def _colorbar(image, axes):
    bar = image.figure.colorbar(image, ax=axes, label="share of causal pairs attended", format="{x:g}")
    bar.set_ticks([0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1])
    bar.outline.set_visible(False)
