import signal
from functools import lru_cache

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels.cpu import plan

collect_ignore = ["users.py"]  # for tools that read types; it is never run


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def threads():
    """Set the number of threads; it is put back."""
    before = pa.get_num_threads()
    yield pa.set_num_threads
    pa.set_num_threads(before)


@pytest.fixture
def one_head_at_a_time(monkeypatch):
    """Compile the kernels of one head alone, which most tests need."""
    monkeypatch.setattr(plan, "VECTOR", 32)
    for cached in ("_make_plans", "_plans_of_step"):
        monkeypatch.setattr(plan, cached, lru_cache(getattr(plan, cached).__wrapped__))


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, in child processes too, even where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
