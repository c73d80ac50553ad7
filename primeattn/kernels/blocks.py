"""Runs of rows, cut into blocks."""

from __future__ import annotations

import numpy as np

__all__ = ["cut"]


def cut(counts, size, at_least=0):
    """Cut runs of ``counts`` rows into blocks of at most ``size``: run, start and length of each.

    Every run has ``at_least`` so many blocks, of no rows where it has none.

    Examples
    --------
    >>> run, start, length = cut(np.array([5, 0, 2]), 3)
    >>> run, start, length
    (array([0, 0, 2]), array([0, 3, 0]), array([3, 2, 2]))
    """
    blocks = np.maximum(-(-counts // size), at_least)
    run = np.repeat(np.arange(counts.size), blocks)
    start = (np.arange(run.size) - np.repeat(np.cumsum(blocks) - blocks, blocks)) * size
    return run, start, np.minimum(counts[run] - start, size)
