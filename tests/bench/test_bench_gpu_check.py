"""The program of all checks on a GPU, as far as it can be told without one."""

import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from primeattn import bench, cli
from primeattn.bench import (
    gpu_cases,
    gpu_check,
    gpu_costs,
    gpu_device,
    gpu_launches,
    gpu_plan,
    gpu_processes,
    gpu_stages,
)
from primeattn.bench.gpu_check import is_failed, is_not_run, text
from primeattn.bench.gpu_plan import PYTHON, Process
from primeattn.bench.gpu_processes import run_together
from primeattn.kernels.gpu import device


def script(code, name="a stage"):
    return Process(name, lambda seconds: [*PYTHON, "-S", "-c", code])


def line(**found):
    found = {"check": "c", "ok": None, "value": None, "limit": None} | found
    return f"print({json.dumps(found)!r})"


def entry(*findings, status=0, **more):
    findings = [gpu_cases.finding(**found) for found in findings]
    return {"findings": findings, "status": status, "seconds": 0.0, "tail": ""} | more


def test_text_of_a_stage():
    found = entry({"check": "a", "value": 1e-7, "limit": 1e-5}, {"check": "b"}, tail="a warning")
    shown = text("accuracy", found).splitlines()
    assert shown[1:] == [
        "accuracy: ok (0 s)", "  1 within their limits; closest: a = 1e-07 (limit 1e-05)", "  b"
    ]  # fmt: skip
    assert "  | a warning" in text("accuracy", found | {"status": 1})


def test_a_finding_or_a_process_that_fails_fails_the_stage():
    wrong = entry({"check": "c", "value": 2.0, "limit": 1.0})
    for found in (wrong, entry({"check": "c", "ok": True}, status=9)):
        assert is_failed(found) and not is_not_run(found) and "FAILED" in text("stage", found)
    assert "  FAILED c = 2 (limit 1)" in text("stage", wrong)


def test_a_process_that_did_not_end_in_time_is_neither_failed_nor_passed():
    late = entry({"check": "early", "ok": True}, status=None)
    assert is_not_run(late) and not is_failed(late)
    assert "stage: not run: to its end, it took too long (" in text("stage", late)
    late["findings"].append(gpu_cases.finding("c", ok=False))
    assert is_not_run(late) and is_failed(late)
    assert "stage: FAILED, not run: to its end, it took too long (" in text("stage", late)


def test_a_stage_that_has_checked_and_measured_nothing_has_not_passed():
    """Such as without torch, or where a kernel refuses every call."""
    nothing = entry({"check": "torch", "note": "it is not installed, or finds no GPU"})
    assert is_not_run(nothing) and not is_failed(nothing)
    assert text("streams", nothing).splitlines()[1:] == [
        "streams: not run: it checked nothing (0 s)", "  torch: it is not installed, or finds no GPU"
    ]  # fmt: skip
    assert is_not_run(entry())
    assert not is_not_run(entry({"check": "a", "ok": True})) and not is_not_run(
        entry({"check": "a", "value": 1})
    )


@pytest.fixture
def checked(monkeypatch):
    """Stages that only print what is put in the dict."""
    code = {"versions": line(check="GPU", ok=True, value="a GPU")}

    def fake(stage, kernels, out):
        yield script(code.get(stage, line(ok=True)), stage)

    monkeypatch.setattr(gpu_plan, "processes", fake)
    monkeypatch.setattr(gpu_plan, "sanitizer", lambda: "/bin/compute-sanitizer")
    monkeypatch.setattr(gpu_plan, "SHORTEST", 0.06)
    monkeypatch.setattr(gpu_processes, "ENDING", 0.06)
    monkeypatch.setattr(gpu_processes, "POLL", 0.01)
    return code


HANG = "import time; time.sleep(60)"


