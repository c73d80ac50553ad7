"""Threads of the CPU kernels.

Numba's own threading layers abort the process when two Python threads use them at once (workqueue) or refuse
to run after a fork (GNU OpenMP). So kernels are compiled without the GIL, and a call runs the same function
in the calling thread and in helper threads, which divide the work by atomic counters. Calls from several
Python threads share the helpers; a call also finishes if a helper is late or could not be started. A forked
child begins with none.

A signal handler may raise anywhere in the Python code of the main thread. So no lock is used here that could
stay held, and callers and helpers meet in compiled code, see :mod:`.handover`.
"""

from __future__ import annotations

import _thread
import os
import time
from contextlib import suppress
from queue import SimpleQueue

import numba
import numpy as np

from primeattn.checks import as_int
from primeattn.compiled import handover
from primeattn.forks import PerProcess

__all__ = ["delegate", "get_num_threads", "run", "set_num_threads"]

RETRY = 1.0  # seconds until the next try after a thread could not be started


def _default_threads() -> int:
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # later ones: of nested loops
    return min(int(given), cpus) if given.isdigit() and int(given) > 0 else cpus


_threads = _default_threads()


def get_num_threads() -> int:
    """Return the number of threads a kernel may use; see :func:`set_num_threads`.

    Returns
    -------
    int
        At least 1.

    See Also
    --------
    set_num_threads : Changes it.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.get_num_threads() >= 1
    True
    """
    return _threads


def set_num_threads(n: int) -> None:
    """Let kernels use at most ``n`` threads, the calling one included.

    The default is NUMBA_NUM_THREADS if set, else the number of CPUs this process may use, or OMP_NUM_THREADS
    if that is set and less, as it is in the workers of Dask, joblib and others. Results do not depend on it.
    Small problems run in the calling thread alone.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an integer, or is below 1.

    See Also
    --------
    get_num_threads : The number as it is.

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
    """Call ``work(word, False)`` and, in up to ``workers - 1`` helpers, ``work(word, True)``.

    ``work`` must be one compiled function that begins with :func:`.handover.enter` and ends with
    :func:`.handover.leave`; whatever may fail must come before.
    """
    call = _Call(work)
    try:
        if workers > 1:
            _helpers().offer(call, workers - 1)
        work(call.word, False)
    finally:
        call.work = None  # so that a late helper keeps nothing alive


def delegate(work, workers: int) -> None:
    """Let up to ``workers`` helpers call the Python function ``work()``, and wait until all have left.

    ``work`` divides its parts between the calls. Any number of helpers may come, even none: what is left is
    for the caller to do. The calling thread waits in compiled code, since signal handlers raise in it. With
    NUMBA_DISABLE_JIT there is no such code, and no helper comes.
    """
    if numba.config.DISABLE_JIT:
        return
    errors = []

    def help_(word, helps):
        if not helps:
            handover.watch(word)
        elif handover.enter_helper(word):
            try:
                work()
            except BaseException as error:  # raised again in the caller
                errors.append(error)
            finally:
                handover.finish(word)

    run(help_, workers + 1)
    if errors:
        raise errors.pop()


class _Call:
    """The work for helpers, and the word by which they meet the caller."""

    __slots__ = ("_numbers", "word", "work")

    def __init__(self, work):
        self._numbers = np.zeros(8, np.int64)  # a cache line: the word, and numbers for the work
        self.word, self.work = self._numbers.ctypes.data, work


class _Helpers:
    """Threads that wait for calls: as many as were ever wanted at once, if they could be started."""

    def __init__(self):
        self._calls, self._idents, self._retry_at = SimpleQueue(), [], 0.0
        closed = np.full(1, 2 * handover.OPEN)
        for compiled in (handover.is_open, handover.enter_helper, handover.watch, handover.finish):
            compiled(closed.ctypes.data)  # now, as helpers must not compile

    def offer(self, call, count):
        """Offer ``call`` to up to ``count`` helpers."""
        missing = count - len(self._idents)
        if missing > 0 and time.monotonic() >= self._retry_at:
            try:
                # Starting and counting are one step for Python, so that no exception comes between them.
                self._idents.extend(
                    map(_thread.start_new_thread, [_help] * missing, [(self._calls,)] * missing)
                )
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, RuntimeError) and "new thread" not in str(error):
                    raise  # from a signal handler
                self._retry_at = time.monotonic() + RETRY
        for _ in range(min(count, len(self._idents))):
            self._calls.put(call)


def _help(calls):
    while True:
        call = work = None  # while waiting, a helper keeps nothing alive
        with suppress(BaseException):  # what fails here never entered the call: its caller does the work
            call = calls.get()
            work = call.work
            if work is not None and handover.is_open(call.word):
                work(call.word, True)


_helpers = PerProcess(_Helpers)
