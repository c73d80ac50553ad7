"""The program of all checks on a GPU, as far as it can be told without one."""

import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from primeattn import bench, cli
from primeattn.bench import gpu_cases, gpu_check, gpu_costs, gpu_stages
from primeattn.bench.gpu_check import Process, execute, is_failed, is_not_run, processes, text
from primeattn.kernels.gpu import device


def script(code, name="a stage", seconds=20):
    return Process(name, [sys.executable, "-c", code], seconds)


def line(**found):
    found = {"check": "c", "ok": None, "value": None, "limit": None} | found
    return f"print({json.dumps(found)!r}, flush=True)"


def test_findings_are_read_from_what_a_stage_prints():
    code = "; ".join(
        [line(check="a", ok=True, value=1e-7, limit=1e-5), "print('a warning')", line(check="b")]
    )
    entry = execute(script(code), 30)
    assert [found["check"] for found in entry["findings"]] == ["a", "b"] and entry["status"] == 0
    assert entry["tail"] == "a warning" and not is_failed(entry)
    shown = text("accuracy", entry).splitlines()
    assert shown[1].startswith("accuracy: ok (") and shown[2] == (
        "  1 within their limits; closest: a = 1e-07 (limit 1e-05)"
    )
    assert shown[3:] == ["  b"]


def test_a_finding_or_a_process_that_fails_fails_the_stage():
    for code in (line(ok=False, value=2.0, limit=1.0), "raise SystemExit(9)"):
        entry = execute(script(code), 30)
        assert is_failed(entry) and "FAILED" in text("stage", entry)
    assert "  FAILED c = 2 (limit 1)" in text(
        "stage", execute(script(line(ok=False, value=2.0, limit=1.0)), 9)
    )
    assert "  | boom" in text("stage", execute(script("print('boom'); raise SystemExit(1)"), 30))


@pytest.mark.slow
def test_a_stage_that_hangs_is_ended_with_all_that_it_started_and_keeps_what_it_found():
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    start = time.perf_counter()
    entry = execute(
        script("; ".join([line(check="early", ok=True), child, "import time; time.sleep(60)"]), seconds=2), 30
    )
    assert time.perf_counter() - start < 20 and entry["status"] is None and is_not_run(entry)
    assert not is_failed(entry)
    assert [found["check"] for found in entry["findings"]] == ["early"]
    assert "stage: not run: to its end, it took too long" in text("stage", entry)
    assert execute(script("print(1)"), 0.5)["skipped"] == "no time was left"


def test_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "sanitizer", lambda: "/bin/compute-sanitizer")

    def names(stage, left=300):
        return {p.name: p for p in processes(stage, ("gather", "wheel"), tmp_path, lambda: left)}

    assert list(names("accuracy"))[3:5] == ["accuracy gather float64", "accuracy wheel bfloat16"]
    assert len(names("accuracy")) == 6 and list(names("auto")) == ["auto"]
    check = names("racecheck")["racecheck wheel bfloat16 128"].command
    assert check[:5] == ["/bin/compute-sanitizer", "--tool", "racecheck", "--error-exitcode", "9"]
    assert check[-4:] == ["small", "wheel", "bfloat16", "wide"]
    assert names("benchmark")["benchmark"].command[-3:] == ["285", "--out", str(tmp_path)]
    assert execute(names("benchmark", 20)["benchmark"], 20)["skipped"] == "no time was left"
    monkeypatch.setattr(gpu_check, "sanitizer", lambda: None)
    entry = execute(names("memcheck")["memcheck gather float32 64"], 300)
    assert entry["skipped"] == "compute-sanitizer is not found" and is_not_run(entry)
    assert "memcheck: not run: compute-sanitizer is not found" in text("memcheck", entry)
    for stage in gpu_check.STAGES:
        assert all(p.seconds > 0 for p in names(stage).values())
        for process in names(stage).values():
            if "primeattn.bench.gpu_stages" in process.command:
                at = process.command.index("primeattn.bench.gpu_stages")
                assert process.command[at + 1] in gpu_stages.STAGES


@pytest.fixture
def checked(monkeypatch):
    """Stages that only print what is put in the dict."""
    code = {"versions": line(check="GPU", ok=True, value="a GPU")}

    def fake(stage, kernels, out, left):
        yield script(code.get(stage, line(ok=True)), stage)

    monkeypatch.setattr(gpu_check, "processes", fake)
    return code


