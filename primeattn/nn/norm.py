"""Normalisation of the last axis. Each token has its own statistics: nothing crosses tokens or batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import freeze_real, freeze_size
from primeattn.compiled import loops
from primeattn.compiled.parallel import as_rows, row_blocks, share
from primeattn.nn._layer import Layer, check_float
from primeattn.nn._parameter import Parameter
from primeattn.nn.initializers import ones, zeros

if TYPE_CHECKING:
    from primeattn.typing import Array, Memory, Params, States, Tree

__all__ = ["LayerNorm", "RMSNorm"]


@dataclass(frozen=True, repr=False)
class _Norm(Layer):
    """Base of both layers; subtracts the mean if ps has a bias."""

    dim: int
    eps: float = 1e-5

    def __post_init__(self) -> None:
        freeze_size(self, "dim")
        freeze_real(self, "eps", 0)

    def check_input(self, x: Array, ps: Params) -> None:
        check_float(self, x, ps, self.dim)

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        y = memory.take(x.shape, x.dtype)
        x_rows, y_rows = as_rows(x), as_rows(y)
        scale, bias = (ps.get(name) for name in ("scale", "bias"))
        mean, rstd = (memory.take((len(x_rows),), x.dtype) for _ in range(2))
        eps = x.dtype.type(self.eps)

        def rows(_, b):
            loops.norm(x_rows[b], scale, bias, eps, y_rows[b], mean[b], rstd[b])

        share(row_blocks(*x_rows.shape), rows)
        return y, st, (x_rows, mean, rstd)

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        x_rows, mean, rstd = saved
        dx = memory.take(dy.shape, dy.dtype)
        dy_rows, dx_rows, blocks = as_rows(dy), as_rows(dx), row_blocks(*x_rows.shape)
        dps = {name: memory.take((self.dim,), dy.dtype) for name in ps}
        sums = {name: memory.take((len(blocks), self.dim), np.float64) for name in ps}  # of each block

        def rows(i, b):
            dscale, dbias = sums["scale"][i], sums["bias"][i] if "bias" in sums else None
            loops.norm_backward(
                dy_rows[b], x_rows[b], ps["scale"], mean[b], rstd[b], dx_rows[b], dscale, dbias
            )

        share(blocks, rows)
        for name in ps:
            dps[name][...] = sums[name].sum(axis=0)
        return dx, dps


@dataclass(frozen=True, repr=False)
class LayerNorm(_Norm):
    """``y = (x - mean(x)) / sqrt(var(x) + eps) * scale + bias``, mean and variance over the last axis.

    Parameters
    ----------
    dim : int
        Size of the last axis; x is (..., dim).
    eps : float
        Added to the variance.

    See Also
    --------
    RMSNorm : Without mean and bias.

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

    def parameters(self) -> Tree:
        return {"scale": Parameter((self.dim,), ones), "bias": Parameter((self.dim,), zeros)}


@dataclass(frozen=True, repr=False)
class RMSNorm(_Norm):
    """``y = x / sqrt(mean(x**2) + eps) * scale``, the mean over the last axis.

    Parameters
    ----------
    dim : int
        Size of the last axis; x is (..., dim).
    eps : float
        Added to the mean square.

    See Also
    --------
    LayerNorm : With mean and bias.

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

    def parameters(self) -> Tree:
        return {"scale": Parameter((self.dim,), ones)}
