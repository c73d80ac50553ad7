"""Workspaces hand arrays out until they are reset."""

import copy
import pickle
import threading

import numpy as np
import pytest

from primeattn.workspace import Workspace


def test_arrays_are_distinct_until_reset_and_then_come_back():
    ws = Workspace()
    first = [ws.take((4, 3), np.float32) for _ in range(3)]
    assert len({a.ctypes.data for a in first}) == 3
    ws.reset()
    assert [ws.take((4, 3), np.float32).ctypes.data for _ in range(3)] == [a.ctypes.data for a in first]
    assert ws.take((4, 3), np.float64).dtype == np.float64


def test_what_a_step_did_not_use_is_released():
    ws = Workspace()
    ws.take((1000,), np.float64)
    ws.reset()
    assert ws.nbytes == 8000
    ws.take((10,), np.float64)
    ws.reset()
    assert ws.nbytes == 80


def test_scratch_is_kept_and_grows():
    ws = Workspace()
    a = ws.scratch("kernels", 100)
    assert ws.scratch("kernels", 50) is a
    assert ws.scratch("kernels", 200).nbytes >= 200
    assert ws.scratch("other", 10) is not a


def test_generation_counts_resets():
    ws = Workspace()
    ws.reset()
    ws.reset()
    assert ws.generation == 2
    assert "generation 2" in repr(ws)


def test_another_thread_is_refused_while_held():
    ws, errors = Workspace(), []

    def take():
        try:
            ws.take((2,), np.float32)
        except RuntimeError as error:
            errors.append(str(error))

    with ws.guard():
        ws.take((2,), np.float32)  # the holder may go on
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert errors == ["workspace: in use by another thread; give each thread its own Workspace"]
    take()
    assert len(errors) == 1


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_shapes_without_size(shape):
    assert Workspace().take(shape, np.float32).shape == shape


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda ws: pickle.loads(pickle.dumps(ws))])
def test_a_copy_is_a_fresh_workspace(again):
    ws = Workspace()
    taken = ws.take((4,), np.float64)
    with ws.guard():
        other = again(ws)
    assert type(other) is Workspace and other.nbytes == 0 and other.generation == 0
    assert other.take((4,), np.float64) is not taken
