"""The command study."""

import json
import signal
import subprocess
import sys
import time

import pytest

from primeattn import cli, study

TINY = ["--quick", "--patterns", "squares", "--layers", "1", "--steps", "2", "--jobs", "1"]


@pytest.mark.slow
def test_what_it_trains_prints_and_writes(tmp_path, capsys):
    command = ["study", "needle", *TINY, "--seeds", "2", "--lr", "0.01", "0.02", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    files = sorted(path.name for path in tmp_path.iterdir())
    assert printed.splitlines()[-1] == f"{tmp_path}: {', '.join(files)}"
    assert {"predictions.json", "report.json", "report.md", "figure.png", "runs.jsonl"} <= set(files)
    header, line = printed.splitlines()[:2]
    assert header.split()[:3] == ["task", "pattern", "layers"] and "squares" in line
    runs = [json.loads(line)["run"] for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [(run["seed"], run["lr"], run["steps"]) for run in runs] == [
        (0, 0.01, 2), (0, 0.02, 2), (1, 0.01, 2), (1, 0.02, 2)
    ]  # fmt: skip
    before = (tmp_path / "runs.jsonl").read_bytes()
    assert cli.main([*command, "--json"]) == 0  # nothing is trained again
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "report.json").read_text())
    assert (tmp_path / "runs.jsonl").read_bytes() == before
    assert cli.main([*command, "--seeds", "3"]) == 2
    assert "take another folder" in capsys.readouterr().err


def test_a_study_whose_runs_all_fail_is_an_error(tmp_path, capsys):
    assert cli.main(["study", "needle", *TINY, "--lr", "1e30", "--out", str(tmp_path)]) == 2
    assert "all 3 runs failed: training: loss" in capsys.readouterr().err
    assert "3 runs failed" in (tmp_path / "report.md").read_text()


def test_predictions_are_there_before_the_first_run(tmp_path, monkeypatch, capsys):
    def stopped(runs, out, jobs):
        assert json.loads((out / "predictions.json").read_text())["predictions"][0]["pattern"] == "squares"
        assert len(runs) == 3 and jobs == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run", stopped)
    assert cli.main(["study", "needle", *TINY, "--out", str(tmp_path)]) == 130
    printed, errors = capsys.readouterr()
    expected = (
        f"primeattn: interrupted; the same command goes on with the runs that {tmp_path} does not have\n"
    )
    assert printed == "" and errors == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: STUDY"),
        (["haystack"], "argument STUDY: invalid choice: 'haystack'"),
        (["needle", "--patterns"], "argument --patterns: expected at least one argument"),
        (["needle", "--patterns", "prymes"], "sequence: expected one of"),
        (["needle", "--patterns", "window"], "expected 'window as' a sequence"),
        (["needle", "--layers", "0"], "layers: expected an integer >= 1, got 0"),
        (["needle", "--lr", "-1"], "lr: expected a number above 0, got -1.0"),
        (["needle", "--seeds", "0"], "seeds: expected an integer >= 1, got 0"),
        (["needle", "--steps", "0"], "steps: expected an integer >= 1, got 0"),
        (["needle", "--jobs", "0"], "jobs: expected an integer >= 1, got 0"),
        (["needle", "--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
        (
            ["needle", "--patterns", "primes and squares"],
            "patterns: expected one pattern for all heads or 1 of them, got 'primes and squares'",
        ),
        (["needle", "--out", "file"], "file"),
        (["needle", "--out", "file/out"], "file"),
    ],
)
def test_bad_arguments_are_one_line_and_leave_nothing(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study, "run", None)  # bad ones do not come so far
    (tmp_path / "file").write_text("")
    assert cli.main(["study", *arguments]) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.startswith("primeattn: error: ") and errors.count("\n") == 1
    assert message in errors and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(tmp_path, jobs):
    words = ["study", "copy", "--quick", "--jobs", jobs, "--out", str(tmp_path), "--steps", "40"]
    command = [sys.executable, "-m", "primeattn", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "runs.jsonl"
    while not (runs.exists() and runs.read_bytes()) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    printed, errors = child.communicate(timeout=60)
    assert (child.returncode, printed, errors.count("\n")) == (
        130,
        "",
        1,
    ) and "interrupted; the same" in errors
    before = runs.read_bytes()
    assert before.count(b"\n") < 18
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert runs.read_bytes().startswith(before) and runs.read_bytes().count(b"\n") == 18
