"""Threads change nothing but the time: bitwise results, concurrent callers, forks."""

import multiprocessing
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels.cpu import plan

PATTERN = pa.Pattern("primes", window=3, global_tokens=2)


def problem(seed=0, n=400):
    """Large enough that the kernels use every thread they may."""
    return np.random.default_rng(seed).standard_normal((4, 2, 4, n, 64), dtype=np.float32)


def solve(arrays):
    q, k, v, dout = arrays
    out, lse = pa.attention(q, k, v, PATTERN)
    grads = (np.empty_like(q) for _ in range(3))
    return out, lse, *pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, PATTERN)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fused", [True, False])
def test_bitwise_the_same_for_any_number_of_threads_and_repetition(threads, monkeypatch, fused):
    monkeypatch.setattr(plan, "fuses", lambda *_: fused)
    monkeypatch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
    arrays = problem()
    threads(1)
    expected = solve(arrays)
    for n in (1, 2, 2, 3, 5):
        threads(n)
        assert same(solve(arrays), expected)


def test_concurrent_calls_from_python_threads(threads):
    threads(2)
    problems = [problem(seed, n) for seed, n in enumerate((400, 333, 250, 401))]
    expected = [solve(p) for p in problems]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(same(a, b) for a, b in zip(pool.map(solve, problems), expected, strict=True))


def _child(queue, arrays):
    queue.put(solve(arrays))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_call_in_a_forked_child_after_a_call_in_the_parent(threads):
    threads(2)
    arrays = problem()
    expected = solve(arrays)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue, arrays))
    child.start()
    got = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert same(got, expected)
    assert same(solve(arrays), expected)


def test_number_of_threads_is_checked(threads):
    for bad in (0, -1):
        with pytest.raises(ValueError, match=f"n: expected an integer >= 1, got {bad}"):
            pa.set_num_threads(bad)
    for bad in (1.0, "2", None, True):
        with pytest.raises(TypeError, match="n: expected an integer"):
            pa.set_num_threads(bad)
    pa.set_num_threads(np.int64(3))
    assert pa.get_num_threads() == 3


def _cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("numba", "omp", "expected"),
    [
        ("3", None, 3),
        ("3", "1", 3),
        (None, None, _cpus()),
        ("", "1", 1),
        (None, "1,4", 1),
        (None, "4000", _cpus()),
        *((None, bad, _cpus()) for bad in ("", "0", "-1", "many", "1.5")),
    ],
)
def test_default_follows_the_environment(numba, omp, expected, monkeypatch):
    from primeattn.compiled import threads

    for name, value in (("NUMBA_NUM_THREADS", numba), ("OMP_NUM_THREADS", omp)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert threads._default_threads() == expected


def test_a_worker_with_one_thread_of_openmp_has_one():
    import subprocess

    code = "import primeattn as pa; print(pa.get_num_threads())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("NUMBA_NUM_THREADS", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_one_workspace_in_two_threads_is_refused(threads):
    ws, arrays = pa.Workspace(), problem()

    def call():
        pa.attention(*arrays[:3], PATTERN, workspace=ws)

    with ws.guard(), ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="another thread"):
        pool.submit(call).result()
    call()
