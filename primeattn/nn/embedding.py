"""Embeddings of tokens and of positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import check_callable, freeze_size
from primeattn.checks import is_array
from primeattn.compiled import loops
from primeattn.compiled.parallel import as_rows
from primeattn.nn import cache
from primeattn.nn._layer import Layer, check_float
from primeattn.nn._parameter import Parameter
from primeattn.nn.initializers import Normal

if TYPE_CHECKING:
    from primeattn.typing import Array, DTypeLike, Memory, Params, States, Tree

__all__ = ["Embedding", "PositionalEmbedding"]


SMALL = Normal(std=0.02)


@dataclass(frozen=True, repr=False)
class Embedding(Layer):
    """``y_t = weight[x_t] + previous[0][x_{t-1}] + … + previous[P-1][x_{t-P}]`` with P = ``previous``.

    With ``previous=0``, the default, this is a plain table with one vector per token. Each of the
    ``previous`` earlier tokens has its own table; positions before the sequence add nothing. So a layer over
    bytes sees the last few bytes at once.

    Parameters
    ----------
    vocab : int
        Tokens are 0 .. vocab - 1.
    dim : int
        Size of the vectors.
    previous : int
        Number of earlier tokens that each position sees.
    init : callable
        Initialiser, ``f(rng, shape, dtype)``.

    See Also
    --------
    PositionalEmbedding : Adds positions.
    Tied : Uses the table for logits, too.

    Notes
    -----
    x: integers of any shape, but (seq,) or (batch, seq) if ``previous > 0``; y: ``(*x.shape, dim)``. The
    pullback returns None for dx. ps = {"weight": (vocab, dim)} and, if ``previous > 0``, "previous":
    (previous, vocab, dim); then st holds the boundaries of packed sequences, which earlier tokens do not
    cross (`with_segments`).

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps = {"weight": np.array([[1.0], [2.0]]), "previous": np.array([[[10.0], [20.0]]])}
    >>> y, st = pa.Embedding(2, 1, previous=1)(np.array([0, 1, 1]), ps, {"cu_seqlens": None})
    >>> y.ravel()
    array([ 1., 12., 22.])
    """

    vocab: int
    dim: int
    _: KW_ONLY
    previous: int = 0
    init: Callable = SMALL

    def __post_init__(self) -> None:
        freeze_size(self, "vocab")
        freeze_size(self, "dim")
        freeze_size(self, "previous", minimum=0)
        check_callable(self, "init")

    def parameters(self) -> Tree:
        weight = Parameter((self.vocab, self.dim), self.init)
        if self.previous == 0:
            return {"weight": weight}
        return {
            "weight": weight,
            "previous": Parameter((self.previous, self.vocab, self.dim), self._init_previous),
        }

    def _init_previous(self, rng, shape, dtype):
        return np.stack([self.init(rng, shape[1:], dtype) for _ in range(shape[0])])

    def states(self, rng: np.random.Generator) -> States:
        return {"cu_seqlens": None} if self.previous else {}

    def check_input(self, x: Array, ps: Params) -> None:
        if not is_array(x) or x.dtype.kind not in "iu":
            got = x.dtype if is_array(x) else type(x).__name__
            raise TypeError(f"{self}: x must be a numpy array of integer tokens, got {got}")
        if self.previous and x.ndim not in (1, 2):
            raise ValueError(f"{self}: x must have shape (seq,) or (batch, seq), got {x.shape}")
        if x.size and (x.min() < 0 or x.max() >= self.vocab):
            raise ValueError(f"{self}: tokens must be in [0, {self.vocab}), got {x.min()} to {x.max()}")

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        y = memory.take((*x.shape, self.dim), ps["weight"].dtype)
        shape, bounds = (1, x.size), np.array([0, x.size])
        if "cache" in st:
            return self._continue(x, ps, st, memory)
        if self.previous:
            shape, bounds = x.shape if x.ndim == 2 else shape, segment_bounds(self, st, x.shape)
        tokens = memory.take(shape, np.int64)
        np.copyto(tokens, x.reshape(shape), casting="unsafe")  # safe: all are below vocab
        y.fill(0)
        y_rows = y.reshape(*shape, self.dim)
        for back, table in enumerate(_tables(ps)):
            loops.add_earlier(tokens, bounds, back, table, y_rows)
        return y, st, (tokens, bounds)

    def with_cache(self, st: States, start: Array, capacity: int, dtype: DTypeLike) -> States:
        if not self.previous:
            return st
        tokens = np.zeros((len(start), self.previous), np.int64)
        return {**st, "cache": cache.begin(start, capacity, self.previous, tokens=tokens)}

    def _continue(self, x, ps, st, memory):
        """``forward`` after earlier tokens: the cache holds the last few."""
        tokens = x if x.ndim == 2 else x[None]
        positions, st = cache.advance(self, st, tokens.shape, memory, self.previous)
        known = np.concatenate([st["cache"]["tokens"], tokens], axis=1)
        y = memory.take((*tokens.shape, self.dim), ps["weight"].dtype)
        y.fill(0)
        for back, table in enumerate(_tables(ps)):
            seen = known[:, self.previous - back : known.shape[1] - back]
            y += np.where((positions >= back)[..., None], table[seen], 0)
        kept = {**st["cache"], "tokens": known[:, known.shape[1] - self.previous :]}
        return y.reshape(*x.shape, self.dim), {**st, "cache": kept}, None

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        tokens, bounds = saved
        dps = {name: memory.take(table.shape, dy.dtype) for name, table in ps.items()}
        ends, order = memory.take((self.vocab,), np.int64), memory.take((tokens.size,), np.int64)
        for back, dtable in enumerate(_tables(dps)):
            loops.sum_by_earlier(tokens, bounds, back, as_rows(dy), ends, order, dtable)
        return None, dps


@dataclass(frozen=True, repr=False)
class PositionalEmbedding(Layer):
    """``y_t = x_t + weight[t]`` with a learned vector for each position t.

    Parameters
    ----------
    max_len : int
        Positions are 0 .. max_len - 1; a longer sequence raises ValueError.
    dim : int
        Size of the last axis; x is (seq, dim) or (batch, seq, dim).
    init : callable
        Initialiser, ``f(rng, shape, dtype)``.

    See Also
    --------
    Embedding : Vectors of tokens.
    SparseIndexAttention : Has rotary positions.

    Notes
    -----
    ps = {"weight": (max_len, dim)}; st holds the boundaries of packed sequences, each counted from position 0
    (`with_segments`).

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps = {"weight": np.array([[0.0], [1.0], [2.0]])}
    >>> y, st = pa.PositionalEmbedding(3, 1)(np.full((2, 1), 10.0), ps, {"cu_seqlens": None})
    >>> y.ravel()
    array([10., 11.])
    """

    max_len: int
    dim: int
    _: KW_ONLY
    init: Callable = SMALL

    def __post_init__(self) -> None:
        freeze_size(self, "max_len")
        freeze_size(self, "dim")
        check_callable(self, "init")

    def parameters(self) -> Tree:
        return {"weight": Parameter((self.max_len, self.dim), self.init)}

    def states(self, rng: np.random.Generator) -> States:
        return {"cu_seqlens": None}

    def check_input(self, x: Array, ps: Params) -> None:
        check_float(self, x, ps, self.dim, ranks=(2, 3))

    def with_cache(self, st: States, start: Array, capacity: int, dtype: DTypeLike) -> States:
        self._check_length(capacity)
        return {**st, "cache": cache.begin(start, capacity)}

    def _check_length(self, positions):
        if positions > self.max_len:
            raise ValueError(f"{self}: sequences must have at most {self.max_len} positions, got {positions}")

    def _continue(self, x, ps, st, memory):
        """``forward`` at the positions after those of earlier calls."""
        self._check_length(int(st["cache"]["capacity"]))  # the state may be of a longer model
        rows = x if x.ndim == 3 else x[None]
        positions, st = cache.advance(self, st, rows.shape[:2], memory)
        y = memory.take(x.shape, x.dtype)
        np.add(rows, ps["weight"][np.maximum(positions, 0)], out=y.reshape(rows.shape))
        return y, st, None

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        if "cache" in st:
            return self._continue(x, ps, st, memory)
        bounds = segment_bounds(self, st, x.shape[:-1])
        self._check_length(int(np.diff(bounds).max(initial=0)))
        y = memory.take(x.shape, x.dtype)
        for start, stop in pairwise(bounds):
            np.add(x[..., start:stop, :], ps["weight"][: stop - start], out=y[..., start:stop, :])
        return y, st, bounds

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        dps = {"weight": memory.take((self.max_len, self.dim), dy.dtype)}
        sums = memory.take((self.max_len, self.dim), np.float64)
        sums.fill(0)
        dy_rows = np.ascontiguousarray(dy)
        for sequence in dy_rows if dy.ndim == 3 else dy_rows[None]:
            for start, stop in pairwise(saved):
                loops.add_rows(sequence[start:stop], sums)  # y = x + weight
        dps["weight"][...] = sums
        return dy, dps


def segment_bounds(layer, st, shape):
    """Boundaries of the sequences in the last axis of ``shape``, (seq,) or (batch, seq)."""
    bounds, length = st["cu_seqlens"], shape[-1]
    if bounds is None:
        return np.array([0, length])
    if len(shape) == 2 and shape[0] != 1:
        raise ValueError(f"{layer}: cu_seqlens needs a batch of 1 or none, got a batch of {shape[0]}")
    if bounds[-1] != length:
        raise ValueError(f"{layer}: cu_seqlens must end at the length of x, {length}, got {bounds[-1]}")
    return bounds


def _tables(ps):
    """The tables of the token itself, of the one before, ..."""
    return [ps["weight"], *ps.get("previous", ())]
