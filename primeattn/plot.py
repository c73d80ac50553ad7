"""Pictures of patterns and training runs. Functions draw on Axes and return them; they never show or save.

Without ``ax`` they draw on a figure of their own, unknown to pyplot; save it by ``ax.figure.savefig(path)``.
Colours are those of Okabe and Ito, told apart by readers with any common colour vision.
"""

from __future__ import annotations

import numpy as np

__all__ = ["loss_curve", "mask"]

_RULES = ["white", "#0072B2", "#E69F00", "#009E73"]  # hidden, window, global, sequence
_TRAINING = "#0072B2"
_LEVELS = ["#D55E00", "#CC79A7", "#009E73", "#E69F00", "#56B4E9", "black"]


def mask(pattern, n, ax=None):
    """Draw which keys (columns) each query (row) attends, coloured by the rule that lets it.

    Parameters
    ----------
    pattern : Pattern
    n : int
        Number of tokens.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.mask(pa.Pattern("primes", window=3, global_tokens=2), 64)
    >>> ax.figure.savefig("mask.png")  # doctest: +SKIP
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    visible = pattern.to_dense(n)
    query, key = np.indices(visible.shape)
    rules = [query - key <= pattern.window, key < pattern.global_tokens]
    kind = np.where(visible, np.select(rules, [1, 2], default=3), 0)
    names = ["", f"window {pattern.window}", f"global {pattern.global_tokens}", f"{pattern.sequence}"]
    ax = _axes(ax, (5.4, 4.2))
    ax.imshow(kind, ListedColormap(_RULES), vmin=0, vmax=3, interpolation="nearest")
    present = [rule for rule in (1, 2, 3) if np.any(kind == rule)]
    handles = [Patch(color=_RULES[rule], label=names[rule]) for rule in present]
    ax.legend(handles=handles, loc="upper right", frameon=False)
    pairs, causal = visible.sum(), n * (n + 1) // 2
    ax.set(title=f"{pairs} of {causal} causal pairs ({pairs / causal:.0%})", xlabel="key", ylabel="query")
    return ax


def loss_curve(bits, *, levels=None, ax=None):
    """Draw training loss against steps, with horizontal lines for what it is to be compared with.

    Parameters
    ----------
    bits : array_like, shape (steps,)
        Loss of each step, in bits per byte. A running mean over a fiftieth of the steps is drawn over it.
    levels : dict of str to float, optional
        Label -> height of a line.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import primeattn as pa
    >>> ax = pa.plot.loss_curve([8.0, 5.0, 4.0, 3.5], levels={"gzip": 2.1})
    """
    bits, levels = np.asarray(bits, float), levels or {}
    ax = _axes(ax, (6.4, 4.2))
    ax.plot(np.arange(1, bits.size + 1), bits, color=_TRAINING, linewidth=0.6, alpha=0.35)
    width = max(1, bits.size // 50)
    mean = np.convolve(bits, np.full(width, 1 / width), mode="valid") if bits.size else bits
    ax.plot(np.arange(width, width + mean.size), mean, color=_TRAINING, linewidth=1.8, label="training")
    highest_first = sorted(levels.items(), key=lambda level: -level[1])
    for i, (label, height) in enumerate(highest_first):
        style, color = ("--", ":", "-.", "-")[i % 4], _LEVELS[i % len(_LEVELS)]
        ax.axhline(height, linestyle=style, color=color, linewidth=1.3, label=f"{label} {height:.3f}")
    if levels:  # the first steps fall from 8 bits; what is to be compared lies near the levels
        ax.set_ylim(top=min(ax.get_ylim()[1], 2 * max(levels.values())))
    ax.set(xlabel="step", ylabel="bits per byte")
    ax.legend(frameon=False)
    return ax


def _axes(ax, size):
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").add_subplot()
