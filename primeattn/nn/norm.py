"""Normalisation of the last axis. Statistics are those of one token: they never cross tokens or batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primeattn.nn._config import freeze_real, freeze_size
from primeattn.nn._layer import Layer, Parameter, check_float
from primeattn.nn._memory import as_rows, row_blocks
from primeattn.nn.initializers import ones, zeros

__all__ = ["LayerNorm", "RMSNorm"]


@dataclass(frozen=True, repr=False)
class LayerNorm(Layer):
    """``y = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias``, mean and variance over the last axis alone.

    Parameters
    ----------
    dim : int
        Size of the last axis; x is (..., dim).
    eps : float
        Added to the variance.

    Notes
    -----
    ps = {"scale": (dim,), "bias": (dim,)}, ones and zeros at first; st = {}. Since each token is normalised
    by itself, a causal model stays causal. Ba, Kiros and Hinton, Layer normalization (2016).

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps, st = pa.setup(np.random.default_rng(0), pa.LayerNorm(2))
    >>> y, st = pa.LayerNorm(2)(np.array([[1, 3], [10, 30]], np.float32), ps, st)
    >>> y.round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    dim: int
    eps: float = 1e-5

    def __post_init__(self):
        freeze_size(self, "dim")
        freeze_real(self, "eps", 0)

    def parameters(self):
        return {"scale": Parameter((self.dim,), ones), "bias": Parameter((self.dim,), zeros)}

    def check_input(self, x, ps):
        check_float(self, x, ps, self.dim)

    def forward(self, x, ps, st, memory):
        y = memory.take(x.shape, x.dtype)
        x_rows, y_rows = as_rows(x), as_rows(y)
        mean = memory.take((len(x_rows), 1), x.dtype)
        rstd = memory.take((len(x_rows), 1), x.dtype)
        for rows in row_blocks(*x_rows.shape):
            c = y_rows[rows]  # centred x, then y
            np.mean(x_rows[rows], axis=1, keepdims=True, out=mean[rows])
            np.subtract(x_rows[rows], mean[rows], out=c)
            _rsqrt_mean_square(c, self.eps, out=rstd[rows])
            c *= rstd[rows]
            c *= ps["scale"]
            c += ps["bias"]
        return y, st, (x_rows, mean, rstd)

    def backward(self, dy, saved, ps, memory):
        x_rows, mean, rstd = saved
        dy_rows, dx = as_rows(dy), memory.take(dy.shape, dy.dtype)
        dx_rows = as_rows(dx)
        dps = {"scale": memory.take((self.dim,), dy.dtype), "bias": memory.take((self.dim,), dy.dtype)}
        dps["scale"].fill(0)
        np.sum(dy_rows, axis=0, out=dps["bias"])  # y = n * scale + bias
        for rows in row_blocks(*x_rows.shape):
            n = x_rows[rows] - mean[rows]
            n *= rstd[rows]  # normalised x
            g = dy_rows[rows] * n
            dps["scale"] += g.sum(axis=0)  # y = n * scale + bias
            np.multiply(dy_rows[rows], ps["scale"], out=g)  # gradient of n
            # n = (x - mean) * rstd: of g the parts along the ones vector and along n do not reach x
            n *= _mean_product(g, n)
            np.subtract(g, g.mean(axis=1, keepdims=True), out=g)
            g -= n
            np.multiply(g, rstd[rows], out=dx_rows[rows])
        return dx, dps


@dataclass(frozen=True, repr=False)
class RMSNorm(Layer):
    """``y = x / sqrt(mean(x**2) + eps) * scale``, the mean over the last axis alone.

    Parameters
    ----------
    dim : int
        Size of the last axis; x is (..., dim).
    eps : float
        Added to the mean square.

    Notes
    -----
    ps = {"scale": (dim,)}, ones at first; st = {}. Zhang and Sennrich, Root mean square layer normalization
    (2019).

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps, st = pa.setup(np.random.default_rng(0), pa.RMSNorm(2))
    >>> y, st = pa.RMSNorm(2)(np.array([[3, 4]], np.float32), ps, st)
    >>> round(float((y**2).mean()), 3)
    1.0
    """

    dim: int
    eps: float = 1e-5

    def __post_init__(self):
        freeze_size(self, "dim")
        freeze_real(self, "eps", 0)

    def parameters(self):
        return {"scale": Parameter((self.dim,), ones)}

    def check_input(self, x, ps):
        check_float(self, x, ps, self.dim)

    def forward(self, x, ps, st, memory):
        y = memory.take(x.shape, x.dtype)
        x_rows, y_rows = as_rows(x), as_rows(y)
        rrms = memory.take((len(x_rows), 1), x.dtype)
        for rows in row_blocks(*x_rows.shape):
            _rsqrt_mean_square(x_rows[rows], self.eps, out=rrms[rows])
            np.multiply(x_rows[rows], rrms[rows], out=y_rows[rows])
            y_rows[rows] *= ps["scale"]
        return y, st, (x_rows, rrms)

    def backward(self, dy, saved, ps, memory):
        x_rows, rrms = saved
        dy_rows, dx = as_rows(dy), memory.take(dy.shape, dy.dtype)
        dx_rows = as_rows(dx)
        dps = {"scale": memory.take((self.dim,), dy.dtype)}
        dps["scale"].fill(0)
        for rows in row_blocks(*x_rows.shape):
            n = x_rows[rows] * rrms[rows]  # normalised x
            g = dy_rows[rows] * n
            dps["scale"] += g.sum(axis=0)  # y = n * scale
            np.multiply(dy_rows[rows], ps["scale"], out=g)  # gradient of n
            n *= _mean_product(g, n)  # n = x * rrms: of g the part along n does not reach x
            g -= n
            np.multiply(g, rrms[rows], out=dx_rows[rows])
        return dx, dps


def _mean_product(a, b):
    """Mean of a*b over the last axis, (rows, 1)."""
    return (np.einsum("ij,ij->i", a, b) / a.shape[1])[:, None]


def _rsqrt_mean_square(a, eps, out):
    """1 / sqrt(mean(a**2) + eps) over the last axis into ``out`` (rows, 1)."""
    out[...] = _mean_product(a, a)
    out += eps
    np.sqrt(out, out=out)
    np.divide(1, out, out=out)
