"""Pixels of a photograph, row by row."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from primeattn._config import freeze_size
from primeattn.tasks.files import kept_by_file
from primeattn.tasks.task import Task, as_part, check_draw

if TYPE_CHECKING:
    from primeattn.typing import Array

__all__ = ["pixels"]

_BANDS = 8
_OF_PART = {"train": [0, 1, 3, 4, 6, 7], "validation": [2], "test": [5]}


@kept_by_file
def _bands(path):
    """The image as grey bands, uint8 (8, rows, columns), read-only."""
    from matplotlib import cbook, image  # slow to import

    if path is None:
        with cbook.get_sample_data("grace_hopper.jpg") as file:
            pixels = image.imread(file, format="jpg")
    else:
        pixels = image.imread(path)
    if pixels.dtype != np.uint8:  # PNG files come as floats in [0, 1]
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.ndim == 3:
        pixels = pixels[..., :3].astype(np.int64) @ [299, 587, 114] // 1000
    rows = len(pixels) // _BANDS
    grey = pixels[: rows * _BANDS].reshape(_BANDS, rows, -1).astype(np.uint8)
    grey.setflags(write=False)
    return grey


@dataclass(frozen=True, repr=False)
class pixels(Task):
    """``target_i = pixel_i`` of a grey patch, read row by row; ``token_i`` is the pixel before, or the start.

    The pixel above is the token ``width - 1`` back, so that a pattern sees it or not depending on the width:
    rows of 30 pixels suit the primes, rows of 28 do not, not even by the embedding of the token that follows.

    Parameters
    ----------
    width, height : int
        Of the patch; the length is their product.
    levels : int
        Number of greys, in 2, ..., 256.
    path : str, optional
        An image; default a portrait that ships with Matplotlib, 512 × 600 pixels.
    data : {"train", "validation", "test"}
        What to draw from. Of eight bands of rows one is for validation, one for tests; no patch spans two.

    See Also
    --------
    text : Bytes of a text.

    Notes
    -----
    Token ``levels`` is the start.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> task = pa.tasks.pixels(width=4, height=2)
    >>> task.draw(np.random.default_rng(0), 1)
    (array([[16,  1,  1,  0,  0,  1,  1,  0]]), array([[1, 1, 0, 0, 1, 1, 0, 0]]))
    >>> task.length, task.vocab, task.chance
    (8, 17, 4.0)
    """

    width: int = 28
    height: int = 28
    levels: int = 16
    path: str | None = None
    data: str = "train"
    metric, previous = "bits", 1

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            freeze_size(self, name)
        freeze_size(self, "levels", minimum=2)
        if self.levels > 256:
            raise ValueError(f"pixels: levels must be at most 256, got {self.levels}")
        as_part(self.data)
        if self.path is not None and not isinstance(self.path, str):
            raise TypeError(f"pixels: path must be a str or None, got {self.path!r}")

    @property
    def length(self) -> int:
        """Tokens in a sequence."""
        return self.width * self.height

    @property
    def vocab(self) -> int:
        """Number of different tokens."""
        return self.levels + 1

    @property
    def chance(self) -> float:
        """The metric of a model that guesses."""
        return math.log2(self.levels)

    @property
    def digest(self) -> str:
        return hashlib.sha256(_bands(self.path)).hexdigest()

    def part(self, name: str) -> pixels:
        return replace(self, data=as_part(name))

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        batch, bands = check_draw(rng, batch), _bands(self.path)
        _, rows, columns = bands.shape
        if self.height > rows or self.width > columns:
            raise ValueError(
                f"pixels: expected a patch of at most {columns} × {rows}, got {self.width} × {self.height}"
            )
        band = rng.choice(_OF_PART[self.data], size=batch)
        top = rng.integers(rows - self.height + 1, size=batch)
        left = rng.integers(columns - self.width + 1, size=batch)
        y, x = np.divmod(np.arange(self.length), self.width)
        patches = bands[band[:, None], top[:, None] + y, left[:, None] + x]
        targets = patches.astype(np.int64) * self.levels // 256
        start = np.full((batch, 1), self.levels)
        return np.concatenate([start, targets[:, :-1]], axis=1), targets
