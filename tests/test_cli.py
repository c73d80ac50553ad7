import json
import os
import signal
import subprocess
import sys
import time
import warnings

import matplotlib
import pytest

from primeattn import Pattern, analysis, cli, info, kernels, sequences
from primeattn import _command as command

COMMANDS = ("mask", "reach", "compare", "sequences", "info", "train", "study", "bench")
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


def test_train_prints_json_and_names_its_files(text, tmp_path, capsys):
    command = ["train", "--text", text, "--out", str(tmp_path / "out"), "--steps", "2", *TINY]
    assert cli.main(command) == 0
    *_, files = capsys.readouterr().out.splitlines()
    folder, names = files.split(": ")
    assert folder == str(tmp_path / "out")
    assert sorted(names.split(", ")) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert cli.main([*command, "--json", "--force"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "results.json").read_text())


@pytest.mark.slow
def test_resume_and_threads(text, tmp_path, capsys):
    command = ["train", "--text", text, "--out", str(tmp_path), "--steps", "3", *TINY]
    assert cli.main(command) == cli.main([*command, "--resume", "--threads", "1"]) == 0
    assert cli.main([*command, "--resume", "--width", "32"]) == 2
    assert capsys.readouterr().err == (
        "primeattn: error: resume: the checkpoint was made with width = 16, got 32; "
        "--resume (resume=True) takes the same options and text, --force (force=True) starts anew\n"
    )


