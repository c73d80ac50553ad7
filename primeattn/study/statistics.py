"""Means with intervals, and what an interval says of a claim."""

from __future__ import annotations

import numpy as np

__all__ = ["interval", "verdict"]


def interval(values) -> dict:
    """Return n, mean, standard deviation and the 95 % interval of the mean by Student's t,

        mean ± t(n - 1) std / √n,    as {"n", "mean", "std", "low", "high"};

    None where there are too few values.

    Examples
    --------
    >>> from primeattn.study.statistics import interval
    >>> {name: round(value, 3) for name, value in interval([0.5, 0.6, 0.7]).items()}
    {'n': 3, 'mean': 0.6, 'std': 0.1, 'low': 0.352, 'high': 0.848}
    """
    from scipy.special import stdtrit

    values = np.asarray(values, float)
    n = values.size
    found = {"n": n, "mean": float(values.mean()) if n else None, "std": None, "low": None, "high": None}
    if n > 1:
        std = float(values.std(ddof=1))
        half = float(stdtrit(n - 1, 0.975)) * std / n**0.5
        found |= {"std": std, "low": found["mean"] - half, "high": found["mean"] + half}
    return found


def verdict(found) -> str:
    """Return what the interval of a difference says of the claim that it is above 0.

    Fewer than three values leave it undecided: two are near each other by chance too often.

    Examples
    --------
    >>> from primeattn.study.statistics import interval, verdict
    >>> [verdict(interval(some)) for some in ([1, 2, 2], [-1, 2, 2], [-1, -2, -2], [1, 1])]
    ['supported', 'undecided', 'not supported', 'undecided']
    """
    if found["n"] < 3 or found["low"] <= 0 <= found["high"]:
        return "undecided"
    return "supported" if found["low"] > 0 else "not supported"