@pytest.mark.parametrize(
    "main",
    [
        pytest.param(bench.main, id="module"),
        pytest.param(lambda argv: cli.main(["bench", *argv]), id="cli", marks=pytest.mark.slow),
    ],
)
def test_exit_status(main, checked, tmp_path, capsys, monkeypatch):
    stages = ["accuracy", "auto"]
    assert main(["gpu-check", *stages, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("plan ") and out.endswith("\nall checks passed\n")
    checked["accuracy"] = HANG
    monkeypatch.setitem(gpu_plan.SECONDS, ("versions",), 1)
    assert main(["gpu-check", *stages, "--limit", "2", "--out", str(tmp_path)]) == 3
    assert capsys.readouterr().out.endswith("\nnot run: accuracy, auto\n")
    del checked["accuracy"]
    checked["auto"] = line(ok=False)
    assert main(["gpu-check", *stages, "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith("\nFAILED: auto\n")
    written = json.loads((tmp_path / "data" / "gpu_check.json").read_text())
    assert list(written["stages"]) == ["versions", "accuracy", "auto"] and written["versions"]
    assert written["command"].endswith(f"gpu-check --out {tmp_path} accuracy auto")
    assert [(step["name"], step["until"]) for step in written["plan"]] == [
        ("versions", 1), ("accuracy", 211), ("auto", 251),
    ]  # fmt: skip
    checked["versions"] = line(check="GPU", ok=False, value="none: no driver")
    assert main(["gpu-check", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().out.endswith("gpu-check: no GPU can be used here: no driver\n")
    assert main(["gpu-check", "everything"]) == 2
    assert "stages: expected some of versions, accuracy," in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        (HANG, 3, "not run: versions, accuracy"),
        ("import os; os.abort()", 1, "FAILED: versions; not run: accuracy"),
        (line(check="GPU", ok=True, value="a GPU") + "\n" + HANG, 3, "not run: versions"),
    ],
    ids=["too long", "crash", "too long, but a GPU"],
)
def test_versions_that_take_too_long_or_crash_say_nothing_of_the_gpu(
    code, status, said, checked, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(gpu_plan.SECONDS, ("versions",), 0.5)
    checked["versions"] = code
    assert bench.main(["gpu-check", "accuracy", "--out", str(tmp_path)]) == status
    assert capsys.readouterr().out.endswith(f"\n{said}\n")


@pytest.mark.slow
def test_the_plan_is_kept_where_every_stage_hangs(checked, tmp_path, capsys, monkeypatch):
    """At a four-hundredth of its seconds; two cores, and more processes than these run at once."""
    plan, ended = [], {}
    for stages, seconds in gpu_plan.SECONDS.items():
        monkeypatch.setitem(gpu_plan.SECONDS, stages, 0.5 if "versions" in stages else seconds / 400)
    monkeypatch.setattr(gpu_plan, "SHORTEST_BENCHMARK", 0.06)
    monkeypatch.setattr(gpu_check, "machine", lambda: {"usable_cores": 2})
    monkeypatch.setattr(gpu_check, "run_together", lambda *a: run_together(*a) or note(a[0]))
    make_plan = gpu_plan.make_plan
    monkeypatch.setattr(gpu_check, "make_plan", lambda *a: plan.extend(make_plan(*a)) or plan)
    checked.update(dict.fromkeys(gpu_plan.STAGES[1:], f"print('here'); {HANG}"))

    def note(processes):
        ended[processes[-1].name] = time.perf_counter() - start

    start = time.perf_counter()
    assert bench.main(["gpu-check", "--limit", "1.65", "--out", str(tmp_path)]) == 3
    assert time.perf_counter() - start < 1.65 + 1
    assert [step.name for step in plan if step.skipped] == [] and len(ended) == len(plan)
    for step in plan:
        assert ended[step.processes[-1].name] < step.until + 0.5, step.name
    written = json.loads((tmp_path / "data" / "gpu_check.json").read_text())["stages"]
    assert [name for name, entry in written.items() if entry["status"] is not None] == ["versions"]
    assert written["memcheck"]["skipped"] == "no time was left" and written["repeats"]["tail"] == "here"
    assert "not run: accuracy, repeats, long," in capsys.readouterr().out.splitlines()[-1]


def write_benchmark(folder, rows):
    (folder / "data").mkdir(exist_ok=True)
    path = folder / "data" / "gpu_some.json"
    path.write_text(json.dumps({"benchmark": "gpu", "rows": rows}))
    (folder / "data" / "gpu_check.json").write_text(json.dumps({"benchmark": "gpu-check"}))


WANTED = {"n": 65536, "heads": 16, "head_dim": 64, "dtype": "bfloat16", "pass": "forward"}
WANTED |= {"peer": "primeattn gather", "sequence": "squares", "median_s": 1.0}


def test_goals(tmp_path):
    rows = [
        {**WANTED, "speedup": 2.0},
        {**WANTED, "peer": "primeattn wheel", "speedup": 3.5},
        {**WANTED, "sequence": "mian_chowla", "speedup": 4.0},
        {**WANTED, "sequence": "mian_chowla", "speedup": 9.0, "n": 16384},
        {**WANTED, "pass": "forward+backward"},
        {**WANTED, "peer": "SDPA flash"},
    ]
    write_benchmark(tmp_path, rows)
    times, *goals = gpu_check.of_benchmark(tmp_path, 0)
    assert times["value"] == 5
    found = [(f["value"], f["limit"], f["note"]) for f in goals]
    assert found[:3] == [(3.5, 3, "reached"), (None, 1.5, "not measured"), (4.0, 5, "missed")]
    assert all(f["ok"] is None for f in goals) and len(found) == 6
    assert gpu_check.of_benchmark(tmp_path, time.time() + 60) == []  # what an earlier run has left


def test_a_benchmark_without_times_of_this_library_has_not_passed(tmp_path, checked, capsys):
    checked["benchmark"] = "pass"
    run = ["gpu-check", "benchmark", "--out", str(tmp_path)]
    write_benchmark(tmp_path, [WANTED])
    os.utime(tmp_path / "data" / "gpu_some.json", (0, 0))
    assert bench.main(run) == 3  # only a file of an earlier run
    path = tmp_path / "data" / "gpu_some.json"

    def benchmark(*rows):
        text = json.dumps({"benchmark": "gpu", "rows": rows})
        checked["benchmark"] = f"open({str(path)!r}, 'w').write({text!r})"
        return bench.main(run)

    skipped = {name: value for name, value in WANTED.items() if name != "median_s"}
    assert benchmark(WANTED) == 0
    refused = {**skipped, "peer": "primeattn wheel", "skipped": "ValueError: kernel: 'wheel' serves float16"}
    assert benchmark(WANTED, refused) == 0
    assert benchmark(refused, {**WANTED, "peer": "SDPA flash"}) == 3
    capsys.readouterr()
    broken = {**skipped, "skipped": "RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS"}
    assert benchmark({**WANTED, "n": 4096}, broken) == 1
    shown = capsys.readouterr().out
    assert "  FAILED primeattn gather, bfloat16: RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS" in shown


def test_versions_are_found_without_a_gpu():
    found = {f["check"]: f for f in gpu_stages.versions()}
    assert found["numba"]["value"] and found["numpy"]["value"] == np.__version__
    assert found.keys() >= {"numba-cuda", "llvmlite", "driver", "nvidia-smi", "cuda.implementation", "GPU"}
    assert found["GPU"]["ok"] is (device.problem() is None)
    json.dumps(list(found.values()))


def test_a_torch_that_does_not_import_is_no_fault_of_the_kernels(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    *_, torch = gpu_stages.versions()
    assert torch == gpu_cases.finding("torch reaches the GPU", note="it does not import")
    assert gpu_device.torch_on_gpu() is None


def test_whether_there_is_a_gpu_is_told_before_all_that_may_hang(monkeypatch):
    def hang(*arguments, **options):
        raise AssertionError("too early")

    monkeypatch.setattr(gpu_stages.subprocess, "run", hang)
    monkeypatch.setattr(gpu_stages, "find_torch", hang)
    found = []
    with pytest.raises(AssertionError, match="too early"):
        for finding in gpu_stages.versions():
            found.append(finding)
    assert found[-1]["check"] == "GPU"


def test_versions_are_found_where_numba_and_numba_cuda_do_not_fit(monkeypatch):
    monkeypatch.setattr(device, "cuda", None)
    monkeypatch.setattr(device, "_broken", "AttributeError: NPDatetime")
    device.problem.cache_clear()
    try:
        found = {f["check"]: f for f in gpu_stages.versions()}
    finally:
        device.problem.cache_clear()
    reason = "numba.cuda does not import (AttributeError: NPDatetime); install primeattn[cuda]"
    assert found["GPU"]["value"] == f"none: {reason}"


def test_a_stage_that_raises_keeps_what_it_found(monkeypatch, capsys):
    def stage(argument):
        yield gpu_stages.finding(argument, 1.0, 2.0)
        raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS\nand a trace")

    monkeypatch.setitem(gpu_stages.STAGES, "fake", stage)
    assert gpu_stages.main(["fake", "first"]) == 1
    first, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["check"], first["ok"]) == ("first", True)
    assert (last["check"], last["ok"]) == ("RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS", False)


def test_a_check_that_fails_fails_the_process_even_if_its_line_is_lost(monkeypatch, capsys):
    found = [gpu_stages.finding("a", ok=False), gpu_stages.finding("b", ok=True), gpu_stages.finding("c")]
    monkeypatch.setitem(gpu_stages.STAGES, "fake", lambda: found)
    assert gpu_stages.main(["fake"]) == 1
    found.pop(0)
    assert gpu_stages.main(["fake"]) == 0


def test_rule_of_auto_is_found_again():
    """A CPU of 1e11 multiply-adds a second; a GPU that takes 1 ms for a call and 0.2 ns for a byte."""
    rows = [
        {"work": work, "bytes": nbytes, "cpu": work / 1e11, "cuda": 1e-3 + 2e-10 * nbytes}
        for work, nbytes in ((1e7, 1e5), (1e9, 1e7), (1e10, 1e8), (1e10, 3e6))
    ]
    assert gpu_costs.fit_rule(rows) == pytest.approx((1e8, 20))


def test_host_seconds_count_no_waiting(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu_launches.time, "perf_counter", lambda: clock.now)
    wait = SimpleNamespace(synchronize=lambda: setattr(clock, "now", clock.now + 7))
    monkeypatch.setattr(device, "cuda", wait)
    assert gpu_launches._host_seconds(lambda: setattr(clock, "now", clock.now + 2)) == pytest.approx(2)


def test_masks_of_cases_are_those_of_the_reference():
    cases = gpu_cases.CASES.values()
    for case in (case for case in cases if not case.terms and "softcap" not in case.options):
        heads, kv_heads = (shape[1] for shape in case.shapes)
        mask = gpu_cases.dense_mask(case)
        q, k, v, dout, dlse = case.draw("float64")
        scale = case.options.get("scale", q.shape[3] ** -0.5)
        s = scale * np.einsum("bhqd,bhkd->bhqk", q, k.repeat(heads // kv_heads, 1))
        with np.errstate(divide="ignore"):
            lse = np.log(np.sum(np.exp(s) * mask, axis=3))
        np.testing.assert_allclose(lse, case.expected(q, k, v, dout, dlse)[1], rtol=1e-9, atol=1e-9)


def test_errors_are_relative_to_the_largest_number():
    expected = [np.array([0.0, -np.inf]), np.array([4.0, 1.0]), np.zeros(3), np.zeros(0), np.array([1.0])]
    got = [np.array([0.0, -np.inf]), np.array([4.0, 1.2]), np.full(3, 0.01), np.zeros(0), np.array([np.nan])]
    found = gpu_cases.errors(got, expected)
    assert list(found) == list(gpu_cases.RESULTS)
    assert found == pytest.approx({"out": 0, "lse": 0.05, "dq": 0.1, "dk": 0, "dv": 1e9})
