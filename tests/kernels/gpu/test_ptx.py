"""The GPU kernels compile, for compute capability 8.0 and 9.0, to machine code as lean as it was designed.

Needs no GPU but the compilers of the extra ``gpu-test``; skipped without them. What ptxas reports is the
machine's truth: registers decide how many warps are resident, a stack frame means that a row has left them.
"""

import os
import re
import shutil
import subprocess
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda")
from numba import cuda, float32, float64, int64
from numba import types as numba_types

from primeattn.kernels.gpu import plan, rows
from primeattn.kernels.gpu.backward import make_backward_keys, make_backward_queries
from primeattn.kernels.gpu.forward import make_forward

KERNELS = {
    "forward": (make_forward, 5),
    "queries": (make_backward_queries, 9),
    "keys": (make_backward_keys, 7),
}
TABLES = numba_types.Array(int64, 1, "C")


def find_ptxas():
    """ptxas of the package nvidia-cuda-nvcc, which fits the compiler beside it, or that of the system."""
    for folder in getattr(find_spec("nvidia"), "submodule_search_locations", None) or []:
        for found in Path(folder).glob("**/bin/ptxas"):
            return str(found)
    return shutil.which("ptxas")


PTXAS = find_ptxas()
if PTXAS is None:
    pytest.skip("no ptxas", allow_module_level=True)


def compile_kernel(name, layout, capability, tmp_path, monkeypatch):
    """PTX, and what ptxas says of it."""
    from numba.cuda import dispatcher

    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)  # device functions ask for one
    make, addresses = KERNELS[name]
    threads = plan.threads_of(plan.Layout(*layout))
    for maker in (rows.make_rows, make):
        maker.cache_clear()  # or device functions compiled for the other capability would be taken
    kernel = make(*layout, threads, plan.CHUNK)
    number = float64 if layout[0] == "float64" else float32
    signature = (int64,) * addresses + (TABLES, number)
    ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=capability, launch_bounds=(threads, 1))
    source = tmp_path / "kernel.ptx"
    source.write_text(ptx)
    command = [
        PTXAS,
        f"-arch=sm_{capability[0]}{capability[1]}",
        "-v",
        source,
        "-o",
        tmp_path / "kernel.cubin",
    ]
    done = subprocess.run([os.fspath(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ptx, done.stdout + done.stderr, threads


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize(
    "layout",
    [("float32", 64, True), ("bfloat16", 128, True)],
    ids=lambda layout: f"{layout[0]}-{layout[1]}",
)
@pytest.mark.parametrize("name", KERNELS)
def test_main_kernels(name, layout, capability, tmp_path, monkeypatch):
    ptx, report, threads = compile_kernel(name, layout, capability, tmp_path, monkeypatch)
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report
    assert threads == 512 and int(re.search(r"Used (\d+) registers", report)[1]) <= 128
    assert ".f64" not in ptx
    assert "fma.rn.f32" in ptx and "ex2.approx.ftz.f32" in ptx
    reads = re.findall(r"ld\.global\.nc\.(\S+)\s", ptx)
    assert sum(read.startswith("v4.") for read in reads) >= 8  # two rows for each pair of two rounds
    assert not re.search(r"^\s*(@\S+ )?(atom|red)\.", ptx, re.MULTILINE)


@pytest.mark.parametrize(
    "layout",
    [
        ("float64", 64, True),
        ("float32", 37, False),
        ("float32", 512, True),
        ("float16", 80, True),
    ],
    ids=lambda layout: f"{layout[0]}-{layout[1]}",
)
@pytest.mark.parametrize("name", KERNELS)
def test_other_layouts_fit_the_registers(name, layout, tmp_path, monkeypatch):
    ptx, report, threads = compile_kernel(name, layout, (9, 0), tmp_path, monkeypatch)
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report
    assert int(re.search(r"Used (\d+) registers", report)[1]) <= 65536 // threads
    assert (".f64" in ptx) == (layout[0] == "float64")
    assert int(re.search(r"(\d+) bytes smem", report)[1]) <= 48 * 1024


def test_chains_of_the_benchmark_are_multiply_adds(tmp_path):
    """What is measured as the most that the device can do is one instruction for two operations."""
    from primeattn.bench.gpu_device import CHAINS, fma_chains

    signature = numba_types.Array(float32, 1, "C"), int64
    ptx, _ = cuda.compile_ptx(fma_chains, signature, cc=(9, 0))
    assert ptx.count("fma.rn.f32") % CHAINS == 0 and "fma.rn.f32" in ptx
    assert ".f64" not in ptx and "mul.f32" not in ptx and ".local" not in ptx
