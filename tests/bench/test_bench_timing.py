import gc
from types import SimpleNamespace

import pytest

import primeattn as pa
from primeattn.bench import timing
from primeattn.bench.timing import Timing, as_seconds, as_sizes, interleave, thread_count


class Clock:
    """A clock that only sleeping and the calls made here move, and a diary of who was called."""

    def __init__(self):
        self.now, self.diary, self.slept = 0.0, [], 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.slept += seconds

    def taking(self, name, *seconds):
        """A call that takes the given seconds, one after the other, and then the last for ever."""
        durations = list(seconds)

        def call():
            self.diary.append(name)
            self.now += durations.pop(0) if len(durations) > 1 else durations[0]

        return call


def measure(budget, **durations):
    clock = Clock()
    calls = {name: clock.taking(name, *seconds) for name, seconds in durations.items()}
    return interleave(calls, budget, clock=clock, sleep=clock.sleep), clock


def test_calls_take_turns_in_alternating_order():
    _, clock = measure(0.1, a=[0.2], b=[0.2], c=[0.2])
    assert "".join(clock.diary) == "abc" + "abc" + "cba" + "abc" + "cba" + "abc"  # the first is the warm-up
    assert clock.slept == pytest.approx(15 * timing.SETTLE)


def test_quartiles_do_not_count_the_warm_up():
    timings, _ = measure(0.01, a=[0.9, 0.30, 0.10, 0.20])  # 0.9: three rounds
    assert timings == {"a": Timing(*map(pytest.approx, (0.2, 0.15, 0.25)), 3, 3)}
    assert timings["a"].spread == pytest.approx(0.25)


@pytest.mark.parametrize(
    "seconds, budget, rounds, calls",
    [
        (0.1, 100.0, 7, 8),  # as many as anybody needs, and the warm-up
        (0.1, 0.8, 6, 7),  # 0.8 / (0.1 + 0.03)
        (0.1, 0.01, 5, 6),
        (0.3, 0.01, 3, 4),
        (2.0, 0.01, 3, 3),  # a long call is its own warm-up
        (2.0, 100.0, 7, 7),
    ],
)
def test_rounds_fit_the_budget(seconds, budget, rounds, calls):
    timings, clock = measure(budget, a=[seconds])
    assert (timings["a"].rounds, len(clock.diary)) == (rounds, calls)
    assert timings["a"].median == pytest.approx(seconds)
    assert timings["a"].calls == rounds


def test_fast_calls_are_repeated_and_the_first_of_a_turn_is_dropped():
    slow_at_first = [1e-9] + [0.011, 0.01, 0.01, 0.01, 0.01] * 5  # a turn is over after 0.05 s
    timings, clock = measure(0.01, fast=slow_at_first, slow=[0.3])
    assert timings["fast"].calls == 5 * 4 and len(clock.diary) == 1 + 5 * 5 + 4
    assert (timings["fast"].low, timings["fast"].high) == (pytest.approx(0.01), pytest.approx(0.01))


def test_each_has_its_share_of_the_budget():
    timings, _ = measure(2.0, a=[0.1], b=[0.4], c=[0.2])
    assert [timings[name].rounds for name in "abc"] == [5, 3, 5]  # 0.67 s each


def test_garbage_is_not_collected_meanwhile_but_afterwards_even_after_an_error(monkeypatch):
    monkeypatch.setattr(timing, "TURN", 0)
    seen = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, 0.01)
    assert not any(seen) and gc.isenabled()
    with pytest.raises(KeyError):
        interleave({"a": lambda: {}["missing"]}, 0.01)
    assert gc.isenabled()
    gc.disable()
    try:
        interleave({"a": int}, 0.01, sleep=lambda seconds: None)
        assert not gc.isenabled()
    finally:
        gc.enable()


class FakeTorch:
    threads = 5

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, n):
        self.threads = n


def test_everybody_has_the_same_threads_and_then_those_from_before(monkeypatch):
    blas, torch, before = [7], FakeTorch(), pa.get_num_threads()
    functions = (lambda: blas[0]), (lambda n: blas.__setitem__(0, n))
    monkeypatch.setattr(timing, "openblas_threads", lambda: functions)
    with pytest.raises(KeyError), thread_count(3, torch):
        assert (pa.get_num_threads(), torch.threads, blas) == (3, 3, [3])
        raise KeyError
    assert (pa.get_num_threads(), torch.threads, blas) == (before, 5, [7])
    assert timing.blas_notes() == []


def test_a_blas_that_cannot_be_told_is_spoken_of(monkeypatch):
    monkeypatch.setattr(timing, "openblas_threads", lambda: (lambda: 0, lambda n: None))
    assert "as many threads as it chooses" in timing.blas_notes()[0]


def test_seconds_of_others(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 200 300 999999 888888 10 20 70 5000 6000\ncpu0 1 2 3\n")
    monkeypatch.setattr(timing.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(timing.os, "times", lambda: SimpleNamespace(user=3.0, system=0.5))
    assert (
        timing._others_seconds(stat) == 16.0 - 3.5
    )  # neither idle, nor waiting, nor counted twice as a guest's
    stat.write_text("nothing of the kind\n")
    assert timing._others_seconds(stat) is None and timing._others_seconds(tmp_path / "missing") is None


def test_watched(monkeypatch):
    readings, clock = iter([100.0, 103.0, None, None]), iter([0.0, 2.0, 0.0, 2.0])
    monkeypatch.setattr(timing, "_others_seconds", lambda: next(readings))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    assert timing.watched(lambda: "result") == ("result", 1.5)
    assert timing.watched(lambda: "result") == ("result", None)


def test_sizes_and_seconds():
    assert as_sizes("n", [8, 2, 8], None) == [2, 8] and as_sizes("n", None, (3, 1)) == [1, 3]
    assert as_seconds("budget", None, 2) == 2.0 and as_seconds("budget", 0.5, 2) == 0.5
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        as_sizes("n", [4, 0], None)
    with pytest.raises(TypeError, match="threads: expected an integer"):
        as_sizes("threads", [1.5], None)
    for bad in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="budget: expected a finite number of seconds above 0"):
            as_seconds("budget", bad, 1)
