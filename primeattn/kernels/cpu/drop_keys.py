"""Which pairs dropout drops: the part of the hash that is the same for all pairs of a sequence and head."""

from __future__ import annotations

import numpy as np

from primeattn.sequences.chance import key_bits

__all__ = ["drop_keys", "drop_limit", "signed_seed"]


def drop_keys(seed, numbers, heads) -> np.ndarray:
    """Two numbers of 32 bits for each sequence, by its number, and query head: (sequences, heads, 2).

    Examples
    --------
    >>> drop_keys(0, [0, 1], 3).shape
    (2, 3, 2)
    """
    key = key_bits(seed, np.asarray(numbers)[:, None], np.arange(heads))
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


def signed_seed(seed) -> int:
    """Return the int64 with the bits of a seed below 2**64: kernels of the GPU mix it themselves.

    Examples
    --------
    >>> signed_seed(2**64 - 1), signed_seed(7)
    (-1, 7)
    """
    return seed - (seed >> 63 << 64)
