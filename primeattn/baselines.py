"""What a model of bytes must beat: count models with back-off, and two common compressors."""

from __future__ import annotations

import bz2
import gzip
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from primeattn.typing import Array

__all__ = ["CountModel", "baselines"]


class CountModel:
    """Byte counts after each context of up to ``order`` bytes, interpolated by Witten and Bell's rule.

    With C(h, c) the count of byte c after context h, C(h) its sum over c, and T(h) the number of different
    bytes seen after h,

        P(c | h) = (C(h, c) + T(h) P(c | h')) / (C(h) + T(h)),

    where h' is h without its oldest byte, and P(c | h') = 1/256 if h is empty. If h was never seen, P(c | h)
    is P(c | h').

    Source: I. H. Witten, T. C. Bell, "The zero-frequency problem", IEEE Trans. Inf. Theory 37 (1991), method
    C, in the interpolated form of S. F. Chen, J. Goodman, "An empirical study of smoothing techniques for
    language modeling" (1998), section 2.6.

    Parameters
    ----------
    text : ndarray of uint8, shape (size,)
        The training text.
    order : int
        Length of the longest context, 0 to 3.

    See Also
    --------
    baselines : Its bits per byte, and those of compressors.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> text = np.frombuffer(b"abracadabra" * 20, np.uint8)
    >>> model = pa.baselines.CountModel(text, order=2)
    >>> bool(abs(model.distribution(b"ab").sum() - 1) < 1e-12)
    True
    >>> chr(model.distribution(b"ab").argmax())
    'r'
    """

    def __init__(self, text: Array, order: int) -> None:
        if isinstance(order, bool) or order not in range(4):
            raise ValueError(f"order: expected an integer from 0 to 3, got {order!r}")
        self.order = int(order)
        self._tables = [_count(text, length) for length in range(self.order + 1)]

    def bits(self, text: Array, order: int | None = None) -> Array:
        """Return -log2 P of each byte of ``text`` given those before it, float64 of shape (size,).

        The text is taken to follow newlines, so its first bytes are scored like all others. A smaller
        ``order`` leaves the longer contexts out.
        """
        order = self.order if order is None else order
        padded = np.concatenate([np.full(order, ord("\n"), np.uint8), text])
        return -np.log2(
            self._probabilities([_grams(padded[order - length :], length) for length in range(order + 1)])
        )

    def distribution(self, history: Any) -> np.ndarray:
        """Return P of each of the 256 bytes after the last ``order`` bytes of ``history``."""
        if len(history) < self.order:
            raise ValueError(f"history: expected at least {self.order} bytes, got {len(history)}")
        byte = np.arange(256, dtype=np.uint32)
        contexts = [
            int.from_bytes(history[len(history) - length :], "big") for length in range(self.order + 1)
        ]
        return self._probabilities([np.uint32(context << 8) + byte for context in contexts])

    def _probabilities(self, grams_of_length):
        p = 1 / 256
        for (grams, counts, contexts, totals, kinds), asked in zip(
            self._tables, grams_of_length, strict=False
        ):
            total, kind = _look_up(contexts, (totals, kinds), asked >> np.uint32(8))
            (count,) = _look_up(grams, (counts,), asked)
            p = np.where(total > 0, (count + kind * p) / np.maximum(total + kind, 1), p)
        return p


def _grams(text, length) -> np.ndarray:
    """Return each run of ``length`` + 1 bytes as one uint32: context << 8 | byte."""
    size = text.size - length
    grams = np.zeros(max(size, 0), np.uint32)
    for i in range(length + 1):
        grams <<= np.uint32(8)
        grams |= text[i : i + size]
    return grams


def _count(text, length):
    """Return sorted grams with counts, and sorted contexts with their totals and numbers of successors."""
    grams, counts = np.unique(_grams(text, length), return_counts=True)
    contexts, first, kinds = np.unique(grams >> np.uint32(8), return_index=True, return_counts=True)
    return grams, counts, contexts, np.add.reduceat(counts, first) if counts.size else counts, kinds


def _look_up(keys, columns, asked):
    """Return each column's entries at ``asked``, 0 if ``keys`` (sorted) lacks it."""
    if keys.size == 0:
        return [np.zeros(asked.shape, np.int64) for _ in columns]
    place = np.minimum(np.searchsorted(keys, asked), keys.size - 1)
    found = keys[place] == asked
    return [np.where(found, column[place], 0) for column in columns]


def baselines(train: Array, heldout: Array) -> dict[str, float]:
    """Return bits per byte of ``heldout`` under the baselines, every byte scored once.

    ``order2_bits_per_byte`` and ``order3_bits_per_byte`` are count models of ``train``.
    ``gzip_bits_per_byte`` and ``bz2_bits_per_byte`` compress the held-out bytes on their own, at level 9,
    headers included: they learn from nothing but the text itself.

    Parameters
    ----------
    train, heldout : ndarray of uint8
        What is learned from, and what is scored.

    Returns
    -------
    dict of str to float
        Bits per byte, by the names above.

    See Also
    --------
    CountModel : The counts behind two of them.
    primeattn.language_model.evaluate : The same of a model.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> text = np.frombuffer(b"to be or not to be, that is the question " * 50, np.uint8)
    >>> bits = pa.baselines.baselines(text, text[:500])
    >>> bits["order3_bits_per_byte"] < bits["order2_bits_per_byte"] < 1
    True
    """
    model, content = CountModel(train, order=3), heldout.tobytes()
    return {
        "order2_bits_per_byte": float(model.bits(heldout, order=2).mean()),
        "order3_bits_per_byte": float(model.bits(heldout).mean()),
        "gzip_bits_per_byte": 8 * len(gzip.compress(content, 9)) / len(content),
        "bz2_bits_per_byte": 8 * len(bz2.compress(content, 9)) / len(content),
    }
