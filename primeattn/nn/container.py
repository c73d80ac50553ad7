"""Layers made of layers: Chain and SkipConnection."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.nn._layer import Layer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from primeattn.typing import Array, Memory, Params, States, Tree

__all__ = ["Chain", "SkipConnection"]


@dataclass(frozen=True, init=False, repr=False)
class Chain(Layer, Mapping):
    """``y = f_n(… f_1(x))``; a read-only mapping from names to layers.

    Parameters
    ----------
    *layers : Layer
        Children named layer_0, layer_1, ...
    **named : Layer
        Children with these names, after the others.

    See Also
    --------
    SkipConnection : Adds the input to the output of a layer.
    Gated : Multiplies two layers.
    Tied : Uses one table at both ends.

    Notes
    -----
    ps and st hold those of the children, by name.

    Examples
    --------
    >>> import primeattn as pa
    >>> model = pa.Chain(pa.Dense(4, 8), pa.relu, head=pa.Dense(8, 2, bias=False))
    >>> model
    Chain(
        Dense(4, 8),
        relu,
        head=Dense(8, 2, bias=False),
    )
    >>> list(model), model["head"], model.parameter_count
    (['layer_0', 'layer_1', 'head'], Dense(8, 2, bias=False), 56)
    """

    children: tuple[tuple[str, Layer], ...]

    def __init__(self, *layers: Layer, **named: Layer) -> None:
        if not layers and not named:
            raise ValueError("Chain: expected at least one layer, got none")
        children = {f"layer_{i}": layer for i, layer in enumerate(layers)}
        for name in named:
            if not name.isidentifier():
                raise ValueError(f"Chain: names must be identifiers, got {name!r}")
            if name in children:
                raise ValueError(f"Chain: the name {name!r} belongs to a positional layer")
        children.update(named)
        for name, layer in children.items():
            if not isinstance(layer, Layer):
                raise TypeError(f"Chain: {name} must be a Layer, got {layer!r}")
        object.__setattr__(self, "children", tuple(children.items()))

    def __getitem__(self, name: str) -> Layer:
        return dict(self.children)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.children))

    def __len__(self) -> int:
        return len(self.children)

    def __repr__(self) -> str:
        lines, positional = [], True
        for i, (name, layer) in enumerate(self.children):
            positional = positional and name == f"layer_{i}"
            line = repr(layer) if positional else f"{name}={layer!r}"
            lines.append(textwrap.indent(line, "    ") + ",\n")
        return f"Chain(\n{''.join(lines)})"

    def parameters(self) -> Tree:
        return {name: layer.parameters() for name, layer in self.children}

    def states(self, rng: np.random.Generator) -> States:
        return {name: layer.states(rng) for name, layer in self.children}

    def with_cache(self, st: States, *arguments: Any) -> States:
        return {name: layer.with_cache(st[name], *arguments) for name, layer in self.children}

    def check_input(self, x: Array, ps: Params) -> None:
        """Nothing to check: the first child does."""

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        new_st, saved = {}, []
        for name, layer in self.children:
            x, new_st[name], child_saved = layer.apply(x, ps[name], st[name], memory)
            saved.append(child_saved)
        return x, new_st, saved

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        dps = dict.fromkeys(self)  # in the order of ps
        for (name, layer), child_saved in zip(reversed(self.children), reversed(saved), strict=True):
            dy, dps[name] = layer.backward(dy, child_saved, ps[name], memory)
        return dy, dps


@dataclass(frozen=True, repr=False)
class SkipConnection(Layer):
    """``y = x + layer(x)``

    Parameters
    ----------
    layer : Layer
        Must keep the shape of its input. Its ps and st are used directly, not nested further.

    See Also
    --------
    Chain : One layer after another.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> y, st = pa.SkipConnection(pa.relu)(np.array([-1.0, 2.0]), {}, {})
    >>> y
    array([-1.,  4.])
    """

    layer: Layer

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise TypeError(f"SkipConnection: layer must be a Layer, got {self.layer!r}")

    def parameters(self) -> Tree:
        return self.layer.parameters()

    def states(self, rng: np.random.Generator) -> States:
        return self.layer.states(rng)

    def with_cache(self, st: States, *arguments: Any) -> States:
        return self.layer.with_cache(st, *arguments)

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        inner, st, saved = self.layer.apply(x, ps, st, memory)
        if inner.shape != x.shape:
            raise ValueError(
                f"SkipConnection: the layer must keep the shape of its input, got {x.shape} -> {inner.shape}"
            )
        return np.add(x, inner, out=memory.take(x.shape, x.dtype)), st, saved

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        dinner, dps = self.layer.backward(dy, saved, ps, memory)
        return np.add(dy, dinner, out=memory.take(dy.shape, dy.dtype)), dps  # y = x + inner
