"""The gather kernels, run as Python by the emulator, against the dense float64 reference.

One case of each kind; :mod:`test_machine_code` has them all, where the compilers are at hand.
"""

import numpy as np
import pytest
from cases import spoil_padding
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.gpu import launch as call

PATTERN = pa.Pattern("primes", window=3, global_tokens=2)
TOLERANCE = {np.dtype(np.float64): 1e-12, np.dtype(np.float32): 3e-6, np.dtype(np.float16): 3e-3}


def errors(arrays, expected):
    """Largest deviation relative to the largest number, or 0.1 where all are smaller."""
    return [
        np.max(np.abs(np.nan_to_num(a.astype(float), neginf=-99) - np.nan_to_num(b, neginf=-99)), initial=0)
        / max(np.abs(np.nan_to_num(b, neginf=0)).max(initial=0), 0.1)
        for a, b in zip(arrays, expected, strict=True)
    ]


def run(q, k, v, dout, pattern, dlse=None, **options):
    """out, lse, dq, dk, dv of NumPy arrays."""
    out, lse = pa.attention(q, k, v, pattern, device="cuda", **options)
    gradients = [np.full_like(a, np.nan) for a in (q, k, v)]
    pa.sparse_index_kernel_backward(
        *gradients, dout, q, k, v, out, lse, pattern, dlse=dlse, device="cuda", **options
    )
    return [out, lse, *gradients]


def oracle(q, k, v, dout, pattern, dlse=None, **options):
    q, k, v, dout = (a.astype(np.float64) for a in (q, k, v, dout))
    out, lse = reference.forward(q, k, v, pattern, **options)
    return [
        out,
        lse,
        *reference.backward(dout, q, k, v, out, lse, pattern, dlse=dlse, **options),
    ]


def inputs(rng, dtype, heads, kv_heads, n_q, n_k, head_dim, batch=1):
    q, dout = rng.standard_normal((2, batch, heads, n_q, head_dim)).astype(dtype)
    k, v = rng.standard_normal((2, batch, kv_heads, n_k, head_dim)).astype(dtype)
    return q, k, v, dout


