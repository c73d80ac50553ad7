"""Calls that differ in their position alone, as when decoding, share plans and lists."""

import numpy as np
import pytest
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.gpu import launch_cache
from primeattn.kernels.gpu.gather import plan
from primeattn.kernels.gpu.tables import roomy, rounded
from primeattn.kernels.gpu.wheel import plan as wheel_plan

pytestmark = pytest.mark.slow  # the emulator takes its time
PATTERN = pa.Pattern("primes", window=2, global_tokens=2)
STEPS = 200


def decode(machine, q, k, v, n_q, grows=False, **options):
    """out, computed ``n_q`` queries at a time with the keys of a cache, or of one that grows."""
    out = np.full_like(q, np.nan)
    for start in range(0, q.shape[2], n_q):
        end = min(start + n_q, q.shape[2])
        keys = slice(None, end if grows else None)
        given = (out[:, :, start:end], q[:, :, start:end], k[:, :, keys], v[:, :, keys])
        to, *rest = (DeviceArray(machine, a) for a in given)
        pa.sparse_index_kernel(to, None, *rest, PATTERN, q_start=start, **options)
    return out


@pytest.mark.parametrize(
    ("n_q", "grows"),
    [*(pytest.param(1, grows, marks=pytest.mark.slow) for grows in (False, True)), (3, False)],
)
def test_steps_are_right_and_share_uploads(n_q, grows, rng, monkeypatch):
    q, k, v = rng.standard_normal((3, 1, 1, STEPS, 8)).astype(np.float32)
    with emulated(monkeypatch) as machine:
        out = decode(machine, q, k, v, n_q, grows)
        lists, *plans = machine.uploads
        assert lists == 8 * PATTERN.offsets(256).size and len(plans) <= 2  # one row has no stride
        assert plan.make_lists.cache_info().currsize == 1 and plan._build.cache_info().currsize == len(plans)
        assert len(launch_cache._known) <= launch_cache.KEPT
    np.testing.assert_allclose(out, reference.forward(q, k, v, PATTERN)[0], atol=3e-6)


def test_sequences_of_a_batch_that_go_on_together_share_a_plan(rng, monkeypatch):
    q, k, v = rng.standard_normal((3, 2, 1, 90, 8)).astype(np.float32)
    starts, out = np.array([0, 33]), np.full((2, 1, 40, 8), np.nan, np.float32)
    with emulated(monkeypatch) as machine:
        arrays = [DeviceArray(machine, a) for a in (k, v)]
        for step in range(40):
            queries = np.stack([q[b, :, start + step] for b, start in enumerate(starts)])[:, :, None]
            to = DeviceArray(machine, out[:, :, step : step + 1])
            pa.sparse_index_kernel(
                to, None, DeviceArray(machine, queries), *arrays, PATTERN, q_start=starts + step
            )
        assert len(machine.uploads) == 2
    expected = reference.forward(q, k, v, PATTERN)[0]
    for b, start in enumerate(starts):
        np.testing.assert_allclose(out[b], expected[b][:, start : start + 40], atol=3e-6)


def test_steps_of_the_wheel_share_its_lists(rng, monkeypatch):
    """Which rows a block has depends on the position, so that a step uploads a few numbers of its own."""
    q, k, v = rng.standard_normal((3, 1, 1, 12, 32)).astype(np.float16)
    with emulated(monkeypatch, wheels=(2,)) as machine:
        out = decode(machine, q, k, v, 3, kernel="wheel")
        plans = machine.uploads[2:]  # after the lists and the bitmasks
        assert len(plans) == 4 and max(plans) < 512
        assert wheel_plan.make_wheel_lists.cache_info().currsize == 1
    assert np.max(np.abs(out - reference.forward(*(a.astype(float) for a in (q, k, v)), PATTERN)[0])) < 2e-3


def test_few_queries_are_gathered(rng, monkeypatch):
    """A block of the wheel would have empty rows, and be computed as a whole."""
    q, k, v = rng.standard_normal((3, 1, 1, 70, 32)).astype(np.float16)
    with emulated(monkeypatch, step=0) as machine:
        pa.attention(q, k, v, PATTERN, device="cuda")
        pa.attention(q[:, :, -1:], k, v, PATTERN, device="cuda", q_start=69)
    assert [launch[0] for launch in machine.launches] == ["wheel_forward", "forward"]


def test_lists_are_made_for_few_lengths():
    lengths = range(1, 100_000)
    assert len({roomy((PATTERN,), 0, n) for n in lengths}) <= 8 + 4 * np.ceil(np.log2(100_000 / 2048))
    assert all(n <= roomy((PATTERN,), 0, n)[1] < n + max(n / 4, 256) for n in lengths)
    assert all(n <= rounded((PATTERN,), n) <= 1.25 * n for n in lengths)
    # A worker that has keys far before its queries.
    spans = {roomy((PATTERN,), low, low + 4096) for low in range(50_000, 60_000)}
    assert len(spans) <= 22 and all(high - low < 8192 for low, high in spans)


def test_no_list_goes_beyond_the_end_of_a_sequence():
    pattern = pa.Pattern(pa.sequences.from_array([1, 5, 9], known_to=700), window=1)
    assert roomy((pattern,), 0, 650) == (0, 650) and rounded((pattern,), 650) == 650
    assert roomy((pattern,), 0, 300) == (0, 512) and rounded((pattern,), 300) == 320
