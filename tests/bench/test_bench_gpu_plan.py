"""The plan of all checks on a GPU: what runs, side by side or alone, and by when it ends."""

import itertools
import sys
from pathlib import Path

import pytest

from primeattn import bench
from primeattn.bench import gpu_plan, gpu_stages
from primeattn.bench.gpu_plan import ON_REQUEST, STAGES, make_plan, processes
from primeattn.kernels.call import GPU_KERNELS

OUT = Path("figures")


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(gpu_plan, "sanitizer", lambda: "/bin/compute-sanitizer")


UNASKED = tuple(stage for stage in STAGES if stage not in ON_REQUEST)


def plan(stages=UNASKED, limit=gpu_plan.LIMIT, cores=16):
    return make_plan(stages, limit, GPU_KERNELS, OUT, cores)


@pytest.mark.parametrize("cores", [2, 3, 4, 16, 64])
def test_all_of_it_takes_nine_minutes_at_most_on_any_number_of_cores(cores, tool):
    steps = plan(cores=cores)
    assert sum(step.seconds for step in steps) == steps[-1].until == 540
    assert [step.name for step in steps if step.skipped is not None] == []
    assert all(b.until == a.until + b.seconds for a, b in itertools.pairwise(steps))
    assert all(1 <= step.at_once <= min(cores, 16, len(step.processes)) for step in steps)
    together, benchmark = steps[1], steps[-1]
    assert together.at_once == min(cores, 16) and len(together.processes) == 34
    assert benchmark.name == "benchmark" and benchmark.seconds >= 45
    names = [process.name for step in steps for process in step.processes]
    assert len(set(names)) == len(names)
    assert names == [p.name for stage in UNASKED for p in processes(stage, GPU_KERNELS, OUT)]


@pytest.mark.parametrize("limit", [5, 9.9, 10, 75, 80, 100, 284, 300, 480, 529, 531, 540, 3000])
def test_a_limit_cuts_the_last_steps(limit, tool):
    steps = plan(limit=limit)
    assert sum(step.seconds for step in steps) <= limit
    run = [step for step in steps if step.skipped is None]
    assert all(step.seconds >= gpu_plan.SHORTEST for step in run)
    whole = plan()
    assert [step.name for step in steps] == [step.name for step in whole]
    for step, other in zip(run, whole, strict=False):  # the others have all they want
        assert step.seconds == other.seconds or step is run[-1]
    if limit >= 540:
        assert run[-1].name == "benchmark" and run[-1].until == limit


def test_stages_that_are_asked_for_get_their_seconds_and_the_benchmark_the_rest():
    assert [(s.name, s.seconds, s.until) for s in plan(("versions", "launch", "benchmark"))] == [
        ("versions", 75, 75), ("launch gather", 30, 105), ("launch wheel", 30, 135), ("benchmark", 405, 540),
    ]  # fmt: skip
    (_, checks) = plan(("versions", "long", "allocation"))
    assert checks.name == "long, allocation" and len(checks.processes) == 8 and checks.until == 285


def test_what_has_no_seconds_or_no_tool_is_not_run_in_the_plan_already(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_plan, "sanitizer", lambda: None)
    assert bench.main(["gpu-check", "--plan", "--limit", "330", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[4:6]] == [
        ["launch", "gather", "1", "1", "30", "315"], ["launch", "wheel", "1", "1", "15", "330"],
    ]  # fmt: skip
    assert lines[3].split() == ["memcheck,", "racecheck", "12", "-", "-", "-"]
    assert lines[6].split() == ["auto", "1", "-", "-", "-"]
    assert lines[9].split() == ["in", "all", "330", "limit", "330"]
    assert lines[11] == "- not run: memcheck, racecheck: compute-sanitizer is not found"
    assert lines[12:15] == [f"- not run: {s}: no time is left" for s in ("auto", "wheels", "benchmark")]
    assert lines[15:] == [f"- findings go to {tmp_path / 'data' / 'gpu_check.json'}"]
    assert list(tmp_path.iterdir()) == []  # nothing is run or written


def test_a_limit_for_nothing_runs_nothing(capsys, tmp_path):
    assert bench.main(["gpu-check", "auto", "--limit", "9", "--out", str(tmp_path)]) == 3
    out = capsys.readouterr().out
    assert "versions: not run: no time is left (0 s)" in out and out.endswith("\nnot run: versions, auto\n")


def test_options_of_the_plan_are_honoured_or_refused(capsys, tmp_path):
    assert bench.main(["gpu-check", "--plan", "launch"]) == 0
    assert "auto" not in capsys.readouterr().out
    for options, message in (
        (["--limit", "0"], "limit: expected a finite number of seconds above 0"),
        (["everything"], "stages: expected some of versions, accuracy,"),
        (["--out", "/dev/null/x"], "/dev/null"),
    ):
        assert bench.main(["gpu-check", "--plan", *options]) == 2
        printed, error = capsys.readouterr()
        assert message in error and printed == ""


def test_commands(tool):
    def commands(stage, seconds=300):
        return {p.name: p.command(seconds) for p in processes(stage, GPU_KERNELS, OUT)}

    assert list(commands("accuracy"))[3:5] == ["accuracy gather float64", "accuracy wheel bfloat16"]
    assert len(commands("accuracy")) == 6 and list(commands("auto")) == ["auto"]
    check = commands("racecheck")["racecheck wheel bfloat16 128"]
    assert check[:5] == ["/bin/compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "9"]
    assert check[-4:] == ["small", "wheel", "bfloat16", "wide"]
    assert commands("benchmark")["benchmark"][-4:] == ["--out", "figures", "--limit", "280"]
    for stage in STAGES:
        for name, words in commands(stage).items():
            at = words.index(sys.executable)
            assert words[at + 1 : at + 3] == ["-u", "-m"], name
            if stage != "benchmark":
                assert words[at + 3] == "primeattn.bench.gpu_stages" and words[at + 4] in gpu_stages.STAGES


def test_the_sanitizer_is_found_in_each_of_its_homes(tmp_path, monkeypatch):
    def program(folder):
        folder.mkdir(parents=True)
        (folder / "compute-sanitizer").write_text("")
        (folder / "compute-sanitizer").chmod(0o755)
        return str(folder / "compute-sanitizer")

    toolkits = {tmp_path / "local" / name for name in ("cuda-9.2", "cuda-13.0", "cuda-12.9")}
    found = lambda pattern: [str(kit) for kit in toolkits if pattern == "/usr/local/cuda-*"]  # noqa: E731
    monkeypatch.setattr(gpu_plan, "glob", found)
    for name in ("PATH", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setattr(gpu_plan.sys, "executable", str(tmp_path / "python" / "python"))
    assert gpu_plan.sanitizer() is None
    for place in (  # each goes before those above it
        tmp_path / "local" / "cuda-9.2" / "bin",
        tmp_path / "local" / "cuda-13.0" / "compute-sanitizer",
        tmp_path / "home" / "bin",
        tmp_path / "python",
        tmp_path / "path",
    ):
        wanted = program(place)
        if place.parent.name == "home":
            monkeypatch.setenv("CUDA_HOME", str(place.parent))
        if place.name == "path":
            monkeypatch.setenv("PATH", str(place))
        assert gpu_plan.sanitizer() == wanted
