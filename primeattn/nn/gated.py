"""The product of two layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.nn._layer import Layer

if TYPE_CHECKING:
    from primeattn.typing import Array, Memory, Params, States, Tree

__all__ = ["Gated"]


@dataclass(frozen=True, repr=False)
class Gated(Layer):
    """``y = gate(x) * value(x)``, as in the feed-forward part of Llama.

    Shazeer, GLU variants improve transformer (2020).

    Parameters
    ----------
    gate, value : Layer
        Their outputs have one shape.

    See Also
    --------
    Activation : What the gate often ends in.
    Chain : One layer after another.

    Notes
    -----
    ps and st are {"gate": ..., "value": ...}.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> swiglu = pa.Chain(pa.Gated(pa.Chain(pa.Dense(8, 16), pa.silu), pa.Dense(8, 16)), pa.Dense(16, 8))
    >>> ps, st = pa.setup(np.random.default_rng(0), swiglu)
    >>> swiglu(np.ones((3, 8), np.float32), ps, st)[0].shape
    (3, 8)
    """

    gate: Layer
    value: Layer

    def __post_init__(self) -> None:
        for name, layer in self._children():
            if not isinstance(layer, Layer):
                raise TypeError(f"Gated: {name} must be a Layer, got {layer!r}")

    def _children(self):
        return (("gate", self.gate), ("value", self.value))

    def parameters(self) -> Tree:
        return {name: layer.parameters() for name, layer in self._children()}

    def states(self, rng: np.random.Generator) -> States:
        return {name: layer.states(rng) for name, layer in self._children()}

    def with_cache(self, st: States, *arguments: Any) -> States:
        return {name: layer.with_cache(st[name], *arguments) for name, layer in self._children()}

    def check_input(self, x: Array, ps: Params) -> None:
        """Nothing to check: the children do."""

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        gate, gate_st, of_gate = self.gate.apply(x, ps["gate"], st["gate"], memory)
        value, value_st, of_value = self.value.apply(x, ps["value"], st["value"], memory)
        if gate.shape != value.shape:
            raise ValueError(f"Gated: gate and value must give one shape, got {gate.shape} and {value.shape}")
        y = np.multiply(gate, value, out=memory.take(gate.shape, gate.dtype))
        return y, {"gate": gate_st, "value": value_st}, (gate, value, of_gate, of_value)

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        gate, value, of_gate, of_value = saved
        dgate = np.multiply(dy, value, out=memory.take(dy.shape, dy.dtype))  # y = gate * value
        dvalue = np.multiply(dy, gate, out=memory.take(dy.shape, dy.dtype))
        dx, dps_gate = self.gate.backward(dgate, of_gate, ps["gate"], memory)
        dx_value, dps_value = self.value.backward(dvalue, of_value, ps["value"], memory)
        dx = np.add(dx, dx_value, out=memory.take(dx.shape, dx.dtype))
        return dx, {"gate": dps_gate, "value": dps_value}
