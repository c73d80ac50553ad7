import threading

import numpy as np
import pytest

from primeattn.forks import PerProcess


@pytest.fixture(scope="session")
def fresh():
    """Function that returns an equal sequence that knows no term yet."""

    def fresh(sequence):
        clone = object.__new__(type(sequence))
        vars(clone).update(
            vars(sequence), _known=(np.empty(0, np.int64), 0), _lock=PerProcess(threading.RLock)
        )
        return clone

    return fresh
