"""Which kernel the GPU runs: "gather" or "wheel", and modulo what, by a model of what each costs.

Costs are in units of 2 picoseconds of an H200, fitted to the forward times in
``figures/data/gpu_wheels_nvidia_h200.json`` (``python -m primeattn.bench gpu-check wheels``): a unit is about
one instruction of a warp. Of its 18 shapes 14 get the fastest kernel and wheel for the forward, 16 for the
forward and backward; the others lose at most 16 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.kernels import wheel as tables
from primeattn.patterns import Pattern
from primeattn.sequences import as_int

__all__ = ["HEAD_DIMS", "WHEELS", "Division", "KernelChoice", "choose_wheel", "divide", "explain_kernel"]

HEAD_DIMS, STORAGE = (64, 128), ("float16", "bfloat16")  # of the wheel kernels
DTYPES = (*STORAGE, "float32", "float64")
WHEELS = (1, 2, 6, 30, 210, 16, 48, 144, 720)  # what is tried: for primes, for squares; 1 is natural order

STEP = {64: 420, 128: 450}  # by head_dim: a warp's 16 queries meet a tile of keys, 64 products of 16×16×8
MEET = 490  # they meet one key each; head_dim 64
SETUP = {64: 7700, 128: 19000}  # all that a warp does once
PAIR = 17  # the gather kernel, one query and one key; head_dim 64
RATE = 5e11  # units a second; only for display
_MOST = 2**24  # tokens: what is met is counted in tables as long as the sequence


class Division(NamedTuple):
    """Offsets beyond the window, divided, and what a head costs with them."""

    wheel: int
    met: np.ndarray  # offsets that queries meet one by one: the window, and classes that are rare
    regrouped: np.ndarray  # offsets that tiles are made of
    tiles: int  # live tiles of 16 queries
    cost: float


def divide(pattern, n, wheel, head_dim=64) -> Division:
    """Divide the offsets of ``pattern`` below ``n`` by residue modulo ``wheel``.

    Classes of residues that cost less in tiles are regrouped; all else is met one by one.
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
    met = np.concatenate([near, far[~chosen]])
    columns = min(pattern.global_tokens, n)
    cost = blocks * wheel * warps * SETUP[head_dim] + (columns * n + (n - met).sum()) * meet
    count = int(by_residue[regroup].sum()) * warps
    return Division(wheel, met, far[chosen], count, float(cost + count * STEP[head_dim]))


def gather_cost(pattern, n, head_dim=64) -> float:
    """Cost of a head in the gather kernel."""
    return float(pattern.num_pairs(n)) * PAIR * head_dim / 64


@lru_cache(maxsize=256)
def choose_wheel(patterns, n, head_dim, forced=False) -> int | None:
    """Return the wheel of least cost for heads with ``patterns``, or None where gathering costs less."""
    best, least = None, np.inf if forced else sum(gather_cost(pattern, n, head_dim) for pattern in patterns)
    for wheel in WHEELS:
        divisions = [divide(pattern, n, wheel, head_dim) for pattern in set(patterns)]
        cost = sum(
            division.cost * patterns.count(p) for division, p in zip(divisions, set(patterns), strict=True)
        )
        if cost < least and (forced or any(division.tiles for division in divisions)):
            best, least = wheel, cost
    return best


class KernelChoice(NamedTuple):
    """What the GPU would run, why, and what was compared; ``str()`` is text."""

    kernel: str  # "gather" or "wheel"
    wheel: int | None
    reason: str
    table: list  # a ``primeattn.analysis.Table``: for each kernel and wheel, what it meets and costs

    def __str__(self):
        return f"{self.reason}\n{self.table}"


def explain_kernel(pattern, n, head_dim=64, dtype="bfloat16") -> KernelChoice:
    """Compare what the GPU kernels cost for one head on one sequence of length ``n``, forward.

    A model fitted to times on an H200. ``kernel=None`` of :func:`primeattn.sparse_index_kernel` decides by
    it.

    Parameters
    ----------
    pattern : Pattern
    n : int
    head_dim : int
    dtype : {"bfloat16", "float16", "float32", "float64"}
        Of storage.

    Returns
    -------
    KernelChoice
        ``table`` has a row for each kernel and wheel: live tiles of 16 queries, pairs that are met one by
        one, units of cost, and the milliseconds that these take on an H200.

    Raises
    ------
    TypeError, ValueError
        For arguments of another kind.

    Examples
    --------
    >>> import primeattn as pa
    >>> choice = pa.kernels.explain_kernel(pa.Pattern("primes", window=5), 16384)
    >>> choice.kernel, choice.wheel
    ('wheel', 6)
    """
    from primeattn.analysis.table import Table  # which calls of kernels need not wait for

    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a Pattern, got {pattern!r}")
    n, head_dim = as_int("n", n, minimum=1, maximum=_MOST), as_int("head_dim", head_dim, minimum=1)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    gather = gather_cost(pattern, n, head_dim)
    table = Table([_row("gather", None, 0, pattern.num_pairs(n), gather)])
    if dtype not in STORAGE or head_dim not in HEAD_DIMS:
        served = f"{' and '.join(STORAGE)} with head_dim {' and '.join(map(str, HEAD_DIMS))}"
        reason = f"gather: the wheel kernel serves {served}, not {dtype} with {head_dim}"
        return KernelChoice("gather", None, reason, table)
    for wheel in WHEELS:
        division = divide(pattern, n, wheel, head_dim)
        met = (n - division.met).sum() + min(pattern.global_tokens, n) * n
        table.append(_row("wheel", wheel, division.tiles, int(met), division.cost))
    best = choose_wheel((pattern,), n, head_dim)
    if best is None:
        return KernelChoice("gather", None, "gather: no wheel is predicted to cost less", table)
    times = gather / divide(pattern, n, best, head_dim).cost
    return KernelChoice("wheel", best, f"wheel {best}: predicted {times:.3g} times faster than gather", table)


def _row(kernel, wheel, tiles, met, cost):
    milliseconds = 1e3 * cost / RATE
    row = {"kernel": kernel, "wheel": wheel, "tiles": tiles, "met": met, "instructions": round(cost)}
    return row | {"milliseconds": milliseconds}
