"""Elementwise nonlinearities: relu, gelu, silu."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from primeattn.nn._layer import Layer
from primeattn.nn._memory import row_blocks

__all__ = ["Activation", "gelu", "relu", "silu"]

_C = math.sqrt(2 / math.pi)
_D = 0.044715


def _relu(x, y):
    """y = max(x, 0)"""
    np.maximum(x, 0, out=y)


def _relu_backward(dy, x, dx):
    """dx = dy where x > 0, else 0"""
    np.multiply(dy, x > 0, out=dx)


def _gelu(x, y):
    """y = x/2 * (1 + tanh u), u = C (x + D x^3)"""
    np.multiply(x, x, out=y)
    y *= _C * _D
    y += _C
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5


def _gelu_backward(dy, x, dx):
    """dx = dy/2 * (1 + tanh u + x (1 - tanh^2 u) du/dx), du/dx = C (1 + 3 D x^2)"""
    square = x * x
    t = square * (_C * _D)
    t += _C
    t *= x
    np.tanh(t, out=t)
    square *= 3 * _C * _D
    square += _C  # du/dx
    square *= x
    np.multiply(t, t, out=dx)
    np.subtract(1, dx, out=dx)
    dx *= square
    dx += t
    dx += 1
    dx *= 0.5
    dx *= dy


def _silu(x, y):
    """y = x s, s = 1/(1 + exp(-x)) = (1 + tanh(x/2))/2, which does not overflow"""
    np.multiply(x, 0.5, out=y)
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= 0.5


def _silu_backward(dy, x, dx):
    """dx = dy s (1 + x (1 - s))"""
    s = x * 0.5
    np.tanh(s, out=s)
    s += 1
    s *= 0.5
    np.subtract(1, s, out=dx)
    dx *= x
    dx += 1
    dx *= s
    dx *= dy


_FORMULAS = {
    "gelu": (_gelu, _gelu_backward),
    "relu": (_relu, _relu_backward),
    "silu": (_silu, _silu_backward),
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

    def __post_init__(self):
        if self.name not in _FORMULAS:
            raise ValueError(f"Activation: name must be one of {sorted(_FORMULAS)}, got {self.name!r}")

    def __repr__(self):
        return self.name

    def forward(self, x, ps, st, memory):
        formula, _ = _FORMULAS[self.name]
        y = memory.take(x.shape, x.dtype)
        x_flat, y_flat = x.reshape(-1), y.reshape(-1)
        for block in row_blocks(x.size, 1):
            formula(x_flat[block], y_flat[block])
        return y, st, x_flat

    def backward(self, dy, saved, ps, memory):
        _, formula = _FORMULAS[self.name]
        dx = memory.take(dy.shape, dy.dtype)
        dy_flat, dx_flat = dy.reshape(-1), dx.reshape(-1)
        for block in row_blocks(dy.size, 1):
            formula(dy_flat[block], saved[block], dx_flat[block])
        return dx, {}


relu, gelu, silu = Activation("relu"), Activation("gelu"), Activation("silu")
