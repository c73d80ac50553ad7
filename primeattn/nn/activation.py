"""Elementwise nonlinearities: relu, gelu, silu."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.compiled import loops
from primeattn.compiled.parallel import as_rows, row_blocks, share
from primeattn.nn._layer import Layer

if TYPE_CHECKING:
    from primeattn.typing import Array, Memory, Params, States

__all__ = ["Activation", "gelu", "relu", "silu"]


def _relu(x, y):
    """y = max(x, 0)"""
    np.maximum(x, 0, out=y)


def _relu_backward(dy, x, dx):
    """dx = dy where x > 0, else 0"""
    np.greater(x, 0, out=dx)
    dx *= dy


def _gate(a, b):
    """y = x s(z) with s(z) = 1 / (1 + exp(-z)), z = x (a + b x^2), and its gradient."""

    def forward(x, y):
        loops.gate(x, x.dtype.type(a), x.dtype.type(b), y)

    def backward(dy, x, dx):
        loops.gate_backward(dy, x, x.dtype.type(a), x.dtype.type(b), dx)

    return forward, backward


_C = 2 * math.sqrt(2 / math.pi)
_FORMULAS = {
    "gelu": _gate(_C, 0.044715 * _C),  # (1 + tanh u) / 2 = s(2u)
    "relu": (_relu, _relu_backward),
    "silu": _gate(1, 0),
}


@dataclass(frozen=True, repr=False)
class Activation(Layer):
    """``y = f(x)`` elementwise, with f one of

    - relu: ``max(x, 0)``, with gradient 0 at 0,
    - gelu: ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3)))``, the tanh approximation of Hendrycks and
      Gimpel, Gaussian error linear units (2016), within 5e-4 of the exact one,
    - silu: ``x / (1 + exp(-x))``, also called swish.

    ``relu``, ``gelu`` and ``silu`` are the three instances. x has any shape with at least one axis; ps = st =
    {}.

    Parameters
    ----------
    name : {"relu", "gelu", "silu"}
        Which function.

    See Also
    --------
    Gated : A product of two layers, one of them often an activation.
    Dense : What often stands before and after.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.Chain(pa.Dense(2, 8), pa.gelu, pa.Dense(8, 2))
    Chain(
        Dense(2, 8),
        gelu,
        Dense(8, 2),
    )
    >>> pa.relu(np.array([-1.0, 2.0]), {}, {})
    (array([0., 2.]), {})
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in _FORMULAS:
            raise ValueError(f"Activation: name must be one of {sorted(_FORMULAS)}, got {self.name!r}")

    def __repr__(self) -> str:
        return self.name

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        formula, _ = _FORMULAS[self.name]
        y = memory.take(x.shape, x.dtype)
        x_flat, y_flat = as_rows(x).reshape(-1), y.reshape(-1)
        share(row_blocks(x.size, 1), lambda _, b: formula(x_flat[b], y_flat[b]))
        return y, st, x_flat

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        _, formula = _FORMULAS[self.name]
        dx = memory.take(dy.shape, dy.dtype)
        dy_flat, dx_flat = as_rows(dy).reshape(-1), dx.reshape(-1)
        share(row_blocks(dy.size, 1), lambda _, b: formula(dy_flat[b], saved[b], dx_flat[b]))
        return dx, {}


relu, gelu, silu = Activation("relu"), Activation("gelu"), Activation("silu")
