"""Affine map of the last axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

from primeattn._config import check_callable, freeze_flag, freeze_size
from primeattn.compiled import loops
from primeattn.compiled.parallel import as_rows, product, row_blocks, share, sum_products, sum_rows
from primeattn.nn._layer import Layer, check_float
from primeattn.nn._parameter import Parameter
from primeattn.nn.initializers import glorot_uniform, zeros

if TYPE_CHECKING:
    from primeattn.typing import Array, Memory, Params, States, Tree

__all__ = ["Dense"]


@dataclass(frozen=True, repr=False)
class Dense(Layer):
    """``y = x @ weight + bias``

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of x and y; x is (..., in_features).
    bias : bool
        Whether there is a bias; it begins at 0.
    init : callable
        Initialiser of the weight, ``f(rng, shape, dtype)``.

    See Also
    --------
    Embedding : For tokens in place of features.
    Gated : A product of two.

    Notes
    -----
    ps = {"weight": (in_features, out_features), "bias": (out_features,)}; st = {}.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> layer = pa.Dense(2, 1)
    >>> ps = {"weight": np.array([[1.0], [10.0]]), "bias": np.array([0.5])}
    >>> y, st, pullback = layer.pullback(np.array([[1.0, 2.0]]), ps, {})
    >>> y
    array([[21.5]])
    >>> dx, dps = pullback(np.ones((1, 1)))
    >>> dx, dps["weight"].ravel(), dps["bias"]
    (array([[ 1., 10.]]), array([1., 2.]), array([1.]))
    """

    in_features: int
    out_features: int
    _: KW_ONLY
    bias: bool = True
    init: Callable = glorot_uniform

    def __post_init__(self) -> None:
        freeze_size(self, "in_features")
        freeze_size(self, "out_features")
        freeze_flag(self, "bias")
        check_callable(self, "init")

    def parameters(self) -> Tree:
        weight = Parameter((self.in_features, self.out_features), self.init)
        bias = {"bias": Parameter((self.out_features,), zeros)} if self.bias else {}
        return {"weight": weight, **bias}

    def check_input(self, x: Array, ps: Params) -> None:
        check_float(self, x, ps, self.in_features)

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        y = memory.take((*x.shape[:-1], self.out_features), x.dtype)
        x_rows, y_rows = as_rows(x), as_rows(y)
        product(x_rows, ps["weight"], y_rows)
        if self.bias:
            share(row_blocks(*y_rows.shape), lambda _, b: loops.add_bias(ps["bias"], y_rows[b]))
        return y, st, (x_rows, x.shape)

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        x_rows, shape = saved
        dy_rows = as_rows(dy)
        dx = memory.take(shape, dy.dtype)
        product(dy_rows, ps["weight"].T, as_rows(dx))  # y = x @ weight
        dps = {"weight": memory.take((self.in_features, self.out_features), dy.dtype)}
        sum_products(x_rows, dy_rows, dps["weight"], memory)  # y = x @ weight
        if self.bias:
            dps["bias"] = memory.take((self.out_features,), dy.dtype)
            sum_rows(dy_rows, dps["bias"], memory)  # y += bias
        return dx, dps