CASES = {
    # (dtype, heads, kv_heads, n_q, n_k, head_dim, batch), pattern, options, blocks
    "float64, split rows": ((np.float64, 1, 1, 53, 53, 16, 1), PATTERN, {}, 64),
    "float16": ((np.float16, 2, 1, 40, 40, 24, 1), PATTERN, {}, 4),
    "odd width": ((np.float32, 1, 1, 45, 45, 5, 1), PATTERN, {"scale": -0.3}, 1),
    "one token": ((np.float32, 1, 1, 1, 1, 8, 2), PATTERN, {}, 4),
    "all pairs are global": ((np.float32, 1, 1, 37, 37, 8, 1), pa.Pattern(None, global_tokens=99), {}, 4),
    "key range": ((np.float32, 2, 1, 30, 50, 8, 1), PATTERN, {"q_start": 40, "k_start": 7}, 4),
    "keys after queries": ((np.float32, 1, 1, 20, 20, 8, 1), PATTERN, {"q_start": 3, "k_start": 9}, 4),
    "decoding": (
        (np.float32, 2, 1, 2, 60, 8, 2),
        PATTERN,
        {"q_start": np.array([58, 20]), "k_start": np.array([0, 1])},
        64,
    ),
    "padded on the left": (
        (np.float32, 2, 1, 30, 30, 8, 3),
        PATTERN,
        {"q_start": np.array([-7, 0, -30]), "k_start": np.array([-7, 0, -40])},
        4,
    ),
    "no keys": ((np.float32, 1, 1, 9, 0, 8, 1), PATTERN, {"q_start": 5}, 4),
    "no queries": ((np.float32, 1, 1, 0, 9, 8, 1), PATTERN, {"q_start": 5}, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_matches_the_reference(name, rng, monkeypatch):
    shape, pattern, options, blocks = CASES[name]
    arrays = inputs(rng, *shape)
    dlse = rng.standard_normal(arrays[0].shape[:3]).astype(np.promote_types(shape[0], np.float32))
    for array in (*arrays, dlse):
        spoil_padding(array, options.get("q_start", 0))
    with emulated(monkeypatch, blocks=blocks):
        got = run(*arrays, pattern, dlse, **options)
    expected = oracle(*arrays, pattern, dlse, **options)
    for error in errors(got, expected):
        assert error < TOLERANCE[np.dtype(shape[0])]


def test_strides_of_device_arrays_are_honoured_in_place(rng, monkeypatch):
    """One buffer of (batch, seq, heads, 3, head_dim), gradients likewise, no row on a 16-byte boundary."""
    buffer, grads = rng.standard_normal((2, 2, 29, 2, 3, 11)).astype(np.float32)
    q, k, v = (buffer[:, :, :, i, 1:10].transpose(0, 2, 1, 3) for i in range(3))
    dout = rng.standard_normal((2, 2, 29, 9)).astype(np.float32)
    before, outside = buffer.copy(), grads[..., 0].copy()
    with emulated(monkeypatch) as machine:
        out, lse = np.full((2, 2, 29, 9), np.nan, np.float32), np.empty((2, 2, 29), np.float32)
        device = [DeviceArray(machine, a) for a in (out, lse, q, k, v)]
        returned = pa.sparse_index_kernel(*device, PATTERN)
        assert returned[0] is device[0] and returned[1] is device[1]
        slices = [grads[:, :, :, i, 1:10].transpose(0, 2, 1, 3) for i in range(3)]
        slices = [DeviceArray(machine, a) for a in slices]
        out, lse, q, k, v = device
        gradients = pa.sparse_index_kernel_backward(
            *slices, DeviceArray(machine, dout), q, k, v, out, lse, PATTERN
        )
    got = [a.array for a in (out, lse, *gradients)]
    assert max(errors(got, oracle(q.array, k.array, v.array, dout, PATTERN))) < 3e-6
    assert np.array_equal(buffer, before) and np.array_equal(grads[..., 0], outside)


def test_bfloat16(rng, monkeypatch):
    """Storage of 16 bits: results are those of the rounded inputs, rounded once."""
    shape, number = (1, 2, 40, 16), np.float32
    bits = (rng.standard_normal((4, *shape)).astype(number).view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(number)

    class Bfloat16(DeviceArray):
        def __init__(self, machine, array):
            super().__init__(machine, array)
            self.dtype = "torch.bfloat16"

    with emulated(monkeypatch) as machine:
        q, k, v, dout = (Bfloat16(machine, a) for a in bits)
        out, dq, dk, dv = (Bfloat16(machine, np.zeros(shape, np.uint16)) for _ in range(4))
        lse = DeviceArray(machine, np.zeros(shape[:3], number))
        pa.sparse_index_kernel(out, lse, q, k, v, PATTERN)
        pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, PATTERN)
    got = [(a.array.astype(np.uint32) << 16).view(number) for a in (out, dq, dk, dv)]
    expected = oracle(*exact, PATTERN)
    expected.pop(1)
    assert max(errors(got, expected)) < 2**-7
    assert errors(got[:1], expected[:1])[0] < 2**-8


def test_nan_stays_in_the_rows_that_attend_it(rng, monkeypatch):
    q, k, v, dout = inputs(rng, np.float32, 1, 1, 47, 47, 8)
    k[0, 0, 30], v[0, 0, 11], q[0, 0, 7] = np.nan, np.nan, np.nan
    with emulated(monkeypatch):
        got = run(q, k, v, dout, PATTERN)
    with np.errstate(invalid="ignore"):
        expected = oracle(q, k, v, dout, PATTERN)
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b))


def test_access_outside_of_the_arrays_would_be_caught(rng, monkeypatch):
    arrays = inputs(rng, np.float32, 1, 1, 40, 40, 8)
    with emulated(monkeypatch), pytest.raises(IndexError, match="outside of any buffer"):
        original = call._strides
        monkeypatch.setattr(call, "_strides", lambda *a, **k: tuple(9 * s for s in original(*a, **k)))
        run(*arrays, PATTERN)


def test_stream_of_the_caller_or_of_the_arrays(rng, monkeypatch):
    q, k, v, _ = inputs(rng, np.float32, 1, 1, 20, 20, 8)
    out = np.empty_like(q)

    def streams(carried, **options):
        with emulated(monkeypatch) as machine:
            arrays = [DeviceArray(machine, a, s) for a, s in zip((out, q, k, v), carried, strict=True)]
            pa.sparse_index_kernel(arrays[0], None, *arrays[1:], PATTERN, **options)
            return [launch[-1] for launch in machine.launches]

    assert streams([None] * 4) == [0]
    assert streams([None, 7, None, 7]) == [7]
    assert streams([7] * 4, stream=5) == [5]
    with pytest.raises(ValueError, match="stream: expected one to run on, as the arrays carry 2, got None"):
        streams([6, 7, None, None])


def test_workspace_is_the_only_memory_of_a_repeated_call(rng, monkeypatch):
    arrays, ws = inputs(rng, np.float32, 1, 1, 20, 20, 8), pa.Workspace()
    with emulated(monkeypatch) as machine:
        run(*arrays, PATTERN, workspace=ws)
        buffers = len(machine.memory.buffers)
        run(*arrays, PATTERN, workspace=ws)
        assert len(machine.memory.buffers) == buffers
        run(*arrays, PATTERN)
        assert len(machine.memory.buffers) == buffers  # of calls without a workspace, nothing is kept
