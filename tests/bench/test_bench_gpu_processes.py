"""Processes of the checks on a GPU: side by side, killed in time with all they started, none of it lost."""

import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primeattn.bench import gpu_processes
from primeattn.bench.gpu_plan import PYTHON, Process
from primeattn.bench.gpu_processes import ended_by_signals, read, run_together


def script(code, name="a stage"):
    return Process(name, lambda seconds: [*PYTHON, "-S", "-c", code])


def finding(**found):
    return json.dumps({"check": "c", "ok": None, "value": None, "limit": None} | found)


def run(*scripts, seconds=20, at_once=2):
    """Entries by name."""
    found, until = {}, time.perf_counter() + seconds
    run_together(
        scripts, at_once, lambda: until - time.perf_counter(), lambda p, entry: found.update({p.name: entry})
    )
    return found


@pytest.fixture
def brisk(monkeypatch):
    monkeypatch.setattr(gpu_processes, "ENDING", 0.3)


def test_findings_and_all_else_that_is_printed():
    code = f"print({finding(check='a', ok=True)!r}); print('a warning'); print({finding(check='b')!r})"
    entry = run(script(code))["a stage"]
    assert [found["check"] for found in entry["findings"]] == ["a", "b"]
    assert entry["status"] == 0 and entry["tail"] == "a warning" and "skipped" not in entry
    assert run(script("raise SystemExit(9)"))["a stage"]["status"] == 9
    assert run(script("import os; os.abort()"))["a stage"]["status"] == -signal.SIGABRT


def test_a_finding_is_read_where_others_write_on_its_line():
    one, two = finding(check="one", ok=False), finding(check="two")
    findings, lines = read(f"==== half a line{one}==== ERROR\n{two}\n\n{two[:20]}\n")
    assert [found["check"] for found in findings] == ["one", "two"]
    assert lines == ["==== half a line==== ERROR", two[:20]]


def grower(path):
    """Code that never ends, and writes to a file all the time."""
    return f"import time\nwhile True:\n open({str(path)!r}, 'a').write('x'); time.sleep(0.02)"


def grows(path):
    before = path.stat().st_size
    time.sleep(0.2)
    return path.stat().st_size > before


def parent(code):
    """Code that runs ``code`` in a process of its own."""
    return f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-S', '-c', {code!r}])\n"


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_with_all_that_it_started_and_keeps_what_it_printed(
    brisk, tmp_path, monkeypatch
):
    """Also what was not flushed."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    path = tmp_path / "child"
    code = f"print({finding(check='early', ok=True)!r}); print('and then'); {parent(grower(path))}"
    start = time.perf_counter()
    entry = run(script(code + "import time; time.sleep(60)"), seconds=1.5)["a stage"]
    assert time.perf_counter() - start < 10 and entry["status"] is None
    assert [found["check"] for found in entry["findings"]] == ["early"] and entry["tail"] == "and then"
    assert path.exists() and not grows(path)


def test_what_a_process_leaves_behind_is_killed_when_it_ends(tmp_path):
    path = tmp_path / "child"
    code = f"import os, time\nwhile not os.path.exists({str(path)!r}): time.sleep(0.01)"
    assert run(script(parent(grower(path)) + code))["a stage"]["status"] == 0
    assert not grows(path)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_nothing_stays_alive_after_an_interrupt(name, tmp_path):
    paths = [tmp_path / name for name in "ab"]

    def interrupt():
        for path in paths:
            wait_for(path)
        os.kill(os.getpid(), getattr(signal, name))

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    threading.Thread(target=interrupt).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        run(*(script(grower(path), path.name) for path in paths))
    assert time.perf_counter() - start < 10 and not any(map(grows, paths))
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP))


def test_a_hangup_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        with ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_program_that_does_not_start_stops_no_other(tmp_path):
    (tmp_path / "program").write_text("")
    found = run(Process("broken", lambda seconds: [str(tmp_path / "program")]), script("print(1)"))
    assert found["broken"]["status"] is None and found["broken"]["skipped"].startswith("it did not start: ")
    assert found["a stage"]["status"] == 0


def test_a_process_is_told_its_seconds_and_starts_only_if_it_has_some(brisk):
    told = []
    assert run(Process("p", lambda seconds: told.append(seconds) or ["true"]), seconds=9)["p"]["status"] == 0
    assert 8 < told[0] < 8.71
    assert run(script("print(1)"), seconds=0.2)["a stage"]["skipped"] == "no time was left"


class Machine:
    """Processes that last as long as they are told, and die some time after they are killed; in no time."""

    def __init__(self):
        self.now, self.live, self.most = 0.0, {}, 0

    def popen(self, command, **options):
        lasts, dies = command
        process = SimpleNamespace(pid=len(self.live), returncode=None, ends=self.now + lasts, dies=dies)

        def poll():
            if self.now >= process.ends:
                process.returncode = process.returncode or 0
            return process.returncode

        process.poll = poll
        self.live[process.pid] = process
        self.most = max(self.most, sum(p.poll() is None for p in self.live.values()))
        return process

    def kill(self, pid, number):
        process = self.live[pid]
        if process.poll() is not None:
            raise ProcessLookupError
        process.ends = min(process.ends, self.now + process.dies)

    def sleep(self, seconds):
        self.now += seconds


def quarters(most):
    return st.integers(0, 4 * most).map(lambda count: count / 4)


@settings(max_examples=200, deadline=None)
@given(
    durations=st.lists(
        st.tuples(quarters(30) | st.just(1e9), quarters(5) | st.just(1e9)), min_size=1, max_size=12
    ),
    at_once=st.integers(1, 5),
    until=quarters(40),
)
def test_no_process_takes_longer_than_it_may(durations, at_once, until):
    """However long they last, and even if the driver holds one that is killed."""
    machine, noted = Machine(), {}

    def note(process, entry):
        assert machine.now <= until and process.name not in noted
        noted[process.name] = entry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_processes, "POLL", 0.125)
        patch.setattr(gpu_processes.subprocess, "Popen", machine.popen)
        patch.setattr(gpu_processes.os, "killpg", machine.kill)
        patch.setattr(
            gpu_processes, "time", SimpleNamespace(perf_counter=lambda: machine.now, sleep=machine.sleep)
        )
        scripts = [Process(i, lambda seconds, words=words: words) for i, words in enumerate(durations)]
        run_together(scripts, at_once, lambda: until - machine.now, note)
    assert len(noted) == len(durations) and machine.now <= until and machine.most <= at_once
    for i, (lasts, _) in enumerate(durations):
        if noted[i]["status"] == 0:
            assert noted[i]["seconds"] >= lasts
        else:
            assert noted[i]["status"] is None and (lasts + 0.1 > until - 3 or len(durations) > at_once)
            assert "skipped" in noted[i] or noted[i]["seconds"] > 0
