"""Biases of attention scores by distance: learned ones, and the slopes of ALiBi."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["alibi_slopes", "learned_gradients", "narrow", "term_gradients", "terms", "widen"]


def alibi_slopes(heads):
    """Slopes of ALiBi: ``2**(-8 h / heads)`` for h = 1 .. heads, if heads is a power of two.

    Else those of the largest power of two below, and then every second one of the power above. Press, Smith
    and Lewis, Train short, test long (2022).

    Examples
    --------
    >>> from primeattn.nn.biases import alibi_slopes
    >>> alibi_slopes(4), alibi_slopes(3)
    (array([0.25      , 0.0625    , 0.015625  , 0.00390625]), array([0.0625    , 0.00390625, 0.25      ]))
    """
    power = 2 ** int(math.log2(heads))
    slopes = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes, between[: heads - power]])


def widen(bias, counts, size, out):
    """out[h, u] = bias[h, min(u, counts[h] - 1)] for u < size: all later offsets share the last number.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.nn.biases import widen
    >>> widen(np.array([[1.0, 2.0, 0.0]]), [2], 4, np.empty((1, 4)))
    array([[1., 2., 2., 2.]])
    """
    for row, target, count in zip(bias, out, counts, strict=True):
        known = min(count, size)
        target[:known], target[known:] = row[:known], row[count - 1]
    return out


def narrow(dwide, counts, out):
    """The gradient of ``bias`` in ``widen``, in float64 until the end.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.nn.biases import narrow
    >>> narrow(np.ones((1, 4)), [2], np.empty((1, 3)))
    array([[1., 3., 0.]])
    """
    for row, target, count in zip(dwide, out, counts, strict=True):
        known = min(count, row.size)
        target[:known], target[known:] = row[:known], 0
        target[count - 1] += row[count:].sum(dtype=np.float64)
    return out


def terms(layer, ps, length, dtype, memory, growing=False):
    """Options of the kernel that add to the scores of a layer, where distances are below ``length``.

    With ``growing``, few lengths need arrays of a new size: there is room for up to twice the offsets.
    """
    options = {} if layer.softcap is None else {"softcap": layer.softcap}
    if layer.alibi:
        options["slopes"] = alibi_slopes(layer.heads).astype(dtype)
    if layer.offset_bias is not None:
        size = max(layer.pattern_of(head).offsets(length).size for head in range(layer.heads))
        if growing:
            size = 1 << (size - 1).bit_length()
        wide = memory.take((layer.heads, size), dtype)
        options["offset_bias"] = widen(ps["offset_bias"], layer.offset_counts, size, wide)
        if "global_bias" in ps:
            options["global_bias"] = ps["global_bias"]
    return options


def term_gradients(options, memory):
    """Arrays for the gradients of learned terms, as options of the backward kernel."""
    learned = [name for name in ("offset_bias", "global_bias") if name in options]
    return {f"d{name}": memory.take(options[name].shape, options[name].dtype) for name in learned}


def learned_gradients(layer, gradients, ps, memory):
    """Gradients of the learned parameters of a layer from those of the terms that the kernel took."""
    if not gradients:
        return {}
    narrowed = memory.take(ps["offset_bias"].shape, ps["offset_bias"].dtype)
    dps = {"offset_bias": narrow(gradients["doffset_bias"], layer.offset_counts, narrowed)}
    if "dglobal_bias" in gradients:
        dps["global_bias"] = gradients["dglobal_bias"]
    return dps
