"""float16 and bfloat16 in vectors: every number is read exactly, and written as the nearest one."""

import numba
import numpy as np
import pytest

from primeattn.compiled import halves

pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of NaN in casts and sums

ALL = np.arange(2**16, dtype=np.uint16)
ONE = np.float32(1)


def read(brain):
    """Return all numbers of 16 bits by their bits, in float32, from their definition."""
    if not brain:
        return ALL.view(np.float16).astype(np.float32)
    return (ALL.astype(np.uint32) << 16).view(np.float32)


@numba.njit
def convert(brain, reads, x, factor, y, n):
    if brain:
        if reads:
            halves.read_bfloat16(ONE, x, factor, y, n)
        else:
            halves.write_bfloat16(ONE, x, factor, y, n)
    elif reads:
        halves.read_float16(ONE, x, factor, y, n)
    else:
        halves.write_float16(ONE, x, factor, y, n)


def converted(brain, reads, x, factor=ONE):
    y = np.full(x.size + 1, 7, np.float32 if reads else np.uint16)
    convert(brain, reads, x.ctypes.data, np.float32(factor), y.ctypes.data, x.size)
    assert y[-1] == 7
    return y[:-1]


def nearest(brain, x):
    """Return the bits of the nearest numbers of 16 bits, of two the even ones, by a search among all."""
    positive = read(brain)[: 2**15].astype(np.float64)
    infinity = int(np.argmax(positive == np.inf))
    table = positive[: infinity + 1].copy()
    table[infinity] = 2 * table[infinity - 1] - table[infinity - 2]  # where the next number would be
    size = np.minimum(np.abs(x.astype(np.float64)), table[infinity])
    above = np.clip(np.searchsorted(table, size), 1, infinity)
    low, high = size - table[above - 1], table[above] - size
    even = above - above % 2  # of the two
    bits = np.where(low < high, above - 1, np.where(high < low, above, even))
    return bits.astype(np.uint16) | (np.signbit(x).astype(np.uint16) << 15)


@pytest.mark.parametrize("brain", [False, True], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("n", [2**16, 2**16 - 3, 5])
def test_every_number_is_read_exactly(brain, n):
    got, expected = converted(brain, True, ALL[-n:].copy()), read(brain)[-n:]
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(got[numbers].view(np.uint32), expected[numbers].view(np.uint32))
    assert np.isnan(got[~numbers]).all()
    got = converted(brain, True, ALL[-n:].copy(), factor=-0.3)
    np.testing.assert_array_equal(got, expected * np.float32(-0.3))


@pytest.mark.parametrize("brain", [False, True], ids=["float16", "bfloat16"])
def test_numbers_are_rounded_to_the_nearest_and_to_even(brain, rng):
    """Random bits, and all that lies at and beside each number and half the way to the next."""
    numbers = read(brain)
    middle = (numbers.astype(np.float64) + np.roll(numbers, -1)) / 2
    numbers = np.concatenate([numbers, middle[np.abs(middle) < 3e38].astype(np.float32)])
    x = np.concatenate([np.nextafter(numbers, d, dtype=np.float32) for d in (-np.inf, np.inf)] + [numbers])
    x = np.concatenate([x, rng.integers(2**32, size=200_001, dtype=np.uint32).view(np.float32)])
    x = np.concatenate([x, np.float32([65519.99, 65520, 65535.9, 65536, 3.3e38, 3.4e38, np.inf, -np.inf])])
    got, is_nan = converted(brain, False, x), np.isnan(x)
    np.testing.assert_array_equal(got[~is_nan], nearest(brain, x[~is_nan]))
    assert np.isnan(read(brain)[got[is_nan]]).all()
    x = x[np.abs(x) < 1e30]
    np.testing.assert_array_equal(converted(brain, False, x, factor=0.7), nearest(brain, x * np.float32(0.7)))
