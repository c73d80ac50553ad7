"""What primeattn runs on: versions, processor, threads, compiled code, GPU."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.compiled.blas import openblas_core, openblas_threads
from primeattn.compiled.jit import cache_folder
from primeattn.compiled.simd import VECTOR
from primeattn.kernels import get_num_threads
from primeattn.kernels.call import KERNELS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["collect", "machine", "report", "versions"]

PACKAGES = (
    "primeattn", "numpy", "numba", "llvmlite", "scipy", "matplotlib", "numba-cuda", "cuda-bindings", "torch",
)  # fmt: skip


def collect() -> dict[str, dict]:
    """Return a description of this machine: sections of names and values of JSON types.

    Returns
    -------
    dict of str to dict
        The sections, each with names and values.

    See Also
    --------
    report : The same as text.

    Examples
    --------
    >>> import primeattn as pa
    >>> list(pa.info.collect())
    ['versions', 'machine', 'cpu', 'gpu']
    """
    from primeattn.kernels.gpu import device

    cpu = {
        "kernels": ", ".join(name for name, device in KERNELS.items() if device == "cpu"),
        "vector_bits": 8 * VECTOR,
        "threads": get_num_threads(),
        "blas_threads": openblas_threads()[0]() or None,
        "blas_core": openblas_core(VECTOR),
        "compiled_code": cache_folder(),
    }
    return {"versions": versions(), "machine": machine(), "cpu": cpu, "gpu": device.describe()}


def report(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the sections of ``collect`` as readable text; None is written as a dash.

    Parameters
    ----------
    sections : dict of str to dict
        From ``collect``.

    Returns
    -------
    str
        A heading for each section, and a line for each value.

    See Also
    --------
    collect : Makes the sections.

    Examples
    --------
    >>> import primeattn as pa
    >>> print(pa.info.report({"machine": {"caches": {"L1": "32K", "L2": "1M"}}, "gpu": {"device": None}}))
    machine
      caches  L1 32K, L2 1M
    <BLANKLINE>
    gpu
      device  -
    """
    width = max(len(name) for values in sections.values() for name in values)
    return "\n\n".join(
        "\n".join([title, *(f"  {name:{width}}  {_text(value)}" for name, value in values.items())])
        for title, values in sections.items()
    )


def _text(value):
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items()) or "-"
    return "-" if value is None else str(value)


def machine() -> dict:
    """Return the processor, its cores and caches, and the system, as far as the system says.

    Returns
    -------
    dict
        Names and values, None where the system does not say.

    See Also
    --------
    collect : All sections.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.info.machine()["cores"] >= 1
    True
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "caches": _caches(Path("/sys/devices/system/cpu/cpu0/cache")),
        "system": platform.platform(),
    }


def versions() -> dict:
    """Return the versions of Python and of the packages that matter, None for those not installed.

    Returns
    -------
    dict
        Versions by package.

    See Also
    --------
    collect : All sections.

    Examples
    --------
    >>> import numpy as np
    >>> import primeattn as pa
    >>> pa.info.versions()["numpy"] == np.__version__
    True
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    except TypeError:  # NumPy 1.25 can only print it
        return found
    return {**found, "blas": f"{blas['name']} {blas['version']}"}


def _cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _caches(folder):
    """Size of each cache of the first core, such as {"L1 Data": "32K"}; empty if it cannot be read."""
    caches = {}
    for index in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        caches[f"L{level}" if kind == "Unified" else f"L{level} {kind}"] = size
    return caches
