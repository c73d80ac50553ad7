"""Delayed copy: every token again, after a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import freeze_size
from primeattn.tasks.task import IGNORED, Task, check_draw, freeze_distance, within_hops

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from primeattn.typing import Array

__all__ = ["copy"]


@dataclass(frozen=True, repr=False)
class copy(Task):
    """``target_i = token_{i - distance}`` for i >= distance; tokens are random.

    Every position asks at one distance. A relay passes on one token, so theory expects all answers if the
    layers connect the distance, ``hops(distance) <= layers``, and chance otherwise.

    Parameters
    ----------
    length : int
        Tokens; at least 2.
    distance : int
        1, ..., length - 1.
    symbols : int
        Number of different tokens.

    See Also
    --------
    needle : Asks once, at the end.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.tasks.copy(length=6, distance=2).draw(np.random.default_rng(0), 1)
    (array([[13, 10,  8,  4,  4,  0]]), array([[-100, -100,   13,   10,    8,    4]]))
    """

    length: int
    distance: int
    symbols: int = 16

    def __post_init__(self) -> None:
        freeze_size(self, "length", minimum=2)
        freeze_size(self, "distance")
        freeze_size(self, "symbols", minimum=2)
        freeze_distance(self, self.length - 1)

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        return self.symbols

    @property
    def chance(self) -> float:
        """The metric of a model that guesses."""
        return 1 / self.symbols

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        batch = check_draw(rng, batch)
        tokens = rng.integers(self.symbols, size=(batch, self.length))
        targets = np.full_like(tokens, IGNORED)
        targets[:, self.distance :] = tokens[:, : -self.distance]
        return tokens, targets

    def answers(self, tokens: Array, targets: Array) -> Array | None:
        source = np.arange(self.length) - self.distance
        return np.where(targets == IGNORED, -1, source)

    def reach(self, patterns: Several[Any]) -> Array | None:
        return within_hops(patterns, self.length)
