"""Whether the kernels are right and quick to launch on this GPU: ``python -m primeattn.bench gpu-check``.

All checks that need a GPU, in one run of at most ten minutes. Every stage is one or more processes with a
time limit, since a process cannot use the GPU after a fault of a kernel; findings are written to disk after
every stage. Processes that measure no time run side by side, as they mostly compile.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from typing import NamedTuple

from primeattn.bench import report
from primeattn.bench.timing import as_seconds
from primeattn.kernels.call import GPU_KERNELS

__all__ = ["STAGES", "run"]

LIMIT = 570  # seconds in all
LEAST = 45  # fewest seconds for which the benchmark is started
SANITIZER = "compute-sanitizer"
NO_PROBES = "--report-api-errors", "no"  # libraries probe the driver for features it may lack
STAGES = {  # seconds for each process; those in TOGETHER run side by side
    "versions": 90, "accuracy": 240, "repeats": 240, "long": 240, "streams": 240, "memcheck": 240,
    "racecheck": 240, "launch": 90, "allocation": 60, "auto": 90, "wheels": 200, "benchmark": LIMIT,
}  # fmt: skip
TOGETHER = "accuracy", "repeats", "long", "streams", "memcheck", "racecheck"
# Dtypes that each kernel takes; a test shows that the wheel kernel refuses others.
DTYPES = {"gather": ("float32", "bfloat16", "float16", "float64"), "wheel": ("bfloat16", "float16")}
SMALL = {64: ("gradient of lse", "packed", "decoding"), 128: ("wide",)}  # cases for compute-sanitizer
# (sequence, dtype) -> times faster than the fastest SDPA, forward, at n = 65536 with 16 heads of 64. These
# are goals: missing them fails no check.
GOALS = {("squares", "bfloat16"): 3, ("mian_chowla", "bfloat16"): 5, ("primes", "float32"): 4}


class Process(NamedTuple):
    """A stage, or a part of it."""

    name: str
    command: list
    seconds: float


def run(*, stages=(), limit=None, out, command, kernels=GPU_KERNELS) -> int:
    """Run stages, print their findings, and write them to ``gpu_check.json`` after each.

    Parameters
    ----------
    stages : sequence of str
        Among STAGES; all if empty.
    limit : float, optional
        Seconds in all, 570 by default; the benchmark gets what the others leave.
    out : Path
        Output folder.
    command : str
        The command line of the run.
    kernels : sequence of str
        Names of the kernels to check.

    Returns
    -------
    int
        Exit status: 0, 1 if any check failed, 2 without a GPU, 3 if any did not run to its end.

    Raises
    ------
    ValueError
        For an unknown stage.
    """
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"stages: expected some of {', '.join(STAGES)}, got {stage!r}")
    limit, begun, since = as_seconds("limit", limit, LIMIT), time.perf_counter(), time.time()
    chosen = [stage for stage in STAGES if stage in stages or not stages or stage == "versions"]
    found = {}
    results = {"benchmark": "gpu-check", "limit_s": limit, "stages": found}

    def left():
        return limit - (time.perf_counter() - begun)

    def take(process):
        entry = execute(process, left())
        if process.name == "benchmark":
            entry["findings"] += goals(out, since)
        return process.name, entry

    def note(name, entry):
        found[name] = entry
        report.write_json(out / "data" / "gpu_check.json", results, command)
        print(text(name, entry), flush=True)

    alone = [[stage] for stage in chosen if stage not in TOGETHER]
    for group in (*alone[:1], [stage for stage in chosen if stage in TOGETHER], *alone[1:]):
        waiting = [process for stage in group for process in processes(stage, kernels, out, left)]
        with ThreadPoolExecutor(min(len(waiting), os.cpu_count() or 1) or 1) as pool:
            for done in pool.map(take, waiting):
                note(*done)
        if group == ["versions"] and not found["versions"]["usable"]:
            print(found["versions"]["reason"], flush=True)
            return 2
    failed = [name for name, entry in found.items() if is_failed(entry)]
    absent = [name for name, entry in found.items() if is_not_run(entry)]
    said = [
        f"{what}: {', '.join(names)}"
        for what, names in {"FAILED": failed, "not run": absent}.items()
        if names
    ]
    print("\n" + ("; ".join(said) or "all checks passed"))
    return 1 if failed else 3 if absent else 0


def processes(stage, kernels, out, left):
    """The processes of a stage."""
    seconds, python = STAGES[stage], [sys.executable, "-m", "primeattn.bench.gpu_stages"]

    def process(*arguments):
        return Process(" ".join([stage, *arguments]), [*python, stage, *arguments], seconds)

    if stage in ("versions", "auto", "wheels"):
        yield process()
    elif stage in ("accuracy", "repeats", "long"):
        for kernel in kernels:
            for dtype in DTYPES[kernel]:
                yield process(kernel, dtype)
    elif stage in ("memcheck", "racecheck"):
        tool = sanitizer()
        checked = tool and [tool, "--tool", stage, "--error-exitcode", "9", *NO_PROBES, *python, "small"]
        for kernel in kernels:
            for dtype in ("float32", "bfloat16")[kernel == "wheel" :]:
                for width, names in SMALL.items():
                    command = checked and [*checked, kernel, dtype, *names]
                    yield Process(f"{stage} {kernel} {dtype} {width}", command or [], seconds)
    elif stage == "benchmark":
        rest = max(left() - 15, 1)
        options = ["gpu", "--limit", f"{rest:.0f}", "--out", str(out)]
        command = [sys.executable, "-m", "primeattn.bench", *options] if rest >= LEAST else []
        yield Process("benchmark", command, rest + 10)
    else:
        for kernel in kernels:
            yield process(kernel)


def sanitizer():
    """Path of compute-sanitizer, from the search path or an installed toolkit; None if not found."""
    homes = ("/usr/local/cuda*/bin", "/usr/local/cuda*/compute-sanitizer", "/opt/nvidia/compute-sanitizer*")
    places = [place for home in homes for place in sorted(glob(f"{home}/{SANITIZER}"))]
    return shutil.which(SANITIZER) or (places[-1] if places else None)


def execute(process, left) -> dict:
    """Run a process within its time; return its findings, exit status and the end of its output."""
    if not process.command:
        reason = f"{SANITIZER} is not found" if "check " in process.name else "no time was left"
        return {"findings": [], "status": None, "seconds": 0.0, "tail": "", "skipped": reason}
    seconds = min(process.seconds, left)
    if seconds < 1:
        return {"findings": [], "status": None, "seconds": 0.0, "tail": "", "skipped": "no time was left"}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as file:
        # A session of its own, so that a tool is killed together with the stage it runs.
        started = subprocess.Popen(
            process.command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = started.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if started.poll() is None:
                _kill(started)
                started.wait()
        file.seek(0)
        output = file.read()
    findings, lines = [], []
    for line in output.decode(errors="replace").splitlines():
        found = _finding(line)
        (lines if found is None else findings).append(line if found is None else found)
    entry = {"findings": findings, "status": status, "seconds": time.perf_counter() - start}
    entry["tail"] = "\n".join(lines[-40:])
    if process.name == "versions":
        gpu = [f for f in findings if f["check"] == "GPU"]
        entry["usable"] = bool(gpu and gpu[0]["ok"])
        entry["reason"] = (
            f"gpu-check: no GPU can be used here: {gpu[0]['value'].removeprefix('none: ')}"
            if gpu
            else "gpu-check: the installed packages do not import"
        )
    return entry


def _kill(started):
    if hasattr(os, "killpg"):
        os.killpg(started.pid, signal.SIGKILL)
    else:  # on Windows
        started.kill()


def _finding(line):
    if line.startswith('{"check"'):
        try:
            return json.loads(line)
        except ValueError:  # cut off
            pass
    return None


def goals(out, since) -> list[dict]:
    """How the benchmark compares with GOALS: the factor for forward, half of it with the backward.

    Only files written after ``since``, a time of :func:`time.time`, count.
    """
    found = []
    for path in (out / "data").glob("gpu_*.json"):
        results = json.loads(path.read_text()) if path.stat().st_mtime >= since else {}
        if results.get("benchmark") == "gpu":
            found = [*_goals(results)]
    return found


def _goals(results):
    wanted = {"n": 65536, "heads": 16, "head_dim": 64}
    for (sequence, dtype), factor in GOALS.items():
        for which, limit in (("forward", factor), ("forward+backward", factor / 2)):
            rows = [
                row["speedup"] for row in results["rows"]
                if "speedup" in row and all(row[name] == value for name, value in wanted.items())
                and (row["sequence"], row["dtype"], row["pass"]) == (sequence, dtype, which)
            ]  # fmt: skip
            note = "not measured" if not rows else "reached" if max(rows) >= limit else "missed"
            check = f"goal: {sequence} {dtype} {which}, times faster than SDPA, at least"
            yield {
                "check": check, "ok": None, "value": max(rows, default=None), "limit": limit, "note": note
            }  # fmt: skip


def is_failed(entry) -> bool:
    """Whether a process, or one of its checks, failed."""
    return entry["status"] not in (0, None) or any(found["ok"] is False for found in entry["findings"])


def is_not_run(entry) -> bool:
    """Whether a process did not start, or did not end in time."""
    return entry["status"] is None


def text(name, entry) -> str:
    """Findings of a process as lines: all failures and measurements, and the number of passed checks."""
    passed = [found for found in entry["findings"] if found["ok"] and found["limit"] is not None]
    worst = max(passed, key=lambda found: (found["value"] or 0) / (found["limit"] or 1), default=None)
    state = "FAILED" if is_failed(entry) else "ok"
    if is_not_run(entry):
        state += f", not run: {entry.get('skipped', 'to its end, it took too long')}"
        state = state.removeprefix("ok, ")
    lines = [f"\n{name}: {state} ({entry['seconds']:.0f} s)"]
    if passed:
        lines.append(f"  {len(passed)} within their limits; closest: {_line(worst)}")
    lines += [f"  {'FAILED ' if f['ok'] is False else ''}{_line(f)}"
              for f in entry["findings"] if f not in passed]  # fmt: skip
    if (is_failed(entry) or is_not_run(entry)) and entry["tail"]:
        lines += ["  | " + line for line in entry["tail"].splitlines()]
    return "\n".join(lines)


def _line(found):
    value, limit = (f"{x:.3g}" if isinstance(x, float) else x for x in (found["value"], found["limit"]))
    parts = [found["check"]]
    if value is not None or limit is not None:
        parts.append(f" = {value}" + (f" {found['unit']}" if "unit" in found else ""))
    if limit is not None:
        parts.append(f" (limit {limit})")
    if found.get("note"):
        parts.append(f": {found['note']}")
    return "".join(parts)
