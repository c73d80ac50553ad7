"""Searches in the tables of a launch."""

import numpy as np
import pytest
from emulator import emulated

from primeattn.kernels.gpu import tables


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 100])
def test_lower_bound_loads_only_where_there_is_something_to_find(count, monkeypatch):
    entries = np.sort(np.random.default_rng(count).integers(-50, 50, count))
    table = [None] * 5 + entries.tolist() + [None]
    with emulated(monkeypatch), monkeypatch.context() as patch:
        loads = []
        patch.setattr(tables, "entry", lambda address, i: loads.append(i) or table[i])
        for value in range(-60, 60):
            loads.clear()
            found = tables.lower_bound(0, 5, count, value)
            assert found == np.searchsorted(entries, value)
            most = 2 + int(np.ceil(np.log2(count + 1))) if count else 0
            assert len(loads) <= (min(count, 1) * 2 if found in (0, count) else most)