@pytest.mark.slow
def test_a_run_is_overwritten_only_by_force(text, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["train", "--text", text, "--out", str(out), "--steps", "3", *TINY]
    assert cli.main(command) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    for changed in ([], ["--seed", "4"]):
        assert cli.main([*command, *changed]) == 2
        printed, errors = capsys.readouterr()
        assert printed == "" and errors.count("\n") == 1 and "holds a run (checkpoint.npz, results" in errors
        assert "--resume" in errors and "--force" in errors
    assert cli.main([*command, "--seed", "4", "--resume"]) == 2
    errors = capsys.readouterr().err
    assert "seed = 3, got 4" in errors and "--force" in errors and errors.count("\n") == 1
    assert cli.main([*command, "--resume", "--force"]) == 2
    assert "got both" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert cli.main([*command, "--seed", "4", "--force"]) == 0
    assert json.loads((out / "results.json").read_text())["config"]["seed"] == 4


def child(*arguments, **options):
    command = [sys.executable, "-m", "primeattn", *arguments]
    return subprocess.run(command, capture_output=True, **options)


def test_a_picture_that_cannot_be_drawn_costs_a_warning(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no LaTeX
    out = tmp_path / "out"
    with matplotlib.rc_context({"text.usetex": True}):
        with pytest.warns(UserWarning, match=r"(loss|mask)\.png was not drawn: ") as caught:
            assert cli.main(["train", "--text", text, "--out", str(out), "--steps", "2", *TINY]) == 0
        assert len(caught) == 2
        assert {path.name for path in out.iterdir()} == {"checkpoint.npz", "results.json", "sample.txt"}
        assert capsys.readouterr().out.endswith(f"\n{out}: checkpoint.npz, results.json, sample.txt\n")
        command = ["reach", "primes", "--layers", "1", "--json", "--out", str(tmp_path / "a.png")]
        assert cli.main(command) == 2
    printed, errors = capsys.readouterr()
    assert json.loads(printed)["patterns"] and json.loads(printed)["file"] is None
    assert errors.startswith("primeattn: error: ") and errors.count("\n") == 1


def test_warnings_are_one_line(capsys, monkeypatch):
    lines = []

    def collect():
        lines.append(warnings.formatwarning(UserWarning("so and so"), UserWarning, "file.py", 3))

    before = warnings.formatwarning
    parser = command.Parser(prog="primeattn")
    parser.set_defaults(run=lambda arguments: collect())
    assert command.run(parser, []) == 0 and lines == ["primeattn: warning: so and so\n"]
    assert warnings.formatwarning is before


def test_pictures_need_no_backend(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://no_such_package.backend"}
    done = child("mask", "primes", "--out", tmp_path / "mask.png", env=environment)
    assert done.returncode == 0 and (tmp_path / "mask.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        ("sequences >&-", 0, b""),
        ("sequences >/dev/full", 2, b"primeattn: error: [Errno 28] No space left on device\n"),
        ("info --jsn >&- 2>&-", 2, b""),
        ("info --jsn 2>/dev/full", 2, b""),
    ],
)
def test_a_console_that_is_closed_or_full(command, status, printed):
    done = subprocess.run(f'"{sys.executable}" -m primeattn {command}', shell=True, capture_output=True)
    assert done.returncode == status and done.stdout + done.stderr == printed


def test_training_without_a_console(text, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    out = tmp_path / "out"
    assert cli.main(["train", "--text", text, "--out", str(out), "--steps", "2", *TINY]) == 0
    assert json.loads((out / "results.json").read_bytes())


@pytest.mark.slow
def test_what_a_console_cannot_show_is_escaped(text, tmp_path, capsys):
    done = child("sequences", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"\\u221a" in done.stdout and done.stderr == b""
    name = f"{tmp_path}/\udcff"  # how Python writes the byte 255 in the name of a file
    with open(name, "wb") as file:
        file.write(b"text " * 99)
    assert cli.main(["train", "--text", name, "--out", f"{name}out", "--steps", "2", *TINY]) == 0
    assert capsys.readouterr().out.startswith("\\udcff: 446 bytes")
    with open(f"{name}out/results.json") as file:
        assert json.load(file)["text"] == "\udcff"
    assert cli.main(["mask", "primes", "--out", f"{name}.svg"]) == 0 and os.path.exists(f"{name}.svg")
    assert cli.main(["mask", "primes", "--out", f"{name}/a.svg"]) == 2
    errors = capsys.readouterr().err
    assert "\\udcff" in errors and errors.count("\n") == 1


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


BAD = [
    ([], "the following arguments are required: COMMAND; see primeattn --help"),
    (["fly"], "invalid choice: 'fly'"),
    (["train", "--stepz", "3"], "unrecognized arguments: --stepz 3"),
    (["train", "--steps", "many"], "argument --steps: invalid int value: 'many'; see primeattn train --help"),
    (["train", "--step", "3"], "unrecognized arguments: --step 3"),
    (["bench"], "the following arguments are required: BENCHMARK; see primeattn bench --help"),
    (["bench", "cpu", "--n", "0"], "n: expected an integer >= 1, got 0"),
    (["bench", "cpu", "--heads"], "argument --heads: expected at least one argument"),
    (["sequences", "primes"], "unrecognized arguments: primes"),
    (["info", "--jsn"], "unrecognized arguments: --jsn"),
    (["info", "-n", "64"], "n: expected with --pattern only"),
    (["info", "--pattern", "primes", "--dtype", "int8"], "dtype: expected one of"),
    (["info", "--pattern", "prims"], "prims"),
    (["mask", "primes", "--out", "mask.xyz"], "path: expected a file name that ends in"),
    (["mask", "primes", "--out", "."], "path: expected a file, got the folder '.'"),
    (["mask", "primes", "--out", "file/mask.png"], "file"),
    (["mask", "primes", "-n", "0"], "n: expected an integer >= 1, got 0"),
    (["reach", "primes", "-n", "1"], "n: expected an integer >= 2, got 1"),
    (["reach", "primes", "--layers", "0"], "layers: expected an integer >= 1, got 0"),
    (["reach", "primes", "--layers", "100"], "layers: expected at most 99, got 100"),
    (["reach", "primes", "--out", "reach"], "path: expected a file name that ends in"),
    (["compare", "primes", "-n", "1048577"], "n: expected at most 1048576, got 1048577"),
    (["info", "--pattern", "primes", "-n", str(10**21)], "n: expected an integer <= 16777216, got 1000000"),
    (["mask", "strided(10000000000000000000000000000000000000000)"], "stride: expected an integer <= 922"),
    (["mask", "dilated(1, 10000000000000000000)"], "count: expected an integer <= 922"),
    (["mask", f"shift(primes, {2**70})"], "by: expected an integer <= 922"),
    (["mask", f"shift(primes, -{2**62})"], "limit: expected at most 134217728 terms"),
    (["mask", "quadratic_residues(4611686018427387847)"], "q: expected an odd prime up to 16777216"),
    (["mask", "smooth(2305843009213693953)"], "p: expected a prime, got 2305843009213693953"),
    (["mask", "lucky", "-n", "16777216"], "limit: expected at most 2097152 for lucky, got 16777"),
]
BAD += [
    ([command, *options], message)
    for command in ("mask", "reach", "compare")
    for options, message in (
        ([], f"the following arguments are required: SEQUENCE; see primeattn {command} --help"),
        (["prymes"], "sequence: expected one of"),
        (["powers(1)"], "base: expected an integer >= 2, got 1"),
        (
            ["primes |"],
            "sequence: expected such as 'primes', 'powers(3)' or '2 * primes | squares', got 'primes |'",
        ),
        (["primes", "--window", "-1"], "window: expected an integer >= 0, got -1"),
        (["primes", "--global-tokens", "x"], "argument --global-tokens: invalid int value: 'x'"),
        (["primes", "-n", "16777217"], "n: expected at most 16777216, got 16777217"),
    )
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_arguments_are_one_line_and_status_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert cli.main(arguments) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.startswith("primeattn: error: ") and errors.count("\n") == 1
    assert message in errors and [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("two\nlines"), OSError(28, "No space left")])
def test_other_failures_are_one_line_too(error, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(info, "collect", fail)
    assert cli.main(["info"]) == 2
    printed, errors = capsys.readouterr()
    assert printed == "" and errors.count("\n") == 1 and len(errors) > len("primeattn: error: \n")


def test_interrupt(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(info, "collect", interrupted)
    assert cli.main(["info"]) == 130
    assert capsys.readouterr().err == "primeattn: interrupted\n"


def test_a_reader_that_stops_reading_is_no_error():
    child = subprocess.Popen(
        [sys.executable, "-m", "primeattn", "sequences"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    child.stdout.close()
    assert child.wait(timeout=60) == 0 and child.stderr.read() == ""


def test_help_and_version(capsys):
    for arguments, expected in (
        (["--version"], "primeattn "),
        (["--help"], "train"),
        (["train", "-h"], "--global-tokens"),
        *(([name, "-h"], f"examples:\n  primeattn {name}") for name in COMMANDS),
    ):
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        assert exit.value.code == 0 and expected in capsys.readouterr().out


CALLED_BY_C = """
import ctypes, signal, sys, time
from primeattn import _command

def run(arguments):
    ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(signal.SIGINT))()  # as a compiler may call Python
    time.sleep(60)

parser = _command.Parser(prog="p")
parser.set_defaults(run=run)
sys.exit(_command.run(parser, None))
"""


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_a_function_that_c_calls_is_not_lost():
    done = subprocess.run([sys.executable, "-c", CALLED_BY_C], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, "p: interrupted\n")


@pytest.mark.parametrize("presses", [1, 5])
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_exits_with_130_and_one_line(text, tmp_path, presses):
    out = tmp_path / "out"
    command = ["-m", "primeattn", "train", "--text", text, "--out", str(out), "--steps", "1000000", *TINY]
    child = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (out / "checkpoint.npz").exists() and child.poll() is None:
            time.sleep(0.01)
        for _ in range(presses):
            child.send_signal(signal.SIGINT)
            time.sleep(0.001)
        printed, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert child.returncode == 130 and printed == ""
    assert errors.startswith("primeattn: interrupted") and errors.count("\n") == 1
    if presses == 1:  # a second one does not wait until the step is done and saved
        assert "of 1000000; resume goes on from there" in errors
        assert [path.name for path in out.iterdir()] == ["checkpoint.npz"]


def run(capsys, *arguments):
    assert cli.main([*map(str, arguments)]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    return printed


def run_json(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json"))


@pytest.mark.parametrize(
    "names",
    [["primes"], pytest.param(["primes", "none", "2 * squares | powers(3)"], marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("n", "suffix"), [(64, "png"), (2000, "svg")])
def test_mask(names, n, suffix, tmp_path, capsys):
    file = tmp_path / "new" / f"mask.{suffix}"
    options = ["-n", n, "--window", 4, "--global-tokens", 1, "--out", file]
    found = run_json(capsys, "mask", *names, *options)
    patterns = [Pattern(None if name == "none" else name, window=4, global_tokens=1) for name in names]
    assert found == {
        "n": n,
        "patterns": [
            {"pattern": repr(p), "pairs": p.num_pairs(n), "density": p.density(n)} for p in patterns
        ],
        "file": str(file),
    }
    assert file.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml") and list(file.parent.iterdir()) == [file]
    assert run(capsys, "mask", *names, *options).splitlines()[-1] == str(file)


def test_mask_goes_into_the_folder_at_hand(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "mask", "primes").splitlines() == [
        "pattern                                     pairs  density",
        "Pattern(primes, window=3, global_tokens=2)    865   0.4159",
        "mask.png",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_reach(tmp_path, capsys):
    patterns = [Pattern(name, window=3, global_tokens=2) for name in ("primes", "squares")]
    rows = analysis.reach_by_layer(patterns, 500, 4)
    command = ["reach", "primes", "squares", "-n", 500, "--layers", 4]
    assert run_json(capsys, *command) == {"n": 500, "patterns": rows, "file": None}
    assert run(capsys, *command) == f"{rows}\n"
    file = tmp_path / "reach.png"
    assert run(capsys, *command, "--out", file) == f"{rows}\n{file}\n"
    assert file.read_bytes().startswith(b"\x89PNG")


def test_compare(capsys):
    names = ("mian_chowla", "matched_random(mian_chowla, 0)")
    rows = analysis.compare([Pattern(name, window=1) for name in names], 300)
    command = ["compare", *names, "-n", 300, "--window", 1, "--global-tokens", 0]
    assert run_json(capsys, *command) == {"n": 300, "patterns": rows, "file": None}
    assert run(capsys, *command) == f"{rows}\n"


def test_sequences(capsys):
    found = run_json(capsys, "sequences")
    assert found == {"sequences": analysis.catalogue(), "families": list(sequences.families())}
    printed = run(capsys, "sequences")
    for row in found["sequences"]:
        assert row["name"] in printed and row["oeis"] in printed and row["why"] in printed
    assert "powers(base)" in printed


def test_info_explains_which_gpu_kernel_a_pattern_gets(capsys):
    choice = kernels.explain_kernel(Pattern("primes", window=5, global_tokens=2), 8192, 128, "float16")
    command = ["info", "--pattern", "primes", "-n", "8192", "--window", "5", "--head-dim", "128"]
    command += ["--dtype", "float16"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.endswith(f"{choice}\n")
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kernel"], found["wheel"]) == (choice.kernel, choice.wheel)
    assert found["n"] == 8192 and found["table"] == json.loads(json.dumps(choice.table))
