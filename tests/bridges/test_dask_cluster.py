"""Worker processes: the same results, also where a worker dies, and sequences that no worker could hold."""

import os
import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import primeattn as pa

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

import dask  # noqa: E402

import primeattn.dask as bridge  # noqa: E402

PRIMES = pa.Pattern("primes", window=3, global_tokens=2)
RELATIVE = 2e-6


@contextmanager
def workers(folder, memory_limit):
    """A client of two worker processes of one thread each."""
    # The kernels that processes keep on disk are compiled once, and not by both at once.
    rows = np.zeros((1, 1, 8, 8), np.float32)
    out, lse = pa.attention(rows, rows, rows, PRIMES)
    pa.sparse_index_kernel_backward(*np.zeros((3, 1, 1, 8, 8), np.float32), *[rows] * 4, out, lse, PRIMES)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    options |= {"local_directory": folder, "memory_limit": memory_limit}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with workers(tmp_path_factory.mktemp("workers"), "4GB") as client:
        yield client


def both_ways(arrays, pattern, **options):
    """Dask arrays of out, lse and gradients; arrays are q, k, v and dout."""
    q, k, v, dout = arrays
    out, lse = bridge.attention(q, k, v, pattern, **options)
    return out, lse, *bridge.attention_backward(dout, q, k, v, out, lse, pattern, **options)


def blocks_of(arrays, pattern, blocks, heads):
    rows = bridge.chunks_of_equal_pairs(pattern, arrays[0].shape[2], blocks)
    return [da.from_array(array, chunks=(1, heads, rows, array.shape[3])) for array in arrays]


@pytest.mark.parametrize("merge", [False, True])
def test_every_scheduler_gives_the_same_bits(rng, client, merge):
    arrays = rng.standard_normal((4, 1, 2, 1000, 8), dtype=np.float32)
    results = both_ways(blocks_of(arrays, PRIMES, 5, 1), PRIMES, merge=merge)
    expected = dask.compute(*results, scheduler="sync")
    for others in (dask.compute(*results, scheduler="threads"), client.gather(client.compute(results))):
        for one, other in zip(expected, others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_work_of_a_killed_worker_is_done_again(rng, client, tmp_path):
    arrays = rng.standard_normal((4, 1, 4, 1000, 8), dtype=np.float32)

    def slow(block, folder=str(tmp_path)):
        Path(folder, f"worker_{os.getpid()}").touch()
        time.sleep(0.1)
        return block

    blocks = blocks_of(arrays, PRIMES, 5, 1)
    blocks[0] = blocks[0].map_blocks(slow, dtype=np.float32, meta=arrays[0][:0])
    futures = client.compute(both_ways(blocks, PRIMES))
    while len(list(tmp_path.glob("worker_*"))) < 2:
        time.sleep(0.02)
    time.sleep(0.5)
    assert not all(future.done() for future in futures)
    killed = next(iter(client.run(os.getpid).values()))
    os.kill(killed, signal.SIGKILL)
    results = client.gather(futures)
    assert killed not in client.run(os.getpid).values()
    expected = dask.compute(*both_ways(blocks_of(arrays, PRIMES, 5, 1), PRIMES), scheduler="sync")
    for result, exact in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, exact)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length"), [("primes", 32768), ("squares", 65536)])
def test_a_long_sequence_on_two_workers(rng, client, name, length):
    pattern = pa.Pattern(name, window=3, global_tokens=2)
    q, k, v, dout = arrays = rng.standard_normal((4, 1, 8, length, 64), dtype=np.float32)
    out, lse = pa.attention(q, k, v, pattern)
    grads = [np.empty_like(array) for array in (q, k, v)]
    pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern)
    for merge in (False, True):
        futures = client.compute(both_ways(blocks_of(arrays, pattern, 4, 4), pattern, merge=merge))
        for number, exact in enumerate((out, lse, *grads)):
            result, futures[number] = client.gather(futures[number]), None
            error = np.abs(result - exact).max() / np.abs(exact).max()
            assert error == 0 if number < 3 and not merge else error <= RELATIVE


class Rows:
    """An ``.npy`` file, opened by whichever process reads or writes some of it."""

    dtype = np.dtype(np.float32)

    def __init__(self, path, shape):
        self.path, self.shape, self.ndim = path, shape, len(shape)
        np.lib.format.open_memmap(path, "w+", self.dtype, shape)

    def __getitem__(self, index):
        return np.array(np.load(self.path, mmap_mode="r")[index])

    def __setitem__(self, index, rows):
        np.load(self.path, mmap_mode="r+")[index] = rows


def peak_memory():
    """Most bytes of memory that this process has had."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs the peak of memory of a process")
def test_a_million_tokens_from_disk_in_less_than_a_gigabyte(rng, tmp_path):
    n, end, pattern = 1_000_000, 300, pa.Pattern("mian_chowla", window=3, global_tokens=2)
    shape, rows = (1, 1, n, 64), n // 16
    names = "q", "k", "v", "dout", "out", "dq", "dk", "dv"
    files = {name: Rows(tmp_path / f"{name}.npy", shape) for name in names}
    files["lse"] = Rows(tmp_path / "lse.npy", shape[:3])
    for name in names[:4]:
        for row in range(0, n, rows):
            files[name][:, :, row : row + rows] = rng.standard_normal((1, 1, rows, 64), dtype=np.float32)

    def of(name):
        file = files[name]
        return da.from_array(file, chunks=(1, 1, rows, 64)[: file.ndim], asarray=False)

    inputs, start = [of(name) for name in ("q", "k", "v")], time.perf_counter()
    with workers(tmp_path / "workers", "900MB") as client:  # from 540 MB on, they write what waits to disk
        results = bridge.attention(*inputs, pattern, merge=True)
        da.store(results, [files["out"], files["lse"]], lock=False)
        forward = time.perf_counter() - start
        inputs = of("dout"), *inputs, of("out"), of("lse")
        grads = bridge.attention_backward(*inputs, pattern, merge=True)
        da.store(grads, [files[name] for name in ("dq", "dk", "dv")], lock=False)
        peaks = client.run(peak_memory).values()
    print(f"forward {forward:.0f} s, both {time.perf_counter() - start:.0f} s; peaks in bytes: {[*peaks]}")
    assert max(peaks) < 1e9

    last = np.s_[:, :, n - end :]  # of queries that see all, and keys that only these queries see
    q, dout = files["q"][last], files["dout"][last]
    k, v = files["k"][:, :, :], files["v"][:, :, :]
    out, lse = pa.attention(q, k, v, pattern, q_start=n - end)
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, pattern, q_start=n - end)
    exact = {"out": out, "lse": lse, "dq": dq, "dk": dk[last], "dv": dv[last]}
    for name, array in exact.items():
        assert np.abs(files[name][last] - array).max() <= RELATIVE * np.abs(array).max(), name
    # Rows of p sum to one.
    sums = [files[name][:, :, :].sum(axis=2, dtype=np.float64) for name in ("dv", "dout")]
    np.testing.assert_allclose(*sums, rtol=0, atol=1e-2)
