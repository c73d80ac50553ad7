import json
import signal
import subprocess
import sys
import time

import pytest

from primeattn import Pattern, analysis, cli, info, kernels, sequences

COMMANDS = ("mask", "reach", "compare", "sequences", "info", "train", "bench")
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
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "results.json").read_text())


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
        (["primes |"], "sequence: expected such as 'primes', 'powers(3)' or '2 * primes', got 'primes |'"),
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


def run(capsys, *arguments):
    assert cli.main([*map(str, arguments)]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    return printed


def run_json(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json"))


@pytest.mark.parametrize("names", [["primes"], ["primes", "none", "2 * squares | powers(3)"]])
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
