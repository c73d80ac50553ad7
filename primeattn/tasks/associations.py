"""Multi-query associative recall (MQAR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import freeze_real, freeze_size
from primeattn.tasks.task import IGNORED, Task, check_draw, in_one_layer

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from primeattn.typing import Array

__all__ = ["mqar"]


@dataclass(frozen=True, repr=False)
class mqar(Task):
    """``k1 v1 k2 v2 … kK vK``, then the keys again at random places, each asking for its value.

    Arora et al., Zoology: measuring and improving recall in efficient language models (2023). A relay cannot
    know which keys will be asked for, so theory expects answers where a layer connects a query to its value
    directly: the share of such distances in the pattern is the one-hop ceiling. The embedding shows the token
    before each (``previous = 1``), so that a value can be found by its key.

    Parameters
    ----------
    length : int
        Tokens; at least 4 times ``pairs``.
    pairs : int
        K.
    vocab : int
        Even. Token 0 fills the gaps; keys are 1, ..., vocab / 2 - 1, all of a sequence different; values are
        vocab / 2, ..., vocab - 1.
    layout : {"free", "zoology"}
        Where queries may stand after the pairs: anywhere, or at even positions only, as in the paper. In the
        paper's layout all distances from a query to its value are odd, which favours sets of odd numbers such
        as the primes, so comparisons of patterns should use "free".
    power : float
        Above 0. Key by key, place g = 1, 2, ... is drawn with probability proportional to g^(power - 1) among
        those not yet taken: for small values, near the pairs.

    See Also
    --------
    induction : Asks once, at the end.

    Notes
    -----
    Chance is a guess among all values. One layer goes a little beyond the ceiling, by guesses among the
    values that it sees without their keys. Two layers go far beyond it: relays carry many pairs at once, and
    a trained model answers most of what two hops connect (figures/STUDY.md).

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> task = pa.tasks.mqar(length=12, pairs=2, vocab=16)
    >>> tokens, targets = task.draw(np.random.default_rng(0), 1)
    >>> tokens
    array([[ 4, 15,  3, 13,  0,  0,  0,  4,  0,  3,  0,  0]])
    >>> np.where(targets == pa.tasks.IGNORED, 0, targets)
    array([[ 0,  0,  0,  0,  0,  0,  0, 15,  0, 13,  0,  0]])
    """

    length: int = 128
    pairs: int = 16
    vocab: int = 128
    layout: str = "free"
    power: float = 0.01
    previous = 1

    def __post_init__(self) -> None:
        freeze_size(self, "pairs")
        freeze_size(self, "length", minimum=4 * self.pairs)
        freeze_size(self, "vocab", minimum=2 * (self.pairs + 1))
        freeze_real(self, "power", 0)
        if self.power == 0:
            raise ValueError("mqar: power must be above 0, got 0")
        if self.vocab % 2:
            raise ValueError(f"mqar: vocab must be even, got {self.vocab}")
        if self.layout not in ("free", "zoology"):
            raise ValueError(f"mqar: layout must be 'free' or 'zoology', got {self.layout!r}")

    @property
    def chance(self) -> float:
        """The metric of a model that guesses."""
        return 2 / self.vocab

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        batch = check_draw(rng, batch)
        rows, pairs, half = np.arange(batch)[:, None], self.pairs, self.vocab // 2
        keys = 1 + rng.random((batch, half - 1)).argsort(axis=1)[:, :pairs]
        values = rng.integers(half, self.vocab, size=(batch, pairs))
        step = 2 if self.layout == "zoology" else 1
        places = (self.length - 2 * pairs) // step
        # The largest of log p + Gumbel noise are draws without replacement, in this order.
        weights = (self.power - 1) * np.log(np.arange(1, places + 1))
        drawn = np.argsort(-(weights + rng.gumbel(size=(batch, places))), axis=1, kind="stable")[:, :pairs]
        queries = 2 * pairs + step * drawn

        tokens = np.zeros((batch, self.length), np.int64)
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
        tokens[rows, queries] = keys
        targets = np.full_like(tokens, IGNORED)
        targets[rows, queries] = values
        return tokens, targets

    def answers(self, tokens: Array, targets: Array) -> Array | None:
        found = np.full_like(targets, -1)
        rows, queries = np.nonzero(targets != IGNORED)
        keys = tokens[:, 0 : 2 * self.pairs : 2]
        found[rows, queries] = 2 * (keys[rows] == tokens[rows, queries][:, None]).argmax(axis=1) + 1
        return found

    def reach(self, patterns: Several[Any]) -> Array | None:
        return in_one_layer(patterns, self.length)
