"""Which wheel a pattern takes, and whether gathering costs less: a model of the GPU kernels.

The two passes are judged apart. Costs are nanoseconds of an H200, fitted by
:func:`primeattn.bench.gpu_costs.fit_costs` to the times in ``figures/data/gpu_wheels_nvidia_h200.json``
(``python -m primeattn.bench gpu-check wheels``). Of its 18 shapes 15 get the fastest kernel and wheel for the
forward and all for the backward; the others lose at most 16 %. (Blocks of the backward of 64 had 128 rows
then.)
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.wheel import tables

__all__ = [
    "COSTS", "HEAD_DIMS", "PAIR", "STORAGE", "WHEELS",
    "Costs", "Division", "choose_wheel", "divide", "gather_cost",
]  # fmt: skip

HEAD_DIMS, STORAGE = (64, 128), ("float16", "bfloat16")  # of the wheel kernels
WHEELS = (1, 2, 6, 30, 210, 16, 48, 144, 720)  # what is tried: for primes, for squares; 1 is natural order


class Costs(NamedTuple):
    """What the wheel kernels do, in nanoseconds of the whole device."""

    step: float  # a warp's 16 queries meet a tile of keys
    meet: float  # a query meets a key that is in no tile
    setup: float  # all that a warp does once


COSTS = {  # by head_dim, and whether of the backward
    (64, False): Costs(0.868, 0.0645, 7.98),
    (64, True): Costs(2.81, 0.17, 33.1),
    (128, False): Costs(0.937, 0.129, 15.3),
    (128, True): Costs(3.84, 0.72, 32.2),
}
PAIR = {False: 0.0323, True: 0.0821}  # the gather kernel, one query and one key of 64 numbers


class Division(NamedTuple):
    """Offsets beyond the window, divided, and what a head costs with them."""

    wheel: int
    singles: np.ndarray  # offsets that queries meet one by one: the window, and rare classes
    regrouped: np.ndarray  # offsets that tiles are made of
    tiles: int  # live tiles of 16 queries
    met: int  # pairs that are met one by one
    warps: int
    cost: float


def divide(pattern, n, wheel, head_dim=64, backward=False) -> Division:
    """Divide the offsets of ``pattern`` below ``n`` by residue modulo ``wheel``.

    Classes of residues that cost less in tiles are regrouped; all other offsets are singles.
    """
    costs, tiling = COSTS[head_dim, backward], tables.tiling(head_dim, backward)
    warps, rows = tiling.rows // 16, tables.class_length(n, wheel)
    offsets = pattern.offsets(n)
    window = min(pattern.window + 1, offsets.size)
    near, far = offsets[:window], offsets[window:]

    # Live tiles by class of distances. A block meets tile t if that ends at row 0 or behind.
    t, live = tables.live_tiles(tables.attended(far, n, wheel), tiling)
    blocks = -(-rows // tiling.rows)
    first = np.maximum((t - 1) * tiling.columns // tiling.rows + 1, 0)  # of the blocks that meet it
    meeting = np.maximum(blocks - first, 0)
    steps = live @ meeting  # of one class of queries, by a - b
    steps *= wheel - np.abs(np.arange(1 - wheel, wheel))
    by_residue = steps[wheel - 1 :].copy()
    by_residue[1:] += steps[: wheel - 1]

    one_by_one = np.bincount(far % wheel, n - far, minlength=wheel) * costs.meet
    regroup = by_residue * warps * costs.step < one_by_one
    chosen = regroup[far % wheel]
    singles = np.concatenate([near, far[~chosen]])
    met = int(min(pattern.global_tokens, n) * n + (n - singles).sum())
    count = int(by_residue[regroup].sum()) * warps
    warps *= blocks * wheel
    cost = count * costs.step + met * costs.meet + warps * costs.setup
    return Division(wheel, singles, far[chosen], count, met, warps, float(cost))


def gather_cost(pattern, n, head_dim=64, backward=False) -> float:
    """Cost of a head in the gather kernel."""
    return pattern.num_pairs(n) * PAIR[backward] * head_dim / 64


def _rows_for_each(queries, wheel, tiling) -> float:
    """Rows of the blocks that hold ``queries``, for each of these: blocks are computed as a whole."""
    rows = wheel * tiling.rows
    return -(-queries // rows) * rows / queries


@lru_cache(maxsize=256)
def choose_wheel(patterns, n, head_dim, backward=False, queries=None, forced=False) -> int | None:
    """Return the wheel of least cost for heads with ``patterns``, or None where gathering costs less.

    It is for one pass. Only the last ``queries`` of ``n`` positions are computed, by default all.
    """
    counts = Counter(patterns)
    best, least = None, np.inf if forced else sum(gather_cost(p, n, head_dim, backward) for p in patterns)
    for wheel in WHEELS:
        divisions = {pattern: divide(pattern, n, wheel, head_dim, backward) for pattern in counts}
        cost = sum(divisions[pattern].cost * count for pattern, count in counts.items())
        if queries is not None:
            tiling = tables.tiling(head_dim, backward)
            cost *= _rows_for_each(queries, wheel, tiling) / _rows_for_each(n, wheel, tiling)
        if cost < least and (forced or any(division.tiles for division in divisions.values())):
            best, least = wheel, cost
    return best
