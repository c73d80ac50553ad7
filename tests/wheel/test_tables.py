"""Tables of the wheel against the mask they stand for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.wheel import tables


def mask_of(offsets, n, modulus, tiling, of_keys):
    """How often each pair is met, by walking along the tables as the kernels do."""
    has = tables.attended(offsets, n, modulus)
    words = tables.bitmask_words(n, modulus, tiling)
    bitmasks = tables.bitmasks(has, words).reshape(-1)
    steps = tables.steps(has, words, tiling, of_keys)
    bits = np.unpackbits(bitmasks.view(np.uint8), bitorder="little")
    rows, columns = tiling
    met = np.zeros((n, n), int)
    for residue, first in tables.tiles(0, n, modulus, rows).tolist():
        begin, origin = steps.begins[residue], first * modulus
        for step in steps.packed[begin : begin + steps.counts[residue]].tolist():
            at, bit = step >> 32, step & 0xFFFFFFFF
            start = origin + at if of_keys else origin - at
            if start + (columns - 1) * modulus < 0 or start >= n:
                continue
            for row in range(rows):
                for column in range(columns):
                    own, other = residue + (first + row) * modulus, start + column * modulus
                    if own < n and 0 <= other < n:
                        shift = tables.GUARD % 32 - row + column if of_keys else row + columns - 1 - column
                        query, key = (other, own) if of_keys else (own, other)
                        met[query, key] += bits[bit + shift]
    return met


@pytest.mark.slow
@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    offsets=some.sets(some.integers(1, 70), min_size=1, max_size=30),
    n=some.integers(71, 90),
    modulus=some.sampled_from([1, 2, 3, 6, 30, 77]),
    tiling=some.sampled_from([(32, 32), (64, 32), (64, 64), (48, 32), (96, 64)]),
    of_keys=some.booleans(),
)
def test_steps_and_strings_are_the_mask(offsets, n, modulus, tiling, of_keys):
    offsets = np.array(sorted(offsets))
    met = mask_of(offsets, n, modulus, tables.Tiling(*tiling), of_keys)
    query, key = np.indices((n, n))
    assert np.array_equal(met, np.isin(query - key, offsets))


@pytest.mark.parametrize("of_keys", [False, True])
def test_only_live_tiles_are_met(of_keys):
    """Odd offsets: queries of each parity meet keys of the other, and no further than the mask reaches."""
    has = tables.attended(np.arange(1, 50, 2), 400, 2)
    tiling = tables.Tiling(32, 32)
    steps = tables.steps(has, tables.bitmask_words(400, 2, tiling), tiling, of_keys)
    at = steps.packed >> 32
    assert steps.counts.tolist() == [2, 2]  # rows up to 25 apart: the tile of the block, and one more
    assert at.tolist() == ([1, 65, 0, 64] if of_keys else [-1, 63, 0, 64])


def test_blocks_hold_all_positions_of_a_range_once():
    for first, end, modulus, rows in ((0, 100, 6, 16), (37, 90, 6, 4), (5, 6, 1, 32), (0, 3, 30, 16)):
        found = [
            position
            for residue, row in tables.tiles(first, end, modulus, rows).tolist()
            for position in residue + (row + np.arange(rows)) * modulus
            if first <= position < end
        ]
        assert sorted(found) == list(range(first, end))
