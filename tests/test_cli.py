import json
import signal
import subprocess
import sys
import time

import pytest

from primeattn import cli

CONFIG = {"layers": 1, "width": 16, "heads": 2, "context": 24, "batch": 2, "window": 2, "lr": 0.01, "seed": 3}
TINY = [f"--{name}={value}" for name, value in CONFIG.items()]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes(b"".join(b"line %d of %d\n" % (i, i * i % 89) for i in range(200)))
    return str(path)


def test_train_delegates_every_option(text, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["train", "--text", text, "--out", str(out), "--sequence", "squares", "--steps", "3", *TINY]
    assert cli.main([*command, "--global-tokens", "1"]) == 0
    results = json.loads((out / "results.json").read_text())
    expected = {**CONFIG, "sequence": "squares", "steps": 3, "global_tokens": 1}
    assert results["config"] == expected and results["text"] == "text"
    printed, errors = capsys.readouterr()
    assert errors == ""
    for name in (
        "bits_per_byte",
        "bits_per_byte_without_sequence",
        "order2_bits_per_byte",
        "bz2_bits_per_byte",
    ):
        assert f"{name:32}{results[name]:8.4f}" in printed
    assert "squares" in printed and results["sample"] in printed


def test_resume_and_threads(text, tmp_path, capsys):
    command = ["train", "--text", text, "--out", str(tmp_path), "--steps", "3", *TINY]
    assert cli.main(command) == cli.main([*command, "--resume", "--threads", "1"]) == 0
    assert cli.main([*command, "--resume", "--width", "32"]) == 2
    assert capsys.readouterr().err == (
        "primeattn: error: resume: the checkpoint was made with width = 16, got 32; "
        "give the same options and text, or start anew without resuming\n"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (["--text", "missing"], "text: expected a file, found none at 'missing'"),
        (["--steps", "0"], "TrainConfig: steps must be at least 1, got 0"),
        (["--sequence", "prymes"], "prymes"),
        (["--threads", "0"], "expected an integer >= 1, got 0"),
        (["--resume"], "checkpoint.npz"),
    ],
)
def test_errors_are_one_line_and_status_2(options, message, text, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["train", "--text", text, "--out", str(out), *TINY, *options]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("primeattn: error: ") and errors.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--stepz", "3"], ["train", "--steps", "many"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2 and "usage: primeattn" in capsys.readouterr().err


def test_help_and_version(capsys):
    for arguments, expected in (
        (["--version"], "primeattn "),
        (["--help"], "train"),
        (["train", "-h"], "--global-tokens"),
    ):
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        assert exit.value.code == 0 and expected in capsys.readouterr().out


def test_ctrl_c_saves_and_exits_with_130(text, tmp_path):
    out = tmp_path / "out"
    command = ["-m", "primeattn", "train", "--text", text, "--out", str(out), "--steps", "1000000", *TINY]
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (out / "checkpoint.npz").exists() and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    printed, errors = child.communicate(timeout=30)
    assert child.returncode == 130 and printed == ""
    assert errors.startswith("primeattn: interrupted; ") and "of 1000000; resume goes on from there" in errors
    assert [path.name for path in out.iterdir()] == ["checkpoint.npz"]
