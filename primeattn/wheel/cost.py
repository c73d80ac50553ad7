"""Which wheel a pattern takes, and whether gathering costs less: a model of the GPU kernels.

Costs are in units of 2 picoseconds of an H200, fitted to the forward times in
``figures/data/gpu_wheels_nvidia_h200.json`` (``python -m primeattn.bench gpu-check wheels``): a unit is about
one instruction of a warp. Of its 18 shapes 14 get the fastest kernel and wheel for the forward, 16 for the
forward and backward; the others lose at most 16 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.wheel import tables

__all__ = ["HEAD_DIMS", "STORAGE", "WHEELS", "Division", "choose_wheel", "divide", "gather_cost"]

HEAD_DIMS, STORAGE = (64, 128), ("float16", "bfloat16")  # of the wheel kernels
WHEELS = (1, 2, 6, 30, 210, 16, 48, 144, 720)  # what is tried: for primes, for squares; 1 is natural order

STEP = {64: 420, 128: 450}  # by head_dim: a warp's 16 queries meet a tile of keys, 64 products of 16×16×8
MEET = 490  # they meet one key each; head_dim 64
SETUP = {64: 7700, 128: 19000}  # all that a warp does once
PAIR = 17  # the gather kernel, one query and one key; head_dim 64


class Division(NamedTuple):
    """Offsets beyond the window, divided, and what a head costs with them."""

    wheel: int
    singles: np.ndarray  # offsets that queries meet one by one: the window, and rare classes
    regrouped: np.ndarray  # offsets that tiles are made of
    tiles: int  # live tiles of 16 queries
    cost: float


def divide(pattern, n, wheel, head_dim=64) -> Division:
    """Divide the offsets of ``pattern`` below ``n`` by residue modulo ``wheel``.

    Classes of residues that cost less in tiles are regrouped; all other offsets are singles.
    """
    tiling = tables.tiling(head_dim)
    warps, rows = tiling.rows // 16, tables.class_length(n, wheel)
    offsets = pattern.offsets(n)
    window = min(pattern.window + 1, offsets.size)
    near, far = offsets[:window], offsets[window:]

    # Live tiles by class of distances. A block meets tile t if that begins at row 0 or later.
    t, live = tables.live_tiles(tables.attended(far, n, wheel), tiling)
    blocks = -(-rows // tiling.rows)
    meeting = np.maximum(blocks - np.maximum(-(-t * tiling.columns // tiling.rows), 0), 0)
    steps = live @ meeting  # of one class of queries, by a - b
    steps *= wheel - np.abs(np.arange(1 - wheel, wheel))
    by_residue = steps[wheel - 1 :].copy()
    by_residue[1:] += steps[: wheel - 1]

    meet = MEET * head_dim / 64 / 16
    one_by_one = np.bincount(far % wheel, n - far, minlength=wheel) * meet
    regroup = by_residue * warps * STEP[head_dim] < one_by_one
    chosen = regroup[far % wheel]
    singles = np.concatenate([near, far[~chosen]])
    global_tokens = min(pattern.global_tokens, n)
    cost = blocks * wheel * warps * SETUP[head_dim] + (global_tokens * n + (n - singles).sum()) * meet
    count = int(by_residue[regroup].sum()) * warps
    return Division(wheel, singles, far[chosen], count, float(cost + count * STEP[head_dim]))


def gather_cost(pattern, n, head_dim=64) -> float:
    """Cost of a head in the gather kernel."""
    return float(pattern.num_pairs(n)) * PAIR * head_dim / 64


def _rows_for_each(queries, wheel, head_dim) -> float:
    """Rows of the blocks that hold ``queries``, for each of these: blocks are computed as a whole."""
    rows = wheel * tables.tiling(head_dim).rows
    return -(-queries // rows) * rows / queries


@lru_cache(maxsize=256)
def choose_wheel(patterns, n, head_dim, queries=None, forced=False) -> int | None:
    """Return the wheel of least cost for heads with ``patterns``, or None where gathering costs less.

    Only the last ``queries`` of ``n`` positions are computed, by default all.
    """
    best, least = None, np.inf if forced else sum(gather_cost(pattern, n, head_dim) for pattern in patterns)
    for wheel in WHEELS:
        divisions = [divide(pattern, n, wheel, head_dim) for pattern in set(patterns)]
        cost = sum(
            division.cost * patterns.count(p) for division, p in zip(divisions, set(patterns), strict=True)
        )
        if queries is not None:
            cost *= _rows_for_each(queries, wheel, head_dim) / _rows_for_each(n, wheel, head_dim)
        if cost < least and (forced or any(division.tiles for division in divisions)):
            best, least = wheel, cost
    return best
