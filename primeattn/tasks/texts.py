"""Text, byte by byte."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from primeattn._config import freeze_size
from primeattn.data import load_corpus
from primeattn.tasks.files import kept_by_file
from primeattn.tasks.task import Task, as_part, check_draw

if TYPE_CHECKING:
    from primeattn.typing import Array

__all__ = ["text"]

_corpus = kept_by_file(load_corpus)


@dataclass(frozen=True, repr=False)
class text(Task):
    """``target_i = token_{i + 1}``: predict the next byte of a text, anywhere in it.

    Parameters
    ----------
    length : int
        Bytes seen at once.
    path : str, optional
        A file; default the Python standard library (see :func:`primeattn.data.load_corpus`).
    data : {"train", "validation", "test"}
        What to draw from: the training bytes of the corpus, or the first or second half of those held out.

    See Also
    --------
    pixels : Pixels of an image.
    primeattn.language_model.make_model : A model for it.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> task = pa.tasks.text(length=16)
    >>> tokens, targets = task.part("test").draw(np.random.default_rng(0), batch=2)
    >>> bool((tokens[:, 1:] == targets[:, :-1]).all()), task.metric, task.chance
    (True, 'bits', 8.0)
    """

    length: int = 256
    path: str | None = None
    data: str = "train"
    metric, previous, vocab, chance = "bits", 1, 256, math.log2(256)

    def __post_init__(self) -> None:
        freeze_size(self, "length")
        as_part(self.data)
        if self.path is not None and not isinstance(self.path, str):
            raise TypeError(f"text: path must be a str or None, got {self.path!r}")

    @property
    def digest(self) -> str:
        return _corpus(self.path).sha256

    def part(self, name: str) -> text:
        return replace(self, data=as_part(name))

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        batch, content = check_draw(rng, batch), self._content()
        if content.size <= self.length:
            raise ValueError(
                f"text: expected more than length = {self.length} bytes of {self.data}, got {content.size}"
            )
        starts = rng.integers(content.size - self.length, size=batch)
        windows = content[starts[:, None] + np.arange(self.length + 1)].astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def _content(self):
        corpus = _corpus(self.path)
        half = corpus.heldout.size // 2
        parts = {"train": corpus.train, "validation": corpus.heldout[:half], "test": corpus.heldout[half:]}
        return parts[self.data]
