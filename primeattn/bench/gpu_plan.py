"""What gpu-check runs, and for how long: ``python -m primeattn.bench gpu-check --plan`` prints it.

The plan is a list of steps. A step is a process that runs alone, as it may measure time, or processes that
run side by side. Each step ends by a second that the plan names, with all its processes: those that have not
ended are killed, those that have not begun are not run. What a step leaves of its seconds passes on.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import NamedTuple

from primeattn.bench.report import table

__all__ = ["LIMIT", "ON_REQUEST", "PYTHON", "STAGES", "Process", "Step", "make_plan", "processes", "text"]

LIMIT = 540  # seconds in all
TOGETHER = ("accuracy", "repeats", "long", "streams", "memcheck", "racecheck", "allocation")
# Seconds for all processes of stages that run side by side, or for each process of another stage. On an H200
# with 16 cores the first four took 8, 130, 22 and 18; a cold import of torch alone may take 60.
SECONDS = {("versions",): 75, TOGETHER: 210, ("launch",): 30, ("auto",): 40, ("wheels",): 100}
SECONDS[("tilings",)] = 120
SECONDS[("benchmark",)] = float("inf")  # what the others leave
ON_REQUEST = ("tilings",)  # stages that run only where they are named
STAGES = tuple(stage for stages in SECONDS for stage in stages)
SHORTEST = 10  # seconds for which a step is planned
SHORTEST_BENCHMARK = 45
MOST = 16  # processes side by side: each takes about 0.6 GB of the GPU's memory, and a core
WRITING = 20  # seconds of the benchmark beside its shapes: imports before, a table and a figure after
# Dtypes that each kernel takes; a test shows that the wheel kernel refuses others.
DTYPES = {"gather": ("float32", "bfloat16", "float16", "float64"), "wheel": ("bfloat16", "float16")}
SMALL = {64: ("gradient of lse", "packed", "decoding", "all terms"), 128: ("wide",)}  # for compute-sanitizer
SANITIZER = "compute-sanitizer"
NO_PROBES = "--report-api-errors", "no"  # libraries probe the driver for features it may lack
PYTHON = [sys.executable, "-u"]  # what is printed is not lost when a process is killed


class Process(NamedTuple):
    """A stage, or a part of it."""

    name: str
    command: Callable  # words of the command, given the seconds that the process may take


class Step(NamedTuple):
    """Processes that run side by side, ``at_once`` of them."""

    name: str
    processes: list
    at_once: int
    seconds: float
    until: float  # seconds after the start of gpu-check; the step ends by then
    skipped: str | None = None  # why it will not run


def make_plan(stages, limit, kernels, out, cores) -> list[Step]:
    """Divide ``limit`` seconds among ``stages``, names, in the order of STAGES.

    Each step gets its SECONDS for as long as there are any, and the benchmark the rest.
    """
    steps, used = [], 0.0

    def add(name, run, at_once, wanted):
        nonlocal used
        seconds = min(wanted, limit - used)
        if seconds < (SHORTEST_BENCHMARK if name == "benchmark" else SHORTEST):
            return steps.append(Step(name, run, 0, 0, used, "no time is left"))
        used += seconds
        steps.append(Step(name, run, at_once, seconds, used))

    tool = sanitizer()
    for group, seconds in SECONDS.items():
        chosen = [stage for stage in group if stage in stages]
        missing = [stage for stage in chosen if stage in ("memcheck", "racecheck") and not tool]
        present = [stage for stage in chosen if stage not in missing]
        if group != TOGETHER:
            for process in (process for stage in present for process in processes(stage, kernels, out)):
                add(process.name, [process], 1, seconds)
        elif present:
            run = [process for stage in present for process in processes(stage, kernels, out)]
            add(", ".join(present), run, min(len(run), cores, MOST), seconds)
        if missing:
            run = [process for stage in missing for process in processes(stage, kernels, out)]
            steps.append(Step(", ".join(missing), run, 0, 0, used, f"{SANITIZER} is not found"))
    return steps


def processes(stage, kernels, out):
    """The processes of a stage."""
    python = [*PYTHON, "-m", "primeattn.bench.gpu_stages"]

    def process(*arguments):
        return Process(" ".join([stage, *arguments]), lambda seconds: [*python, stage, *arguments])

    if stage in ("versions", "auto", "wheels", "tilings"):
        yield process()
    elif stage in ("accuracy", "repeats", "long"):
        for kernel in kernels:
            for dtype in DTYPES[kernel]:
                yield process(kernel, dtype)
    elif stage in ("memcheck", "racecheck"):
        checked = [sanitizer(), "--tool", stage, "--error-exitcode", "9", *NO_PROBES, *python, "small"]
        for kernel in kernels:
            for dtype in ("float32", "bfloat16")[kernel == "wheel" :]:
                for width, names in SMALL.items():
                    words = [*checked, kernel, dtype, *names]
                    yield Process(f"{stage} {kernel} {dtype} {width}", lambda seconds, words=words: words)
    elif stage == "benchmark":
        words = [*PYTHON, "-m", "primeattn.bench", "gpu", "--out", str(out), "--limit"]
        yield Process(stage, lambda seconds: [*words, f"{max(seconds - WRITING, 1):.0f}"])
    else:
        for kernel in kernels:
            yield process(kernel)


def sanitizer() -> str | None:
    """Path of compute-sanitizer: on the search path, beside this Python, or of the newest toolkit."""
    toolkits = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for pattern in (f"{sysconfig.get_path('purelib')}/nvidia/cu*", "/usr/local/cuda", "/usr/local/cuda-*"):
        toolkits += sorted(glob(pattern), key=_version, reverse=True)
    homes = [Path(sys.executable).parent]
    homes += [Path(toolkit) / part for toolkit in toolkits for part in ("bin", SANITIZER)]
    homes += map(Path, sorted(glob(f"/opt/nvidia/{SANITIZER}*"), key=_version, reverse=True))
    places = os.pathsep.join(map(str, homes))
    return shutil.which(SANITIZER) or shutil.which(SANITIZER, path=places)


def _version(path):
    """Numbers in the name of a folder: cuda-9.2 is older than cuda-13.0."""
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in Path(path).name).split()]


def text(steps, limit) -> str:
    """The plan as a table: what may run for how many seconds, and by when it ends."""
    lines = []
    for step in steps:
        planned = (step.at_once, step.seconds, step.until) if step.skipped is None else "---"
        lines.append([step.name, str(len(step.processes)), *(f"{x:g}" if x != "-" else x for x in planned)])
    lines.append(["in all", "", "", f"{sum(step.seconds for step in steps):g}", f"limit {limit:g}"])
    skipped = [f"not run: {step.name}: {step.skipped}" for step in steps if step.skipped is not None]
    passes_on = "what a step leaves of its seconds passes on to the next"
    plan = table(["plan", "processes", "at once", "seconds", "ends by"], lines)
    return "\n".join([plan, *(f"- {note}" for note in (passes_on, *skipped))])
