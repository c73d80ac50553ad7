import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from primeattn.kernels import get_num_threads
from primeattn.study import run

distributed = pytest.importorskip("distributed")


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_local_cluster_gives_the_same(runs, tmp_path, processes):
    run(runs, out=tmp_path / "here")
    threads = get_num_threads()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.Client(processes=processes, **options) as client:
        records = run(runs, out=tmp_path / "there", scheduler=client)
    assert get_num_threads() == threads and [record["run"] for record in records] == runs
    assert lines(tmp_path / "here") == lines(tmp_path / "there")


def lines(out):
    return sorted((out / "runs.jsonl").read_bytes().splitlines())


SCRIPT = """
import json, sys
from distributed import Client
from primeattn.study import run

if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        run(json.loads(sys.stdin.read()), out=sys.argv[1], scheduler=client)
"""


@pytest.mark.slow
def test_killed_at_random_five_times_with_its_cluster(runs, tmp_path):
    runs = [dict(one, steps=150, seed=seed) for one in runs[::2] for seed in range(6)]
    run(runs, out=tmp_path / "whole")
    chance = random.Random(0)
    for most in (8, 8, 8, 8, 8, None):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        process.stdin.write(json.dumps(runs).encode())
        process.stdin.close()
        if most is not None:
            time.sleep(chance.uniform(3, most))
            os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == 0
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
