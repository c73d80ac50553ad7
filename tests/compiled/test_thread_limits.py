"""Calls where threads cannot start, after the main script, and in children forked at a bad moment."""

import os
import subprocess
import sys

import pytest

BEGIN = """
import atexit, os, sys, threading, time
import numpy as np
import primeattn as pa

pa.set_num_threads(4)
rng = np.random.default_rng(0)
q, k, v = rng.standard_normal((3, 1, 8, 2048, 64), dtype=np.float32)
dense = pa.Dense(256, 256)
ps, st = pa.setup(rng, dense)
x = rng.standard_normal((4096, 256), dtype=np.float32)
pattern = pa.Pattern("primes", window=3, global_tokens=2)
rows = [0, 5, 700, 2047]
offsets = pattern.offsets(2048)


def right():
    out, lse = pa.attention(q, k, v, pattern)
    for i in rows:
        keys = np.union1d(np.arange(min(2, i + 1)), i - offsets[offsets <= i])
        s = k[0, 3, keys].astype(float) @ q[0, 3, i] / 8
        p = np.exp(s - s.max())
        assert np.allclose(out[0, 3, i], p @ v[0, 3, keys] / p.sum(), atol=1e-5)
    y, _ = dense(x, ps, st)
    assert np.allclose(y[:9], x[:9].astype(float) @ ps["weight"] + ps["bias"], atol=1e-3)


"""


def run(code, seconds=60):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + code],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


LIMITS = {
    "stack size": "threading.stack_size(1 << 45)",
    "address space": "import resource; "
    "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
    "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1)); threading.stack_size(1 << 30)",
    # One process of this user. Root is not bound, so the process becomes nobody's, and reads root's files.
    "number of processes": "import ctypes, resource; os.getuid() or os.setresuid(65534, 0, 0); "
    "version, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(); "
    "ctypes.CDLL(None).capset(version, none); resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))",
}


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param(code, id=name, marks=[] if name == "stack size" else pytest.mark.slow)
        for name, code in LIMITS.items()
    ],
)
def test_the_calling_thread_does_the_work_where_none_can_start(limit):
    if "resource" in limit and not os.path.exists("/proc/self/statm"):
        pytest.skip("only Linux tells its address space so")
    code = f"pa.set_num_threads(1); right(); pa.set_num_threads(4); {limit}\n"
    assert run(code + "for _ in range(5): right()\nprint('done')") == "done\n"


def test_a_thread_that_outlives_the_main_script_and_atexit_handlers_may_call():
    code = """
def late():
    while threading.main_thread().is_alive():
        time.sleep(0.01)
    pa.set_num_threads(6)  # more than have started
    right()
    print("late", flush=True)

def at_exit():
    pa.set_num_threads(8)
    right()
    print("exit", flush=True)

atexit.register(at_exit)
right()
threading.Thread(target=late).start()
"""
    assert run(code) == "late\nexit\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(
    ("busy", "asked"),
    [
        pytest.param(
            "pa.sequences.ulam(300_000)",
            "assert pa.Pattern('ulam').offsets(100).size",
            id="sequences",
            marks=pytest.mark.slow,
        ),
        pytest.param("[dense(x, ps, st) for _ in range(500)]", "right()", id="Dense", marks=pytest.mark.slow),
        pytest.param("[pa.attention(q, k, v, pattern) for _ in range(300)]", "right()", id="kernels"),
    ],
)
def test_a_child_forked_while_a_thread_is_at_work(busy, asked):
    code = f"""
from primeattn.compiled.blas import openblas_threads
count = openblas_threads()[0]
right()
before = count()
threading.Thread(target=lambda: {busy}, daemon=True).start()
for attempt in range(8):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        try:
            {asked}
            os._exit(0 if count() == before else 3)
        except BaseException:
            os._exit(4)
    for _ in range(2000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.005)
    else:
        os.kill(child, 9)
        print("hangs")
        break
    if status:
        print("status", os.waitstatus_to_exitcode(status))
print("done", flush=True)
os._exit(0)
"""
    assert run(code) == "done\n"
