"""Where runs are trained: in this process, or in several others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import contextmanager
from multiprocessing import connection

from primeattn.kernels import get_num_threads, set_num_threads
from primeattn.study.runs import check
from primeattn.study.training import train

__all__ = ["on_processes", "one_by_one"]


def one_by_one(runs):
    """Yield the key and the result of each of the runs by key, trained here.

    Examples
    --------
    >>> from primeattn.study.workers import one_by_one
    >>> list(one_by_one({}))
    []
    """
    for key, run in runs.items():
        yield key, train(run)


def on_processes(runs, jobs):
    """The same from ``jobs`` new processes, in the order in which runs end.

    They end with the block that takes the results, and with this process, even if it is killed.
    """
    for run in runs.values():
        _check_importable(check(run).task)
    waiting = list(runs.items())[::-1]
    with _processes(jobs, max(1, get_num_threads() // jobs)) as workers:
        busy = {}
        idle = list(workers)
        while waiting or busy:
            while waiting and idle:
                line, (key, run) = idle.pop(), waiting.pop()
                busy[line] = key
                line.send((run, check(run).task))  # a task of the user's: its module is imported there
            for line in connection.wait(list(busy)):
                key = busy.pop(line)
                try:
                    result = line.recv()
                except (EOFError, ConnectionError):
                    workers[line].join()
                    code = workers[line].exitcode
                    told = f"a process that was to train run {key} ended with code {code}"
                    if code == 1:  # as when it began to do itself what the script does
                        told += '; a script has to keep what it does under if __name__ == "__main__":'
                    raise RuntimeError(told) from None
                if isinstance(result, BaseException):
                    raise result
                idle.append(line)
                yield key, result


def _check_importable(task):
    """Raise ValueError if another process cannot have the class of a task, as it finds it by its module."""
    kind = type(task)
    at_a_prompt = kind.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    if at_a_prompt or "<locals>" in kind.__qualname__:
        where = "at a prompt or in a notebook" if at_a_prompt else "in a function"
        raise ValueError(
            f"runs: expected tasks that other processes can import, got {kind.__name__}, which is defined "
            f"{where}; move it to the top level of a module, or take jobs=1"
        )


@contextmanager
def _processes(jobs, threads):
    """Processes by the line to each."""
    spawn, workers = multiprocessing.get_context("spawn"), {}
    try:
        with _one_thread_each():
            for _ in range(jobs):
                here, there = spawn.Pipe()
                process = spawn.Process(target=_serve, args=(there, threads), daemon=True)
                process.start()
                there.close()  # else a worker that died would not be noticed
                workers[here] = process
        yield workers
    finally:
        for line, process in workers.items():
            process.terminate()
            process.join()
            line.close()


@contextmanager
def _one_thread_each():
    """Processes that start within the block find BLAS held to one thread by their environment."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(line, threads):
    """Train what comes in, until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for results
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_num_threads(threads)
    while True:
        try:
            run, _ = line.recv()
        except EOFError:
            return
        try:
            result = train(run)
        except Exception as error:
            result = error
        line.send(result)


def _end_with_parent():
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
