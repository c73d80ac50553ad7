"""Threads of the CPU kernels.

Numba's own threading layers abort the process when two Python threads use them at once (workqueue) or refuse
to run after a fork (GNU OpenMP). So kernels are compiled without the GIL, and a call runs the same function
in the calling thread and in threads of a pool, which share out the work by atomic counters. Calls from
several Python threads share the pool; a helper that never started is simply not needed. A forked child
begins with a pool of its own.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from primeattn.sequences import as_int

__all__ = ["get_num_threads", "run", "set_num_threads"]


def _default_threads() -> int:
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _default_threads()
_pool: tuple[int, ThreadPoolExecutor] | None = None  # helper threads, and how many


def get_num_threads() -> int:
    """Return the number of threads a kernel may use; see :func:`set_num_threads`.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.get_num_threads() >= 1
    True
    """
    return _threads


def set_num_threads(n: int) -> None:
    """Let kernels use at most ``n`` threads, the calling one included.

    The default is NUMBA_NUM_THREADS where that is set, else the CPUs this process may run on. Results do not
    depend on it. Small problems run in the calling thread alone.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        When ``n`` is not an integer, or below 1.

    Examples
    --------
    >>> import primeattn as pa
    >>> before = pa.get_num_threads()
    >>> pa.set_num_threads(1)
    >>> pa.get_num_threads()
    1
    >>> pa.set_num_threads(before)
    """
    global _threads
    _threads = as_int("n", n, minimum=1)


def run(work, workers: int) -> None:
    """Call ``work()`` in ``workers`` threads at once, the calling one among them, and wait for all."""
    helpers = [_helpers(workers - 1).submit(work) for _ in range(workers - 1)]
    try:
        work()
    finally:  # the memory they work on is the caller's, who may be leaving by an interrupt
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _helpers(count: int) -> ThreadPoolExecutor:
    global _pool
    size, pool = _pool or (0, None)
    if size < count:  # another thread may still submit to the old one, which ends with its last user
        pool = ThreadPoolExecutor(count, thread_name_prefix="primeattn")
        _pool = count, pool
    return pool


def _forget_pool() -> None:
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
