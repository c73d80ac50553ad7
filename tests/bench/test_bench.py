import argparse
import json
import os
import subprocess
import sys

import pytest

from primeattn import bench
from primeattn.bench import cpu, peers, startup, step

NAME = "python -m primeattn.bench"


@pytest.fixture
def quick(monkeypatch):
    for module in (peers, cpu):
        monkeypatch.setattr(module, "find_torch", lambda: None)
    monkeypatch.setattr("primeattn.bench.timing.TURN", 0)
    monkeypatch.setattr("primeattn.bench.timing.SETTLE", 0)
    monkeypatch.setattr(cpu, "copy_bandwidth", lambda threads: 10.0)


@pytest.mark.slow
def test_cpu_writes_and_prints(quick, tmp_path, capsys):
    options = [
        "--n",
        "64",
        "16",
        "--heads",
        "1",
        "--threads",
        "1",
        "--sequences",
        "primes",
        "--budget",
        "0.01",
    ]
    out = tmp_path / "new folder"
    assert bench.main(["cpu", *options, "--out", str(out)]) == 0
    printed, errors = capsys.readouterr()
    assert "- torch causal, torch mask, FlexAttention: torch is not installed" in printed and errors == ""
    first = [line.split()[0].rstrip("!") for line in printed.splitlines() if "x" in line.split(" ")[0]]
    assert (
        first
        == ["1x1x16x64", "1x1x64x64", "1x1x64x32", "1x1x64x80", "1x1x64x128", "1x1x64x64", "32x4x256x32"] * 2
    )
    results = json.loads((out / "data" / "cpu.json").read_text())
    assert (
        results["command"]
        == f"{NAME} cpu --out '{out}' --threads 1 --n 64 16 --budget 0.01 --heads 1 --sequences primes"
    )
    assert results["settings"]["n"] == [16, 64] and results["machine"] and results["versions"]
    timed = {(row["peer"], row["n"]) for row in results["rows"] if "median_s" in row}
    assert timed >= {("primeattn", 64), ("dense NumPy", 64), ("scalar loop", 16)}
    assert sorted(path.name for path in out.rglob("*")) == ["cpu.json", "cpu.png", "data"]


def test_step_and_startup(tmp_path, capsys, monkeypatch):
    row = {"n": 8, "threads": 1, "primeattn": {}, "tokens_per_s": 1e6, "cores_of_others": None}
    row |= {"layer_allocation_bytes": 2048, "step_allocation_bytes": 1024}
    monkeypatch.setattr(step, "run", lambda **options: {"rows": [row], "notes": [], "options": options})
    monkeypatch.setattr(startup, "run", lambda: {"rows": [startup._row("something", [1.0, 2.0])]})
    assert bench.main(["step", "--n", "8", "--threads", "1", "--budget", "0.5", "--out", str(tmp_path)]) == 0
    assert bench.main(["startup", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "training step" in printed and "something" in printed and "1.500" in printed
    assert json.loads((tmp_path / "data" / "startup.json").read_text())["command"].startswith(
        f"{NAME} startup"
    )
    written = json.loads((tmp_path / "data" / "step.json").read_text())
    assert written["options"] == {"n": [8], "threads": [1], "budget": 0.5, "quick": False}


@pytest.mark.parametrize(
    "options, message",
    [
        (["cpu", "--n", "0"], "n: expected an integer >= 1, got 0"),
        (["cpu", "--heads", "-1"], "heads: expected an integer >= 1, got -1"),
        (["cpu", "--threads", "1", "0"], "threads: expected an integer >= 1, got 0"),
        (["cpu", "--budget", "0"], "budget: expected a finite number of seconds above 0, got 0.0"),
        (["cpu", "--sequences", "prymes"], "sequence: expected one of"),
        (["step", "--n", "0"], "n: expected an integer >= 1, got 0"),
        (["step", "--budget", "nan"], "budget: expected a finite number of seconds above 0, got nan"),
    ],
)
def test_bad_input(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench.main(options) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.startswith(f"{NAME}: error: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [[], ["tpu"], ["cpu", "--n", "x"], ["cpu", "--n"], ["startup", "--quick"]]
)
def test_what_argparse_refuses(options, capsys):
    assert bench.main(options) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"{NAME}: error: ") and errors.count("\n") == 1 and "--help" in errors


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cpu, "run", lambda **options: pytest.fail("timed"))
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        assert bench.main(["cpu", "--out", str(tmp_path / out)]) == 2
        assert "Not a directory" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["file"]


def test_interrupt(monkeypatch, capsys, tmp_path):
    def interrupted(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cpu, "run", interrupted)
    assert bench.main(["cpu", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == f"{NAME}: interrupted\n" and list(tmp_path.iterdir()) == []


def test_arguments_join_another_parser(monkeypatch, tmp_path):
    given = {}

    def run(**options):
        given.update(options)
        raise KeyError("enough")

    monkeypatch.setattr(cpu, "run", run)
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser.add_subparsers().add_parser("bench"))
    arguments = parser.parse_args(["bench", "cpu", "--quick", "--threads", "1", "2", "--out", str(tmp_path)])
    with pytest.raises(KeyError, match="enough"):
        arguments.run(arguments)
    assert given == {
        "n": None, "heads": None, "threads": [1, 2], "sequences": None, "budget": None, "quick": True
    }  # fmt: skip


def test_as_a_module_it_loads_nothing_that_help_does_not_need():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['bench', '--help']\n"
        "try: runpy.run_module('primeattn.bench', run_name='__main__')\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "assert not {'torch', 'matplotlib', 'tqdm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("cpu", "step", "startup"))
