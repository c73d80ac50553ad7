"""Induction: what followed this token when it was last seen?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import freeze_size
from primeattn.tasks.task import IGNORED, Task, check_draw, freeze_distance, in_one_layer, share

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from primeattn.typing import Array

__all__ = ["induction"]


@dataclass(frozen=True, repr=False)
class induction(Task):
    """``… a b … a``: the last token was there once before, and asks for what followed it, b.

    (Olsson et al., In-context learning and induction heads, 2022.) Which pair will be asked for is known only
    at the end, so theory expects an answer where a layer connects the last token to b directly. The embedding
    shows the token before each (``previous = 1``), so that b can be found by a.

    Parameters
    ----------
    length : int
        Tokens; at least 3.
    distance : int, optional
        From b to the last token. By default each of 1, ..., length - 2 is equally likely.
    symbols : int
        Number of different tokens; b and all others are random ones but a.

    See Also
    --------
    mqar : Asks many times.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.tasks.induction(length=8, distance=3).draw(np.random.default_rng(0), 1)
    (array([[ 9,  7,  4, 13,  0,  1,  0, 13]]), array([[-100, -100, -100, -100, -100, -100, -100,    0]]))
    """

    length: int = 96
    distance: int | None = None
    symbols: int = 16
    previous = 1

    def __post_init__(self) -> None:
        freeze_size(self, "length", minimum=3)
        freeze_size(self, "symbols", minimum=3)
        freeze_distance(self, self.length - 2)

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        return self.symbols

    @property
    def chance(self) -> float:
        """The metric of a model that guesses."""
        return 1 / (self.symbols - 1)

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        batch = check_draw(rng, batch)
        asked = rng.integers(self.symbols, size=batch)
        tokens = rng.integers(self.symbols - 1, size=(batch, self.length))
        tokens += tokens >= asked[:, None]  # any but the one asked for
        distances = rng.integers(1, self.length - 1, size=batch) if self.distance is None else self.distance
        rows, at = np.arange(batch), self.length - 1 - distances
        tokens[rows, at - 1] = tokens[:, -1] = asked
        targets = np.full_like(tokens, IGNORED)
        targets[:, -1] = tokens[rows, at]
        return tokens, targets

    def answers(self, tokens: Array, targets: Array) -> Array | None:
        found = np.full_like(targets, -1)
        found[:, -1] = (tokens == tokens[:, -1:]).argmax(axis=1) + 1
        return found

    def reach(self, patterns: Several[Any]) -> Array | None:
        return in_one_layer(patterns, self.length)

    def predict(self, patterns: Several[Any]) -> float | None:
        distances = np.arange(1, self.length - 1) if self.distance is None else np.array([self.distance])
        return share(self.reach(patterns), patterns, distances, self.length - 1 - distances)
