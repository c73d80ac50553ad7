"""Stages of :mod:`primeattn.bench.gpu_check`, each run in a process of its own.

A stage yields findings: dicts with a ``check``, and ``ok``: True, False, or None if there is nothing to fail;
``value`` is what was measured, and ``limit`` what it must not exceed. As a program, ``python -m
primeattn.bench.gpu_stages STAGE ARGUMENT ...`` writes each at once as a line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import traceback

from primeattn.bench.gpu_accuracy import accuracy, long, repeats, small
from primeattn.bench.gpu_cases import finding
from primeattn.bench.gpu_costs import auto, tilings, wheels
from primeattn.bench.gpu_launches import allocation, launch, streams
from primeattn.bench.peers import find_torch
from primeattn.kernels.gpu import device

__all__ = ["STAGES", "main", "versions"]

PACKAGES = ("primeattn", "numpy", "numba", "numba-cuda", "llvmlite", "cuda-bindings", "torch", "cupy-cuda13x")


def versions():
    """Versions of packages, tools and driver, and whether a GPU can be used."""
    for name in PACKAGES:
        try:
            yield finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield finding(name, None)
    yield finding("python", sys.version.split()[0])
    yield finding("cuda.implementation", getattr(device.cuda, "implementation", None))
    try:
        yield finding("driver", ".".join(map(str, device.cuda.cudadrv.driver.driver.get_version())))
    except Exception as error:  # absent, or elsewhere in this version
        yield finding("driver", None, note=str(error).splitlines()[0] if str(error) else "")
    described, reason = device.describe(), device.problem()
    yield finding("CUDA target", described["target"])
    yield finding("GPU", described["device"], ok=reason is None)
    # From here on it may take minutes, or fail in any way; whether there is a GPU is told already.
    for name, command in {
        "nvidia-smi": ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        "nvcc": ["nvcc", "--version"],
    }.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            yield finding(name, done.stdout.strip().splitlines()[-1])
        except (OSError, subprocess.SubprocessError, IndexError):
            yield finding(name, None)
    torch = find_torch()
    if torch is None:
        yield finding("torch reaches the GPU", note="it does not import")
    else:
        yield finding("torch reaches the GPU", torch.cuda.is_available(), note=str(torch.version.cuda))


STAGES = {
    "versions": versions, "accuracy": accuracy, "repeats": repeats, "long": long, "streams": streams,
    "small": small, "launch": launch, "allocation": allocation, "auto": auto, "wheels": wheels,
    "tilings": tilings,
}  # fmt: skip


def main(argv) -> int:
    """Run a stage; return exit status 1 if a check fails, or if the stage raises."""
    name, *arguments = argv
    failed = False
    try:
        for found in STAGES[name](*arguments):
            print(json.dumps(found), flush=True)
            failed |= found["ok"] is False
    except Exception as error:  # a stage may fail in any way; earlier findings count
        message = (str(error).strip() or "no message").splitlines()[0]
        print(json.dumps(finding(f"{type(error).__name__}: {message}", ok=False)), flush=True)
        traceback.print_exc()
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
