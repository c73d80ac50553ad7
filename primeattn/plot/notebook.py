"""The picture that a notebook shows of a pattern."""

from __future__ import annotations

from io import BytesIO

from primeattn.plot.masks import mask

__all__ = ["png"]

TOKENS = 64


def png(pattern) -> bytes | None:
    """Return the mask as a PNG image; None if a finite table is too short for it."""
    try:
        ax = mask(pattern, TOKENS)
    except ValueError:
        return None
    file = BytesIO()
    ax.figure.savefig(file, format="png")
    return file.getvalue()
