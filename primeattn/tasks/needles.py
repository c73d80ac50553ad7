"""A needle in a haystack: one token to be remembered, over any distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import freeze_size
from primeattn.tasks.task import IGNORED, Task, check_draw, freeze_distance, share, within_hops

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from primeattn.typing import Array

__all__ = ["needle"]


@dataclass(frozen=True, repr=False)
class needle(Task):
    """``noise … noise value noise … noise question``: the last token asks for the value.

    Values are no noise, so a token that sees the value can tell it, and pass it on: theory expects an answer
    at distance d exactly where the layers connect d, ``hops(d) <= layers``, and chance elsewhere. For this to
    be exact, no token may see others in its embedding (``previous = 0``).

    Parameters
    ----------
    length : int
        Tokens, the question included; at least 2.
    distance : int, optional
        From the value to the question. By default each of 1, ..., length - 1 is equally likely.
    values, noise : int
        Numbers of different values, of which all are equally likely, and of different noise tokens.

    See Also
    --------
    copy : Asks at every position.

    Notes
    -----
    Token 0 is the question; noise is 1, ..., noise; values follow.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> tokens, targets = pa.tasks.needle(length=8, distance=5).draw(np.random.default_rng(0), 1)
    >>> tokens, targets
    (array([[ 7,  6, 10,  3,  3,  1,  1,  0]]), array([[-100, -100, -100, -100, -100, -100, -100,   10]]))
    """

    length: int = 96
    distance: int | None = None
    values: int = 8
    noise: int = 8

    def __post_init__(self) -> None:
        freeze_size(self, "length", minimum=2)
        freeze_size(self, "values", minimum=2)
        freeze_size(self, "noise")
        freeze_distance(self, self.length - 1)

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        return 1 + self.noise + self.values

    @property
    def chance(self) -> float:
        """The metric of a model that guesses."""
        return 1 / self.values

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        batch = check_draw(rng, batch)
        tokens = rng.integers(1, 1 + self.noise, size=(batch, self.length))
        values = rng.integers(1 + self.noise, self.vocab, size=batch)
        distances = rng.integers(1, self.length, size=batch) if self.distance is None else self.distance
        tokens[:, -1] = 0
        tokens[np.arange(batch), self.length - 1 - distances] = values
        targets = np.full_like(tokens, IGNORED)
        targets[:, -1] = values
        return tokens, targets

    def answers(self, tokens: Array, targets: Array) -> Array | None:
        found = np.full_like(targets, -1)
        found[:, -1] = (tokens > self.noise).argmax(axis=1)
        return found

    def reach(self, patterns: Several[Any]) -> Array | None:
        return within_hops(patterns, self.length)

    def predict(self, patterns: Several[Any]) -> float | None:
        distances = np.arange(1, self.length) if self.distance is None else np.array([self.distance])
        return share(self.reach(patterns), patterns, distances, self.length - 1 - distances)
