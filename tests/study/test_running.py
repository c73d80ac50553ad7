import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from primeattn.study import key, run, running, summary


class Executor:
    """What has ``submit``, as a client has."""

    def submit(self):
        raise AssertionError("nothing is to be submitted")


def lines(out):
    return sorted((out / "runs.jsonl").read_bytes().splitlines())


def test_records_summary_and_files(runs, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    records = run(runs, out=str(out))
    assert capsys.readouterr() == ("", "")  # the bar is for terminals
    assert [record["run"] for record in records] == runs
    assert [record["key"] for record in records] == [key(one) for one in runs]
    assert [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()] == records
    table = summary(records)
    assert json.loads((out / "summary.json").read_text()) == table and len(table) == 2
    assert (out / "summary.csv").read_text() == table.csv()


def test_what_is_done_is_not_done_again(runs, tmp_path, monkeypatch):
    first = run(runs[:2], out=tmp_path)
    trained = []

    def counted(left):
        for one in original(left):
            trained.append(one[0])
            yield one

    original = running.one_by_one
    monkeypatch.setattr(running, "one_by_one", counted)
    renamed = [dict(one, pattern="other name") for one in runs]
    records = run([*renamed, renamed[3]], out=tmp_path)
    assert trained == [key(one) for one in runs[2:]] and len(records) == 5
    assert [record["result"] for record in records[:2]] == [record["result"] for record in first]
    assert {record["run"]["pattern"] for record in records} == {"other name"}
    monkeypatch.setattr(running, "code_version", lambda: "newer")
    again = run(runs, out=tmp_path)
    assert len(trained) == 6 and len(lines(tmp_path)) == 8
    assert [record["result"] for record in again] == [record["result"] for record in records[:4]]


def test_a_torn_line_is_trained_again(runs, tmp_path):
    run(runs, out=tmp_path)
    whole = lines(tmp_path)
    content = (tmp_path / "runs.jsonl").read_bytes()
    (tmp_path / "runs.jsonl").write_bytes(content[: len(content) * 2 // 3])
    run(runs, out=tmp_path)
    assert lines(tmp_path) == whole


SCRIPT = """
import json, os, signal, sys
from primeattn.study import run, workers

out, jobs, deadly = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
train, count = workers.train, 0

def killed(one):
    global count
    count += 1
    if count == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(one)

if __name__ == "__main__":
    workers.train = killed
    run(json.loads(sys.stdin.read()), out=out, jobs=jobs)
"""


def start(runs, out, jobs, deadly=0):
    command = [sys.executable, "-c", SCRIPT, str(out), str(jobs), str(deadly)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    process.stdin.write(json.dumps(runs).encode())
    process.stdin.close()
    return process


@pytest.mark.slow
def test_a_killed_study_goes_on(runs, tmp_path):
    run(runs, out=tmp_path / "whole")
    assert start(runs, tmp_path / "killed", jobs=1, deadly=3).wait() == -signal.SIGKILL
    assert len(lines(tmp_path / "killed")) == 2
    records = run(runs, out=tmp_path / "killed")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole") and len(records) == 4


@pytest.mark.slow
def test_two_jobs_give_the_same(runs, tmp_path):
    run(runs, out=tmp_path / "one")
    before = dict(os.environ)
    run(runs, out=tmp_path / "two", jobs=2)
    assert lines(tmp_path / "one") == lines(tmp_path / "two") and os.environ == before


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_at_random_five_times(runs, tmp_path, jobs):
    runs = [dict(one, steps=300, seed=seed) for one in runs[::2] for seed in range(8)]
    run(runs, out=tmp_path / "whole")
    chance, path = random.Random(0), tmp_path / "killed" / "runs.jsonl"
    for kill in range(5):
        process = start(runs, tmp_path / "killed", jobs=jobs)
        while not path.exists() or path.read_bytes().count(b"\n") < 3 * kill:  # not all in its first moments
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        assert process.poll() is None
        process.kill()
    assert start(runs, tmp_path / "killed", jobs=jobs).wait() == 0
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


OWN = """
from dataclasses import dataclass
import sys
import numpy as np, primeattn as pa

@pa.sequences.register(
    "sevens", title="Sevens", oeis=None, count=lambda x: x / 7, asymptotic="x / 7", why="an example"
)
def sevens(known, start, stop):
    return 7 * np.arange(start // 7 + 1, stop // 7 + 1)

@dataclass(frozen=True, repr=False)
class majority(pa.tasks.Task):
    length: int = 16
    vocab, chance = 2, 0.5

    def draw(self, rng, batch):
        tokens = rng.integers(2, size=(batch, self.length))
        return tokens, (2 * np.cumsum(tokens, axis=1) > np.arange(1, self.length + 1)).astype(int)

if __name__ == "__main__":
    patterns = {"sevens": pa.Pattern("sevens"), "all": pa.Pattern(None, window=15)}
    runs = pa.study.grid([majority()], patterns, seeds=2, steps=100, width=16)
    print(pa.study.summary(pa.study.run(runs, out=sys.argv[1], jobs=2)))
"""


@pytest.mark.slow
def test_a_task_and_a_sequence_of_the_users(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    command = [sys.executable, str(tmp_path / "own.py"), str(tmp_path / "out")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[1] for line in printed] == ["pattern", "sevens", "all"]
    assert len(lines(tmp_path / "out")) == 4


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks into /proc")
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_a_study(runs, tmp_path, end):
    process = start([dict(one, steps=10**6) for one in runs], tmp_path, jobs=2)
    time.sleep(8)
    workers = children(process.pid)
    assert len(workers) >= 2 and all(map(alive, workers))
    process.send_signal(end)
    assert process.wait(timeout=20) != 0
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_bad_input_writes_nothing(runs, tmp_path):
    for bad, options, error, match in [
        ([runs[0], dict(runs[1], lr=-1)], {}, ValueError, "lr: expected a number above 0, got -1"),
        (runs[0], {}, TypeError, "runs: expected a list of runs, got dict"),
        (runs, {"jobs": 0}, ValueError, "jobs: expected an integer >= 1, got 0"),
        (runs, {"scheduler": "tcp"}, TypeError, "scheduler: expected a distributed.Client, got 'tcp'"),
        (runs, {"jobs": 2, "scheduler": Executor()}, ValueError, "jobs: expected 1 with a scheduler"),
    ]:
        with pytest.raises(error, match=match):
            run(bad, out=tmp_path / "out", **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        '{"key": 1}',
        '{"key": "a", "code": "b", "run": {}, "result": {}}',
        '{"key": "a", "code": "b", "run": {}, "result": null}',
        '{"key": [], "code": "b", "run": {}, "result": {}}',
        "[" * 100_000,
    ],
)
def test_a_file_of_something_else_is_refused(runs, tmp_path, line):
    (tmp_path / "runs.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match=r"out: line 1 of .*runs\.jsonl"):
        run(runs, out=tmp_path)
    assert (tmp_path / "runs.jsonl").read_text() == line + "\n"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"test": "abc"}, "finite numbers for 'test', got abc"),
        ({"test": float("nan")}, "finite numbers for 'test', got nan"),
        ({"validation": None}, "finite numbers for 'validation', got None"),
        ({"losses": []}, r"finite numbers for 'losses', got \[\]"),
        ({"asked": [1, 2, 3]}, "expected 'at', 'asked' and 'score' of one length"),
        ({"score": [True]}, r"finite numbers for 'score', got \[True\]"),
    ],
)
def test_numbers_that_are_none_are_refused_by_line(runs, tmp_path, change, match):
    run(runs[:1], out=tmp_path)
    record = json.loads((tmp_path / "runs.jsonl").read_text())
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write(json.dumps(record | {"result": record["result"] | change}) + "\n")
    with pytest.raises(ValueError, match=rf"out: line 2 of runs\.jsonl: .*{match}"):
        run(runs, out=tmp_path)
