"""Plain addresses in compiled code."""

import numpy as np
from numba import njit

from primeattn.compiled.addresses import atomic_add


@njit
def _add(address, value):
    return atomic_add(address, value)


def test_atomic_add_returns_the_old_value():
    counter = np.array([40], np.int64)
    assert _add(counter.ctypes.data, 2) == 40
    assert counter[0] == 42
