import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.sequences import cubes, kth_powers, powers, smooth, squares
from primeattn.sequences.polynomial import int_root


@settings(deadline=None, derandomize=True)
@given(x=some.integers(0, 2**63 - 1), k=some.integers(2, 62))
def test_integer_root(x, k):
    root = int_root(x, k)
    assert type(root) is int and root**k <= x < (root + 1) ** k


@pytest.mark.parametrize("k", range(2, 63))
def test_integer_root_at_powers(k):
    base = int_root(2**63 - 1, k)
    assert int_root(base**k, k) == base and int_root(base**k - 1, k) == base - 1


def test_one_name_for_one_sequence():
    assert kth_powers(2) is squares and kth_powers(3) is cubes and smooth(2) is powers(2)


def test_exponents():
    assert kth_powers(4)(10**4).tolist() == [n**4 for n in range(1, 11)]
    assert kth_powers(k=np.int64(62))(2**62).tolist() == [1, 2**62]
    with pytest.raises(ValueError, match="k: expected an integer >= 2, got 1"):
        kth_powers(1)
    with pytest.raises(TypeError, match="k: expected an integer"):
        kth_powers(True)
