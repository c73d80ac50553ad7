"""Tables of the wheel: which tiles of regrouped queries and keys are live, and which of their pairs.

Positions count from the first key. Row u of class a is position a + u * wheel. Query row u of class a and key
row s of class b are (a - b) + (u - s) * wheel apart, so that the mask of a tile depends on u - s alone: it is
a window of the *bitmask* of a - b, whose bit x says whether the distance (a - b) + x * wheel is attended. A
tile is live if there is a bit in its window. No offset is too irregular for this; a wheel pays where most
classes of distances, as the even ones among primes, have no bit at all.

A block has ``rows`` rows of one class and meets tiles of ``columns`` rows. Each live tile is a *step*: where
it begins and where its window lies, both relative to the block, and so alike for all blocks of a class. They
are packed into an integer, ``at << 32 | bit``, and sorted:

- of queries: the tile of keys begins at position ``first * wheel - at``;
- of keys: the tile of queries begins at position ``first * wheel + at``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "GUARD", "ONE_WARP", "TILINGS", "Steps", "Tiling",
    "bitmasks", "live_tiles", "steps", "tiles", "tiling",
]  # fmt: skip

WORD = 32
ONE_WARP = 64  # widest rows of which one warp has registers for the backward
GUARD = 159  # bits of a bitmask before distance 0: windows begin before it; one less than whole words


class Tiling(NamedTuple):
    """Rows of a block, rows of the tiles that it meets."""

    rows: int
    columns: int


class Steps(NamedTuple):
    """Steps of all classes in one array; those of class a are the ``counts[a]`` from ``begins[a]`` on."""

    begins: np.ndarray
    counts: np.ndarray
    packed: np.ndarray


# By whether rows are wider than ONE_WARP, and whether of the backward: what is used comes first, and then
# what ``python -m primeattn.bench.gpu_stages tilings`` compares it with. Two pairs of tiles fill less than
# 48 KiB of shared memory.
#
# At the registers that the kernels need, a multiprocessor has 16 warps in the forward of narrow rows and 12
# elsewhere (``primeattn.kernels.gpu.occupancy``). Blocks of 8 warps leave 4 of the 12 unused, and nothing to
# do while one waits at a barrier; those of 6 fill it, and copy a third more. In the backward of narrow rows
# that is 1.9 TB/s on an H200 if nothing gets faster, less than half of what it copies. In the forward of wide
# rows it would be 2.9 TB/s, and 3.8 if all gets a third faster: there, only a measurement can tell.
TILINGS = {
    (False, False): (Tiling(128, 64), Tiling(64, 64)),
    (False, True): (Tiling(96, 64), Tiling(128, 64), Tiling(64, 64)),
    (True, False): (Tiling(128, 32), Tiling(96, 32), Tiling(64, 32)),
    (True, True): (Tiling(96, 32), Tiling(48, 32), Tiling(32, 32)),
}


def tiling(head_dim, backward=False) -> Tiling:
    """Tiling in use for rows of ``head_dim``."""
    return TILINGS[head_dim > ONE_WARP, backward][0]


def class_length(n, wheel) -> int:
    """Rows of the largest class."""
    return -(-n // wheel)


def attended(offsets, n, wheel) -> np.ndarray:
    """bool (2 wheel - 1, rows): [a - b + wheel - 1, x] is whether (a - b) + x * wheel is one of ``offsets``.

    Examples
    --------
    >>> attended(np.array([1, 3, 4]), 6, 2).astype(int)  # odd offsets from class 0, even ones, from class 1
    array([[0, 1, 1],
           [0, 0, 1],
           [1, 1, 0]])
    """
    has = np.zeros((2 * wheel - 1, class_length(n, wheel) + 1), bool)
    x, residue = np.divmod(offsets, wheel)
    has[residue + wheel - 1, x] = True
    below = residue > 0  # a < b
    has[residue[below] - 1, x[below] + 1] = True
    return has[:, :-1]


def live_tiles(has, tiling, of_keys=False) -> tuple[np.ndarray, np.ndarray]:
    """Numbers t of tiles, and bool (2 wheel - 1, tiles): whether they are live.

    Tile t of a block of queries from row ``first`` on begins at row ``first - t * columns``, that of a block
    of keys at ``first + t * columns``.
    """
    rows, columns = tiling
    before, after = (rows - 1, columns - 1) if of_keys else (columns - 1, rows - 1)
    beside = -(-rows // columns)  # tiles as long as the block
    t = np.arange(0 if of_keys else 1 - beside, -(-has.shape[1] // columns) + beside)
    sums = np.concatenate([np.zeros((len(has), 1), np.int64), np.cumsum(has, axis=1)], axis=1)
    low = np.clip(t * columns - before, 0, has.shape[1])
    high = np.clip(t * columns + after + 1, 0, has.shape[1])
    return t, sums[:, high] > sums[:, low]


def bitmask_words(n, wheel, tiling) -> int:
    """Words of a bitmask: windows reach beyond the last distance."""
    return -(-(GUARD + class_length(n, wheel) + 2 * tiling.rows + 2 * tiling.columns) // WORD) + 4


def bitmasks(has, words) -> np.ndarray:
    """uint32 (2 wheel - 1, words): bit x of a bitmask is bit GUARD + x from its first word on."""
    bits = np.zeros((len(has), words * WORD), bool)
    bits[:, GUARD : GUARD + has.shape[1]] = has
    return np.packbits(bits, axis=1, bitorder="little").view("<u4")


def steps(has, words, tiling, of_keys=False) -> Steps:
    """Steps of each class of queries, or of keys; ``words`` is the length of a bitmask."""
    wheel = (len(has) + 1) // 2
    t, live = live_tiles(has, tiling, of_keys)
    bit = t * tiling.columns + GUARD - (WORD - 1 if of_keys else tiling.columns - 1)
    packed = []
    for residue in range(wheel):
        others = np.arange(wheel)
        difference = (others - residue if of_keys else residue - others) + wheel - 1
        other, tile = np.nonzero(live[difference])
        at = t[tile] * tiling.columns * wheel + (other if of_keys else -other)
        packed.append(np.sort((at << 32) + difference[other] * words * WORD + bit[tile]))
    counts = np.array([part.size for part in packed])
    return Steps(np.cumsum(counts) - counts, counts, np.concatenate(packed))


def tiles(first, end, wheel, rows) -> np.ndarray:
    """Blocks that hold the positions ``first`` to ``end``: (class, first row), late ones last."""
    last = -(-end // wheel)
    row, residue = np.meshgrid(
        np.arange(first // wheel // rows * rows, last, rows), np.arange(wheel), indexing="ij"
    )
    residue, row = residue.reshape(-1), row.reshape(-1)
    used = (residue + row * wheel < end) & (residue + (row + rows - 1) * wheel >= first)
    return np.stack([residue[used], row[used]], axis=1)
