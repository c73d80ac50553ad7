from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.sequences import complement, wythoff_lower, wythoff_upper
from primeattn.sequences.beatty import _floor_golden


def floor_golden(k):
    return (k + isqrt(5 * k * k)) // 2


@settings(deadline=None, max_examples=300, derandomize=True)
@given(k=some.integers(1, 1_358_187_913))  # 5 k² < 2**63
def test_floor_of_large_multiples(k):
    assert _floor_golden(np.array([k]))[0] == floor_golden(k)


@pytest.mark.parametrize("index", range(40, 44))
def test_floor_where_it_is_close(index):
    """k φ is nearest to an integer where k is a Fibonacci number."""
    a, b = 1, 1
    for _ in range(index - 2):
        a, b = b, a + b
    near = range(b - 3, b + 4)
    assert _floor_golden(np.array(near)).tolist() == [floor_golden(k) for k in near]


def test_upper_is_the_complement_of_lower():
    np.testing.assert_array_equal(complement(wythoff_lower)(10**5), wythoff_upper(10**5))
