"""Calls that repeat with arrays of a GPU, on the emulator: nothing is checked or planned twice."""

import numpy as np
import pytest
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.kernels import api, reference
from primeattn.kernels.gpu import launch_cache

PATTERN = pa.Pattern("primes", window=1, global_tokens=1)
SHAPE = 1, 2, 12, 8


@pytest.fixture
def machine(monkeypatch):
    with emulated(monkeypatch, wide=32, narrow=32) as machine:
        yield machine


@pytest.fixture
def arrays(machine, rng):
    """Of a forward."""
    q, k, v = (DeviceArray(machine, a) for a in rng.standard_normal((3, *SHAPE)).astype(np.float32))
    out, lse = np.zeros(SHAPE, np.float32), np.zeros(SHAPE[:3], np.float32)
    return {"out": DeviceArray(machine, out), "lse": DeviceArray(machine, lse), "q": q, "k": k, "v": v}


@pytest.fixture
def checks(monkeypatch):
    """Number of calls that were checked and planned, in a list."""
    count = [0]

    def counting(*arguments):
        count[0] += 1
        return locate(*arguments)

    locate = api.locate
    monkeypatch.setattr(api, "locate", counting)
    return count


def test_a_repeated_forward_and_backward_are_launched_with_the_arrays_at_hand(machine, checks, rng):
    workspace = pa.Workspace()
    for times in (1, 2):
        q, k, v, dout = rng.standard_normal((4, *SHAPE)).astype(np.float32)
        out, lse, grads = np.zeros_like(q), np.zeros(SHAPE[:3], np.float32), np.zeros((3, *SHAPE), np.float32)
        dlse = rng.standard_normal(SHAPE[:3]).astype(np.float32)
        given = [DeviceArray(machine, a) for a in (out, lse, q, k, v)]
        rest = [DeviceArray(machine, a) for a in (*grads, dout, q, k, v, out, lse)]
        returned = pa.sparse_index_kernel(*given, PATTERN, workspace=workspace)
        options = {"dlse": DeviceArray(machine, dlse), "workspace": workspace}
        assert pa.sparse_index_kernel_backward(*rest, PATTERN, **options) == tuple(rest[:3])
        assert returned == tuple(given[:2]) and checks[0] == 2 and len(machine.launches) == 3 * times
        wanted = reference.forward(q, k, v, PATTERN)
        np.testing.assert_allclose(out, wanted[0], atol=2e-6)
        np.testing.assert_allclose(lse, wanted[1], atol=2e-6)
        wanted = reference.backward(dout, q, k, v, *wanted, PATTERN, dlse=dlse)
        np.testing.assert_allclose(grads, wanted, atol=5e-6)


def test_scratch_of_repeated_backwards_outlives_their_launches(machine, arrays, rng):
    """Without a workspace too; the emulator frees what nobody holds and refuses later accesses."""
    dout, *grads = (DeviceArray(machine, a) for a in rng.standard_normal((4, *SHAPE)).astype(np.float32))
    pa.sparse_index_kernel(*arrays.values(), PATTERN)
    out, lse, q, k, v = arrays.values()
    for _ in range(3):
        pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, PATTERN)
    wanted = reference.backward(*(a.array for a in (dout, q, k, v, out, lse)), PATTERN)
    np.testing.assert_allclose([a.array for a in grads], wanted, atol=5e-6)


def test_what_differs_in_anything_but_addresses_is_checked(machine, arrays, checks):
    pa.sparse_index_kernel(*arrays.values(), PATTERN)
    shifted = np.zeros(2 * 12 * 8 + 1, np.float32)[1:].reshape(SHAPE)
    longer = DeviceArray(machine, np.zeros((1, 2, 13, 8), np.float32))
    for changes, options in (
        ({}, {"q_start": 1}),
        ({}, {"scale": 0.5}),
        ({}, {"stream": 3}),
        ({}, {"device": "cuda"}),
        ({}, {"kernel": "gather"}),
        ({"k": longer, "v": longer}, {}),
        ({"q": DeviceArray(machine, shifted)}, {}),  # not on a 16-byte boundary
        ({"lse": None}, {}),
    ):
        before = checks[0]
        for _ in range(2):
            pa.sparse_index_kernel(*(arrays | changes).values(), PATTERN, **options)
        assert checks[0] == before + 1
    assert [launch[-1] for launch in machine.launches].count(3) == 2
    before = checks[0]
    pa.sparse_index_kernel(*arrays.values(), pa.Pattern("squares"))
    pa.sparse_index_kernel(*arrays.values(), [PATTERN, PATTERN])  # a list is no key
    pa.sparse_index_kernel(*arrays.values(), [PATTERN, PATTERN])
    assert checks[0] == before + 3


def test_what_the_checks_refuse_stays_refused(machine, arrays):
    for _ in range(2):
        pa.sparse_index_kernel(*arrays.values(), PATTERN, q_start=1)
    with pytest.raises(TypeError, match="q_start: expected an integer"):
        pa.sparse_index_kernel(*arrays.values(), PATTERN, q_start=True)
    with pytest.raises(TypeError, match="workspace: expected a Workspace or None, got str"):
        pa.sparse_index_kernel(*arrays.values(), PATTERN, q_start=1, workspace="mine")
    with pytest.raises(ValueError, match="out: expected memory of its own, got elements shared with q"):
        pa.sparse_index_kernel(*(arrays | {"out": arrays["q"]}).values(), PATTERN, q_start=1)
    # The same layouts, disjoint at one distance and not at another.
    buffer, cut = (
        np.zeros((*SHAPE[:3], 12), np.float32),
        (arrays[name].array[..., :4].copy() for name in "qv"),
    )
    q, v = (DeviceArray(machine, a) for a in cut)
    out, k, k_in_out = (DeviceArray(machine, buffer[..., i : i + 4]) for i in (0, 8, 2))
    for _ in range(2):
        pa.sparse_index_kernel(out, None, q, k, v, PATTERN)
    with pytest.raises(ValueError, match="out: expected memory of its own, got elements shared with k"):
        pa.sparse_index_kernel(out, None, q, k_in_out, v, PATTERN)


def test_disjoint_slices_of_one_buffer_are_known_by_their_distance(machine, arrays, checks):
    buffer = np.zeros((1, 2, 12, 2, 8), np.float32)
    given = arrays | {name: DeviceArray(machine, buffer[..., i, :]) for i, name in enumerate(("out", "k"))}
    for _ in range(2):
        pa.sparse_index_kernel(*given.values(), PATTERN)
    assert checks[0] == 1
    given = arrays | {name: DeviceArray(machine, buffer[..., i, :]) for i, name in enumerate(("k", "out"))}
    pa.sparse_index_kernel(*given.values(), PATTERN)
    assert checks[0] == 2


def test_memory_of_what_is_known_has_a_bound(arrays, monkeypatch):
    monkeypatch.setattr(launch_cache, "KEPT", 3)
    for start in range(7):
        pa.sparse_index_kernel(*arrays.values(), PATTERN, q_start=start)
    assert len(launch_cache._known) <= 3
