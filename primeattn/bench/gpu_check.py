"""Whether the kernels are right and quick to launch on this GPU: ``python -m primeattn.bench gpu-check``.

All checks that need a GPU, in one run of at most nine minutes that follows the plan of
:mod:`primeattn.bench.gpu_plan`. Every stage is one or more processes, since a process cannot use the GPU
after a fault of a kernel; findings are written to disk after every process.
"""

from __future__ import annotations

import json
import time

from primeattn.bench import report
from primeattn.bench.gpu_cases import finding
from primeattn.bench.gpu_peers import OURS
from primeattn.bench.gpu_plan import LIMIT, ON_REQUEST, STAGES, make_plan
from primeattn.bench.gpu_plan import text as plan_text
from primeattn.bench.gpu_processes import ended_by_signals, not_run, run_together
from primeattn.bench.timing import as_seconds
from primeattn.info import machine
from primeattn.kernels.call import GPU_KERNELS

__all__ = ["run"]

# (sequence, dtype) -> times faster than the fastest SDPA, forward, at n = 65536 with 16 heads of 64. These
# are goals: missing them fails no check.
GOALS = {("squares", "bfloat16"): 3, ("mian_chowla", "bfloat16"): 5, ("primes", "float32"): 4}


def run(*, stages=(), limit=None, plan=False, out, command, kernels=GPU_KERNELS) -> int:
    """Print the plan, run it, print what it finds, and write that to ``gpu_check.json`` after each process.

    Parameters
    ----------
    stages : sequence of str
        Among STAGES; all but those ON_REQUEST if empty. "versions", which finds out whether there is a GPU,
        always runs.
    limit : float, optional
        Seconds in all, 540 by default; the benchmark gets what the others leave.
    plan : bool
        Only print the plan; no GPU is needed.
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
    wanted = {"versions", *(stages or set(STAGES) - set(ON_REQUEST))}
    chosen = [stage for stage in STAGES if stage in wanted]
    steps = make_plan(chosen, limit, kernels, out, machine()["usable_cores"])
    path = out / "data" / "gpu_check.json"
    print(plan_text(steps, limit), f"- findings go to {path}", sep="\n", flush=True)
    if plan:
        return 0
    found = {}
    planned = [{**step._asdict(), "processes": len(step.processes)} for step in steps]
    results = {"benchmark": "gpu-check", "limit_s": limit, "plan": planned, "stages": found}

    def note(process, entry):
        if process.name == "benchmark" and "skipped" not in entry:
            entry["findings"] += of_benchmark(out, since)
        found[process.name] = entry
        report.write_json(path, results, command)
        print(text(process.name, entry), flush=True)

    with ended_by_signals():
        for step in steps:
            if step.skipped is None:
                until = begun + step.until
                run_together(
                    step.processes, step.at_once, lambda until=until: until - time.perf_counter(), note
                )
            else:
                for process in step.processes:
                    note(process, not_run(step.skipped))
            if step.name == "versions" and not is_usable(found["versions"]):
                break
    for gpu in found["versions"]["findings"]:
        if gpu["check"] == "GPU" and gpu["ok"] is False:
            print(f"gpu-check: no GPU can be used here: {gpu['value'].removeprefix('none: ')}")
            return 2
    failed = [name for name, entry in found.items() if is_failed(entry)]
    absent = [process.name for step in steps for process in step.processes]
    absent = [name for name in absent if name not in found or is_not_run(found[name])]
    said = [
        f"{what}: {', '.join(names)}"
        for what, names in {"FAILED": failed, "not run": absent}.items()
        if names
    ]
    print("\n" + ("; ".join(said) or "all checks passed"))
    return 1 if failed else 3 if absent else 0


def is_usable(versions) -> bool:
    """Whether that stage has found a GPU that can be used."""
    return any(found["check"] == "GPU" and found["ok"] for found in versions["findings"])


def of_benchmark(out, since) -> list[dict]:
    """What the benchmark has written: whether this library's kernels ran, and how they compare with GOALS.

    Only files written after ``since``, a time of :func:`time.time`, count.
    """
    found = []
    for path in (out / "data").glob("gpu_*.json"):
        results = json.loads(path.read_text()) if path.stat().st_mtime >= since else {}
        if results.get("benchmark") == "gpu":
            found = [*_ours(results["rows"]), *goals(results)]
    return found


def _ours(rows):
    """A finding for each reason why a kernel of this library failed, and the number of its times."""
    rows = [row for row in rows if row["peer"] in OURS]
    yield finding("times of this library", sum("median_s" in row for row in rows) or None)
    failed = {(row["peer"], row["dtype"], row["skipped"]): None for row in rows if "skipped" in row}
    for peer, dtype, reason in failed:
        if not reason.startswith("ValueError: kernel:"):  # else it refuses the call, and says so
            yield finding(f"{peer}, {dtype}", ok=False, note=reason)


def goals(results):
    """How the benchmark compares with GOALS: the factor for forward, half of it with the backward."""
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
            yield {**finding(check, max(rows, default=None), note=note), "limit": limit}


def is_failed(entry) -> bool:
    """Whether a process, or one of its checks, failed."""
    return entry["status"] not in (0, None) or any(found["ok"] is False for found in entry["findings"])


def is_not_run(entry) -> bool:
    """Whether a process did not start, did not end in time, or has checked and measured nothing."""
    told = any(found["ok"] is not None or found["value"] is not None for found in entry["findings"])
    return entry["status"] is None or (entry["status"] == 0 and not told)


def text(name, entry) -> str:
    """Findings of a process as lines: all failures and measurements, and the number of passed checks."""
    passed = [found for found in entry["findings"] if found["ok"] and found["limit"] is not None]
    worst = max(passed, key=lambda found: (found["value"] or 0) / (found["limit"] or 1), default=None)
    state = "FAILED" if is_failed(entry) else "ok"
    if is_not_run(entry):
        ended = "it checked nothing" if entry["status"] == 0 else "to its end, it took too long"
        state = f"{state}, not run: {entry.get('skipped', ended)}".removeprefix("ok, ")
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