@pytest.mark.parametrize(
    "main",
    [
        pytest.param(bench.main, id="module"),
        pytest.param(lambda argv: cli.main(["bench", *argv]), id="cli", marks=pytest.mark.slow),
    ],
)
def test_exit_status(main, checked, tmp_path, capsys):
    stages = ["accuracy", "auto"]
    assert main(["gpu-check", *stages, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("\nall checks passed\n")
    checked["accuracy"] = "import time; time.sleep(60)"
    assert main(["gpu-check", *stages, "--limit", "2", "--out", str(tmp_path)]) == 3
    assert "not run: accuracy" in capsys.readouterr().out.splitlines()[-1]
    del checked["accuracy"]
    checked["auto"] = line(ok=False)
    assert main(["gpu-check", *stages, "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith("\nFAILED: auto\n")
    written = json.loads((tmp_path / "data" / "gpu_check.json").read_text())
    assert list(written["stages"]) == ["versions", "accuracy", "auto"] and written["versions"]
    assert written["command"].endswith(f"gpu-check --out {tmp_path} accuracy auto")
    checked["versions"] = line(check="GPU", ok=False, value="none: no driver")
    assert main(["gpu-check", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().out.endswith("gpu-check: no GPU can be used here: no driver\n")
    assert main(["gpu-check", "everything"]) == 2
    assert "stages: expected some of versions, accuracy," in capsys.readouterr().err


def test_goals(checked, tmp_path):
    (tmp_path / "data").mkdir()
    wanted = {"n": 65536, "heads": 16, "head_dim": 64, "dtype": "bfloat16", "pass": "forward"}
    rows = [
        {**wanted, "sequence": "squares", "speedup": 2.0},
        {**wanted, "sequence": "squares", "speedup": 3.5},  # by another kernel
        {**wanted, "sequence": "mian_chowla", "speedup": 4.0},
        {**wanted, "sequence": "mian_chowla", "speedup": 9.0, "n": 16384},
        {**wanted, "sequence": "squares", "pass": "forward+backward"},
    ]
    path = tmp_path / "data" / "gpu_some.json"
    path.write_text(json.dumps({"benchmark": "gpu", "rows": rows}))
    (tmp_path / "data" / "gpu_check.json").write_text(json.dumps({"benchmark": "gpu-check"}))
    found = [(f["value"], f["limit"], f["note"]) for f in gpu_check.goals(tmp_path, 0)]
    assert found[:3] == [(3.5, 3, "reached"), (None, 1.5, "not measured"), (4.0, 5, "missed")]
    assert all(f["ok"] is None for f in gpu_check.goals(tmp_path, 0)) and len(found) == 6
    assert gpu_check.goals(tmp_path, time.time() + 60) == []  # what an earlier run has left


def test_versions_are_found_without_a_gpu():
    found = {f["check"]: f for f in gpu_stages.versions()}
    assert found["numba"]["value"] and found["numpy"]["value"] == np.__version__
    assert found.keys() >= {"numba-cuda", "llvmlite", "driver", "nvidia-smi", "cuda.implementation", "GPU"}
    assert found["GPU"]["ok"] is (device.problem() is None)
    json.dumps(list(found.values()))


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


def test_rule_of_auto_is_found_again():
    """A CPU of 1e11 multiply-adds a second; a GPU that takes 1 ms for a call and 0.2 ns for a byte."""
    rows = [
        {"work": work, "bytes": nbytes, "cpu": work / 1e11, "cuda": 1e-3 + 2e-10 * nbytes}
        for work, nbytes in ((1e7, 1e5), (1e9, 1e7), (1e10, 1e8), (1e10, 3e6))
    ]
    assert gpu_costs.fit_rule(rows) == pytest.approx((1e8, 20))


def test_host_seconds_count_no_waiting(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(gpu_stages.time, "perf_counter", lambda: clock.now)
    wait = SimpleNamespace(synchronize=lambda: setattr(clock, "now", clock.now + 7))
    monkeypatch.setattr(device, "cuda", wait)
    assert gpu_stages._host_seconds(lambda: setattr(clock, "now", clock.now + 2)) == pytest.approx(2)


def test_masks_of_cases_are_those_of_the_reference():
    for case in gpu_cases.CASES.values():
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
