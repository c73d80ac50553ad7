"""Dropout with a random state that is part of st."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import freeze_real
from primeattn.checks import is_array
from primeattn.compiled.parallel import BLOCK, row_blocks
from primeattn.nn._layer import Layer

if TYPE_CHECKING:
    from primeattn.typing import Array, Memory, Params, States

__all__ = ["Dropout", "advanced", "generator", "random_state"]


def random_state(rng):
    """The part of st that a layer with dropout has."""
    seed = rng.integers(0, 2**64, dtype=np.uint64)
    return {"rng": np.array([seed, 0], np.uint64), "training": True}


def generator(layer, st):
    """Generator of a call with this state."""
    state = st["rng"]
    if not is_array(state) or state.dtype != np.uint64 or state.shape != (2,):
        raise ValueError(f"{layer}: rng in st must be a uint64 array [seed, counter], got {state!r}")
    return np.random.Generator(np.random.Philox(key=state))


def advanced(st):
    """State after a call that drew from it."""
    return {**st, "rng": st["rng"] + np.array([0, 1], np.uint64)}


@dataclass(frozen=True, repr=False)
class Dropout(Layer):
    """``y = x * keep / (1 - p)``, keep being 0 with probability p, else 1; in test mode ``y = x``.

    Parameters
    ----------
    p : float
        Probability that an entry is dropped, in [0, 1).

    See Also
    --------
    primeattn.train_mode : Turns it on.
    primeattn.test_mode : Turns it off.
    SparseIndexAttention : Drops pairs of query and key.

    Notes
    -----
    ps = {}; st = {"rng": uint64 array [seed, counter], "training": True}. Draws come from numpy's
    Philox with the key (seed, counter); the new state has counter + 1. So the same st twice drops the same
    entries. ``pa.test_mode(st)`` and ``pa.train_mode(st)`` switch. Srivastava et al., Dropout (2014).

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> layer, x = pa.Dropout(0.5), np.ones(6)
    >>> ps, st = pa.setup(np.random.default_rng(0), layer)
    >>> y, new = layer(x, ps, st)
    >>> sorted(set(y.tolist())), bool((layer(x, ps, st)[0] == y).all()), int(new["rng"][1])
    ([0.0, 2.0], True, 1)
    >>> layer(x, ps, pa.test_mode(st))[0]
    array([1., 1., 1., 1., 1., 1.])
    """

    p: float

    def __post_init__(self) -> None:
        freeze_real(self, "p", 0, 1)

    def states(self, rng: np.random.Generator) -> States:
        return random_state(rng)

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        if not st["training"]:
            return x, st, None
        draw = generator(self, st)
        y, factor = (memory.take(x.shape, x.dtype) for _ in range(2))
        factor_flat = factor.reshape(-1)
        # float32 draws for every dtype: one state drops the same entries in float32 and float64
        room = memory.take((min(x.size, BLOCK),), np.float32)
        for block in row_blocks(x.size, 1):
            draws = room[: block.stop - block.start]
            draw.random(out=draws, dtype=np.float32)
            np.greater_equal(draws, self.p, out=factor_flat[block])
        factor *= 1 / (1 - self.p)
        np.multiply(x, factor, out=y)
        return y, advanced(st), factor

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        if saved is None:
            return dy, {}
        return np.multiply(dy, saved, out=memory.take(dy.shape, dy.dtype)), {}  # y = x * factor
