"""One table for tokens at both ends of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.compiled.parallel import as_rows, product, sum_products
from primeattn.nn._layer import Layer
from primeattn.nn.embedding import Embedding

if TYPE_CHECKING:
    from primeattn.typing import Array, Memory, Params, States, Tree

__all__ = ["Tied"]


@dataclass(frozen=True, repr=False)
class Tied(Layer):
    """``y = layer(embedding(x)) @ weight.T`` with the ``weight`` of the embedding: tied embeddings.

    Press and Wolf, Using the output embedding to improve language models (2017).

    Parameters
    ----------
    embedding : Embedding
        Tokens to vectors, and by its transpose vectors to logits.
    layer : Layer
        What is between; its output has the size of the vectors, ``embedding.dim``, in its last axis.

    See Also
    --------
    Embedding : The table.
    primeattn.language_model.make_model : Makes one with ``tied=True``.

    Notes
    -----
    ps and st are {"embedding": ..., "layer": ...}. The weight is there once, and its gradient is the sum of
    those of its two uses.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.Tied(pa.Embedding(7, 4), pa.Chain(pa.Dense(4, 4), pa.RMSNorm(4)))
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> logits, st = model(np.array([0, 3, 6]), ps, st)
    >>> logits.shape, list(pa.tree.flatten(ps))[:2], model.parameter_count
    ((3, 7), ['embedding/weight', 'layer/layer_0/weight'], 52)
    """

    embedding: Embedding
    layer: Layer

    def __post_init__(self) -> None:
        if not isinstance(self.embedding, Embedding):
            raise TypeError(f"Tied: embedding must be an Embedding, got {self.embedding!r}")
        if not isinstance(self.layer, Layer):
            raise TypeError(f"Tied: layer must be a Layer, got {self.layer!r}")

    def parameters(self) -> Tree:
        return {"embedding": self.embedding.parameters(), "layer": self.layer.parameters()}

    def states(self, rng: np.random.Generator) -> States:
        return {"embedding": self.embedding.states(rng), "layer": self.layer.states(rng)}

    def with_cache(self, st: States, *arguments: Any) -> States:
        return {name: getattr(self, name).with_cache(st[name], *arguments) for name in ("embedding", "layer")}

    def check_input(self, x: Array, ps: Params) -> None:
        """Nothing to check: the embedding does."""

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        new_st, saved = {}, {}
        for name in ("embedding", "layer"):
            child = getattr(self, name)
            x, new_st[name], saved[name] = child.apply(x, ps[name], st[name], memory)
        if x.shape[-1] != self.embedding.dim:
            raise ValueError(
                f"Tied: the layer must give last axis {self.embedding.dim} as {self.embedding} does, "
                f"got shape {x.shape}"
            )
        y = memory.take((*x.shape[:-1], self.embedding.vocab), x.dtype)
        rows = as_rows(x)
        product(rows, ps["embedding"]["weight"].T, as_rows(y))
        return y, new_st, (saved, rows, x.shape)

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        saved, rows, shape = saved
        dy_rows, dx = as_rows(dy), memory.take(shape, dy.dtype)
        product(dy_rows, ps["embedding"]["weight"], as_rows(dx))  # y = x @ weight.T
        dx, dlayer = self.layer.backward(dx, saved["layer"], ps["layer"], memory)
        _, dembedding = self.embedding.backward(dx, saved["embedding"], ps["embedding"], memory)
        dweight = memory.take(dembedding["weight"].shape, dy.dtype)
        sum_products(dy_rows, rows, dweight, memory)  # y = x @ weight.T
        np.add(dembedding["weight"], dweight, out=dembedding["weight"])
        return None, {"embedding": dembedding, "layer": dlayer}
