"""Reproducible chance: random bits as a function of a seed and an integer."""

from __future__ import annotations

import numpy as np

from primeattn.checks import as_int, is_real

__all__ = ["as_probability", "as_seed", "key_bits", "random_bits", "uniform"]

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


def as_seed(seed) -> int:
    """Return ``seed`` as a Python int in [0, 2**64)."""
    seed = as_int("seed", seed, minimum=0)
    if seed > _MASK:
        raise ValueError(f"seed: expected an integer below 2**64, got {seed}")
    return seed


def as_probability(name, value) -> float:
    """Return ``value`` as a float in (0, 1]."""
    if not is_real(value):
        raise TypeError(f"{name}: expected a number in (0, 1], got {value!r}")
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected a number in (0, 1], got {value}")
    return float(value)


def random_bits(values, *key) -> np.ndarray:
    """Return 64 random bits for each of the int64 ``values``, by SplitMix64 with a start made from ``key``.

    (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.)
    """
    return _mix(key_bits(*key) + np.asarray(values).astype(np.uint64) * np.uint64(_STEP))


def key_bits(*key) -> np.ndarray:
    """Return 64 random bits made from integers, or from arrays of them that broadcast; at least one axis."""
    bits = np.zeros(1, np.uint64)
    for part in key:
        part = np.uint64(part & _MASK) if isinstance(part, int) else np.asarray(part).astype(np.uint64)
        bits = _mix(bits + part + np.uint64(_STEP))
    return bits


def uniform(values, *key) -> np.ndarray:
    """Return a random number in [0, 1) for each of the int64 ``values``."""
    return (random_bits(values, *key) >> np.uint64(11)) * 2.0**-53


def _mix(bits):
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
