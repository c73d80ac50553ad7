"""Losses: each returns the loss and its gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from primeattn.checks import is_array, is_real
from primeattn.compiled import loops
from primeattn.compiled.parallel import as_rows, row_blocks, share
from primeattn.nn._memory import Memory

if TYPE_CHECKING:
    from primeattn.typing import Array
    from primeattn.workspace import Workspace

__all__ = ["cross_entropy", "mse"]


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    ignore: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    workspace: Workspace | None = None,
) -> tuple[float, Array]:
    """Cross entropy of rows of logits with their labels, in nats, and its gradient.

    ``loss = mean over counted r of (L_r - (1 - s) z_{r, label_r} - s mean_c z_rc + z_loss L_r**2)``,
    with ``L_r = log sum_c exp z_rc`` and ``s = label_smoothing``.

    Parameters
    ----------
    logits : float array (..., classes)
        z.
    labels : int array (...)
        Classes 0 .. classes - 1, or ``ignore``.
    ignore : int
        Rows with this label are not counted; their gradient is 0. If all are ignored, the loss is 0.
    label_smoothing : float
        Part of the target, in [0, 1), that all classes share evenly. Szegedy et al., Rethinking the inception
        architecture for computer vision (2016).
    z_loss : float
        At least 0. Draws L_r to 0, so that logits do not drift; 1e-4 in Chowdhery et al., PaLM (2022).
    workspace : Workspace, optional
        Memory for dlogits; a new array by default.

    Returns
    -------
    loss : float
        Summed in float64.
    dlogits : array
        ``((1 + 2 z_loss L_r) softmax(z)_rc - (1 - s) [c = label_r] - s / classes) / number of counted rows``,
        of the shape and dtype of the logits.

    Raises
    ------
    TypeError, ValueError
        If logits are not floats, or labels are not integers, have another shape or are out of range; for an
        option out of its range.

    See Also
    --------
    mse : For numbers in place of classes.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> loss, dlogits = pa.losses.cross_entropy(np.zeros((2, 4)), np.array([1, -100]))
    >>> round(loss, 4), dlogits
    (1.3863, array([[ 0.25, -0.75,  0.25,  0.25],
           [ 0.  ,  0.  ,  0.  ,  0.  ]]))
    """
    _check_float("logits", logits)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected shape (..., classes), got {logits.shape}")
    if not is_array(labels) or labels.dtype.kind not in "iu":
        got = labels.dtype if is_array(labels) else type(labels).__name__
        raise TypeError(f"labels: expected a numpy array of integers, got {got}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels: expected shape {logits.shape[:-1]}, got {labels.shape}")
    label_smoothing = _as_float("label_smoothing", label_smoothing, 1)
    z_loss = _as_float("z_loss", z_loss, math.inf)
    classes, memory = logits.shape[-1], Memory(workspace)
    with memory.hold():
        counted = memory.take(labels.shape, bool)
        np.not_equal(labels, ignore, out=counted)
        if labels.min(where=counted, initial=0) < 0 or labels.max(where=counted, initial=0) >= classes:
            given = labels[counted]
            raise ValueError(
                f"labels: expected [0, {classes}) or {ignore}, got {given.min()} to {given.max()}"
            )
        columns = memory.take(labels.shape, np.int64)
        columns.fill(-1)  # not counted
        np.copyto(columns, labels, where=counted, casting="unsafe")
        count = max(1, int(np.count_nonzero(counted)))

        dlogits = memory.take(logits.shape, logits.dtype)
        z_rows, d_rows, columns = as_rows(logits), as_rows(dlogits), columns.reshape(-1)
        blocks = row_blocks(*z_rows.shape)
        losses = memory.take((len(blocks),), np.float64)

        def rows(i, b):
            losses[i] = loops.cross_entropy(z_rows[b], columns[b], count, label_smoothing, z_loss, d_rows[b])

        share(blocks, rows)
        return float(losses.sum()) / count, dlogits


def mse(y: Array, target: Array, *, workspace: Workspace | None = None) -> tuple[float, Array]:
    """``loss = mean((y - target)**2)`` over all entries, and ``dy = 2 (y - target) / y.size``.

    Parameters
    ----------
    y, target : float arrays
        Of one shape and dtype.
    workspace : Workspace, optional
        Memory for dy; a new array by default.

    Returns
    -------
    loss : float
        Summed in float64; 0 for empty arrays.
    dy : array
        The gradient with respect to y, of its shape and dtype.

    Raises
    ------
    TypeError, ValueError
        If the arrays are not floats, or differ in shape or dtype.

    See Also
    --------
    cross_entropy : For classes in place of numbers.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.losses.mse(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    (2.0, array([ 0., -2.]))
    """
    _check_float("y", y)
    _check_float("target", target)
    if target.shape != y.shape:
        raise ValueError(f"target: expected shape {y.shape}, got {target.shape}")
    if target.dtype != y.dtype:
        raise TypeError(f"target: expected dtype {y.dtype}, got {target.dtype}")
    memory, count = Memory(workspace), max(1, y.size)
    with memory.hold():
        dy = memory.take(y.shape, y.dtype)
    np.subtract(y, target, out=dy)
    loss = loops.sum_squares(dy.reshape(-1)) / count
    dy *= 2 / count
    return loss, dy


def _check_float(name, array):
    if not is_array(array) or array.dtype not in (np.float32, np.float64):
        got = array.dtype if is_array(array) else type(array).__name__
        raise TypeError(f"{name}: expected a float32 or float64 array, got {got}")


def _as_float(name, value, high):
    """Return ``value`` as a float; raise unless it is a number in [0, high)."""
    if not is_real(value):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    if not 0 <= value < high:
        raise ValueError(f"{name}: expected a number in [0, {high}), got {value}")
    return float(value)
