"""Fair timing of several callables in one process: interleaved, with equal thread counts."""

from __future__ import annotations

import gc
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from primeattn.checks import as_int
from primeattn.compiled.blas import openblas_threads
from primeattn.kernels import get_num_threads, set_num_threads

__all__ = ["Timing", "as_seconds", "as_sizes", "blas_notes", "interleave", "thread_count", "watched"]

TURN = 0.05  # seconds; a turn of a short call repeats it for this long
SETTLE = 0.03  # seconds between turns: thread pools spin for a while after their work is done
LONG = 1.0  # seconds; a call this long is its own warm-up
MOST_ROUNDS = 7


@dataclass(frozen=True)
class Timing:
    """Quartiles of the seconds of a call.

    Attributes
    ----------
    median, low, high : float
        The median, the first and the third quartile.
    calls, rounds : int
        Number of calls that count, and of the rounds in which they were made.
    """

    median: float
    low: float
    high: float
    calls: int
    rounds: int

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, relative to the median."""
        return (self.high - self.low) / (2 * self.median)

    def as_row(self) -> dict:
        """As a row of the files of results."""
        quartiles = {"median_s": self.median, "q1_s": self.low, "q3_s": self.high}
        return quartiles | {"calls": self.calls, "rounds": self.rounds}


def interleave(calls, budget, *, clock=time.perf_counter, sleep=time.sleep, turn=None) -> dict[str, Timing]:
    """Time callables in turns, so that other load on the machine affects all alike.

    After a warm-up call of each come rounds; in a round each has a turn, in the order of ``calls`` and in
    the reverse order alternately. A turn is one call, or calls for 0.05 s, of which the first only warms the
    caches. The number of rounds of a callable depends on its share of the budget: at least 5 (3 if a call
    takes more than 0.25 s), at most 7.

    Parameters
    ----------
    calls : dict of str to callable
    budget : float
        Seconds to spend on all of them together, if that suffices for the fewest rounds.
    clock, sleep : callable
        Replace those of ``time``.
    turn : callable, optional
        ``turn(call, clock)`` makes the calls of a turn and returns the seconds of those that count; needed
        for calls that return before their work is done.

    Returns
    -------
    dict of str to Timing

    Examples
    --------
    >>> from primeattn.bench.timing import interleave
    >>> timings = interleave({"sum": lambda: sum(range(1000))}, budget=0.1)
    >>> timings["sum"].rounds
    5
    """
    samples, rounds, joined = {}, {}, {}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for name, call in calls.items():
            first = _time(call, clock)
            affordable = int(budget / len(calls) / (max(first, TURN) + SETTLE))
            rounds[name] = min(max(affordable, 3 if first > 0.25 else 5), MOST_ROUNDS)
            samples[name] = [first] if first > LONG else []
            joined[name] = len(samples[name])
        for round_ in range(MOST_ROUNDS):
            for name in list(calls)[:: -1 if round_ % 2 else 1]:
                if joined[name] < rounds[name]:
                    sleep(SETTLE)
                    samples[name] += (turn or _turn)(calls[name], clock)
                    joined[name] += 1
    finally:
        if collecting:
            gc.enable()
    return {
        name: Timing(*np.quantile(times, (0.5, 0.25, 0.75)).tolist(), len(times), rounds[name])
        for name, times in samples.items()
    }


def _turn(call, clock):
    times, start = [], clock()
    while not times or clock() - start < TURN:
        times.append(_time(call, clock))
    return times[1:] or times


def _time(call, clock):
    start = clock()
    call()
    return clock() - start


@contextmanager
def thread_count(n, torch=None):
    """Give the kernels, NumPy's BLAS and, if given, the module ``torch`` ``n`` threads each.

    A BLAS whose threads cannot be set keeps those it has; see :func:`blas_notes`.

    Examples
    --------
    >>> import primeattn as pa
    >>> from primeattn.bench.timing import thread_count
    >>> with thread_count(1):
    ...     pa.get_num_threads()
    1
    """
    blas_count, set_blas = openblas_threads()
    before = get_num_threads(), blas_count(), torch and torch.get_num_threads()

    def set_all(kernels, blas, of_torch):
        set_num_threads(kernels)
        set_blas(blas)
        if torch:
            torch.set_num_threads(of_torch)

    try:
        set_all(n, n, n)
        yield
    finally:
        set_all(*before)


def blas_notes() -> list[str]:
    """Return notes on the threads of NumPy's BLAS for the reader: none if they can be set."""
    told = "NumPy's BLAS is not OpenBLAS, or cannot be reached: it uses as many threads as it chooses"
    return [] if openblas_threads()[0]() else [told]  # 0 if there is none


def watched(function):
    """Return ``function()``, and how many cores other processes kept busy meanwhile (None if unknown).

    Code whose threads wait for each other takes ten or a thousand times longer if one of them has to share
    its core, so a benchmark must report whether the machine was free.
    """
    before, start = _others_seconds(), time.perf_counter()
    result = function()
    seconds, after = time.perf_counter() - start, _others_seconds()
    return result, None if before is None else max(0.0, after - before) / seconds


def _others_seconds(stat="/proc/stat"):
    """Seconds of CPU time that all other processes have had so far; None if the system does not say."""
    try:
        with open(stat) as file:
            user, nice, system, _, _, *others = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    own = os.times()
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def as_sizes(name, given, default) -> list[int]:
    """Return the integers of ``given``, or of ``default`` if that is None, sorted, each once."""
    return sorted({as_int(name, value, minimum=1) for value in (default if given is None else given)})


def as_seconds(name, given, default) -> float:
    """Return ``given``, or ``default`` if that is None, as a number of seconds."""
    seconds = float(default if given is None else given)
    if not 0 < seconds < np.inf:
        raise ValueError(f"{name}: expected a finite number of seconds above 0, got {given}")
    return seconds
