"""The GPU kernels compile, for compute capability 8.0 and 9.0, to machine code as lean as it was designed.

Needs no GPU, but the compilers of the extra ``gpu-test``; skipped without them. What ptxas reports is
what will run: registers decide how many warps are resident, and a stack frame means that a row did not fit.
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
from sass import main_loop

from primeattn.kernels.gpu.gather import plan, rows
from primeattn.kernels.gpu.gather.backward import make_backward_keys, make_backward_queries
from primeattn.kernels.gpu.gather.forward import make_forward
from primeattn.kernels.gpu.occupancy import resident
from primeattn.kernels.gpu.wheel import fragments
from primeattn.kernels.gpu.wheel.backward import make_wheel_keys, make_wheel_queries
from primeattn.kernels.gpu.wheel.backward_wide import make_wide_keys, make_wide_queries
from primeattn.kernels.gpu.wheel.forward import make_wheel_forward
from primeattn.wheel.tables import ONE_WARP, TILINGS, Tiling

KERNELS = {
    # maker, integers: addresses of arrays and tables, and of the forward how much later the queries are
    "forward": (make_forward, 8),
    "queries": (make_backward_queries, 11),
    "keys": (make_backward_keys, 9),
}
WHEEL_KERNELS = {
    # Name, head_dim: maker, integers: addresses of arrays and tables, the wheel, global tokens;
    # products and loads of matrices, and, at most, registers and instructions of the loop over tiles
    # (sm_90), both branches of two warps that share rows together. The loops of keys of 128 go over 16
    # columns. Then, of a multiprocessor, how many warps in how many blocks.
    ("forward", 64): (make_wheel_forward, 9, 64, 32, 128, 494, (2, 16)),
    ("forward", 128): (make_wheel_forward, 9, 64, 32, 168, 400, (1, 8)),
    ("queries", 64): (make_wheel_queries, 13, 96, 48, 168, 495, (2, 12)),
    ("queries", 128): (make_wide_queries, 13, 48, 24, 168, 311, (1, 12)),
    ("keys", 64): (make_wheel_keys, 12, 128, 64, 168, 692, (2, 12)),
    ("keys", 128): (make_wide_keys, 12, 32, 16, 168, 194, (1, 12)),
}


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
    """PTX of a gather kernel, and what ptxas says of it."""
    make, integers = KERNELS[name]
    threads = plan.threads_of(plan.Layout(*layout))
    number = float64 if layout[0] == "float64" else float32
    signature = (int64,) * integers + (number,)
    ptx, report = compiled(make, (*layout, threads, plan.CHUNK), signature, capability, tmp_path, monkeypatch)
    return ptx, report, threads


def compiled(make, shape, signature, capability, tmp_path, monkeypatch):
    """PTX of ``make(*shape)``, and what ptxas says of it; the code is in ``tmp_path / "kernel.cubin"``."""
    from numba.cuda import dispatcher

    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: device)  # device functions ask for one
    for maker in (rows.make_rows, fragments.make_fragments, make):
        maker.cache_clear()  # or device functions compiled for the other capability would be taken
    kernel = make(*shape)
    bounds = kernel.targetoptions["launch_bounds"]
    ptx, _ = cuda.compile_ptx(kernel.py_func, signature, cc=capability, launch_bounds=bounds)
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
    return ptx, done.stdout + done.stderr


def modules_compiled(monkeypatch):
    """List to which the text of every LLVM module goes that the compiler is given from now on."""
    from numba.cuda.cudadrv import nvvm

    modules, compile_ir = [], nvvm.compile_ir
    monkeypatch.setattr(
        nvvm, "compile_ir", lambda texts, **options: modules.extend(texts) or compile_ir(texts, **options)
    )
    return modules


def convergent_assembly(module):
    """Number of instructions of whole warps in an LLVM module; no threads may be left out of one.

    Without the word on the call, and on the function that has it, the compiler may move or copy it into a
    branch that only some of the threads take.
    """
    count = 0
    for line in module.splitlines():
        if line.startswith("define"):
            function = line
        elif " asm " in line and ".sync." in line:
            assert line.endswith(") convergent") and function.endswith(") convergent"), line
            count += 1
    return count


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


@pytest.mark.parametrize(
    ("storage", "head_dim", "capability"),
    [("bfloat16", 64, (8, 0)), ("bfloat16", 64, (9, 0)), ("bfloat16", 128, (8, 0)), ("float16", 128, (9, 0))],
    ids=lambda part: str(part).replace(", ", "."),
)
@pytest.mark.parametrize("name", ["forward", "queries", "keys"])
def test_wheel_kernels(name, storage, head_dim, capability, tmp_path, monkeypatch):
    tiling, *_ = TILINGS[head_dim > ONE_WARP, name != "forward"]
    make, _, _, _, _, instructions, wanted = WHEEL_KERNELS[name, head_dim]
    report = check_wheel_kernel(name, storage, head_dim, tiling, capability, tmp_path, monkeypatch)
    assert blocks_of(report, make, tiling, capability) == wanted
    if capability == (9, 0):
        loop = main_loop((tmp_path / "kernel.cubin").read_bytes())
        print(name, storage, head_dim, dict(loop))
        assert loop["all"] <= instructions


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize(
    ("name", "head_dim", "tiling"),
    [
        (name, head_dim, tiling)
        for name, head_dim in WHEEL_KERNELS
        for tiling in TILINGS[head_dim > ONE_WARP, name != "forward"][1:]
    ],
    ids=lambda part: f"{part.rows}x{part.columns}" if isinstance(part, Tiling) else str(part),
)
def test_other_tilings_of_the_wheel(name, head_dim, tiling, capability, tmp_path, monkeypatch):
    """What the day of measurement may choose has the registers that it was given."""
    report = check_wheel_kernel(name, "bfloat16", head_dim, tiling, capability, tmp_path, monkeypatch)
    make = WHEEL_KERNELS[name, head_dim][0]
    print(name, head_dim, tiling, capability, blocks_of(report, make, tiling, capability))


def blocks_of(report, make, tiling, capability):
    """Blocks and warps of a multiprocessor, by what ptxas says."""
    registers, shared = (int(re.search(text, report)[1]) for text in (r"Used (\d+) reg", r"(\d+) bytes smem"))
    return resident(registers, warps_of(make, tiling), shared, capability)


def warps_of(make, tiling):
    return tiling.rows // 16 * (2 if make in (make_wide_queries, make_wide_keys) else 1)


def check_wheel_kernel(name, storage, head_dim, tiling, capability, tmp_path, monkeypatch):
    """What ptxas says of a wheel kernel, which is as it was designed."""
    make, integers, products, loads, registers, _, _ = WHEEL_KERNELS[name, head_dim]
    rows, columns = tiling
    shape = storage, head_dim, rows // 16, columns
    signature = (int64,) * integers + (float32,)
    modules = modules_compiled(monkeypatch)
    ptx, report = compiled(make, shape, signature, capability, tmp_path, monkeypatch)
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in report
    assert int(re.search(r"Used (\d+) registers", report)[1]) <= registers
    assert int(re.search(r"(\d+) bytes smem", report)[1]) <= 48 * 1024
    assert ".f64" not in ptx and not re.search(r"^\s*(@\S+ )?(atom|red)\.", ptx, re.MULTILINE)
    kind = {"bfloat16": "bf16", "float16": "f16"}[storage]
    assert ptx.count(f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32") == products
    assert ptx.count("ldmatrix.sync.aligned.m8n8.x4") == loads
    assert sum(convergent_assembly(module) for module in modules) > 0 and ".func" not in ptx
    copied_at_once = 32 * warps_of(make, tiling) // (head_dim // 8)  # rows, each in pieces of 16 bytes
    assert ptx.count("cp.async.cg.shared.global") == 4 * -(-columns // copied_at_once)
    if capability == (9, 0):
        loop = main_loop((tmp_path / "kernel.cubin").read_bytes())
        assert (loop["mma"], loop["ldmatrix"]) == (products, loads)
    return report
