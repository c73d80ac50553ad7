"""Which pairs dropout drops: the part of the hash that is the same for all pairs of a sequence and head."""

from __future__ import annotations

import numpy as np

__all__ = ["drop_keys", "drop_limit"]


def drop_keys(seed, numbers, heads) -> np.ndarray:
    """Two numbers of 32 bits for each sequence, by its number, and query head: (sequences, heads, 2).

    Examples
    --------
    >>> drop_keys(0, [0, 1], 3).shape
    (2, 3, 2)
    """
    key = _mixed(np.array([seed], np.uint64))
    key = _mixed(key + np.asarray(numbers, np.uint64))
    key = _mixed(key[:, None] + np.arange(heads, dtype=np.uint64))
    low = np.uint64(2**32 - 1)
    return np.stack([key & low, key >> np.uint64(32)], -1).astype(np.int64)


def drop_limit(dropout) -> int:
    """A pair is dropped if its hash, of 32 bits, is below this.

    Examples
    --------
    >>> drop_limit(0.25) == 2**30
    True
    """
    return min(round(dropout * 2**32), 2**32 - 1)


def _mixed(x):
    """The step and the mixer of SplitMix64 (Steele et al. 2014)."""
    u = np.uint64
    x = x + u(0x9E3779B97F4A7C15)
    x = (x ^ x >> u(30)) * u(0xBF58476D1CE4E5B9)
    x = (x ^ x >> u(27)) * u(0x94D049BB133111EB)
    return x ^ x >> u(31)
