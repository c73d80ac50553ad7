"""The GPU kernels compile, for compute capability 8.0 and 9.0, to machine code as lean as it was designed.

Needs no GPU, but the compilers of the extra ``gpu-test``; skipped without them. The code is that of a launch
(:mod:`runtime_path`): registers decide how many warps are resident, and a stack means that a row did not fit.
"""

import re

import pytest

pytest.importorskip("numba_cuda")
import numpy as np
from numba import cuda, float32, int64
from numba import types as numba_types
from runtime_path import CAPABILITIES, machine_code_of, modules_of, ptx_of
from sass import main_loop

from primeattn.kernels.gpu.gather import plan
from primeattn.kernels.gpu.gather.backward import make_backward_keys, make_backward_queries
from primeattn.kernels.gpu.gather.forward import make_forward
from primeattn.kernels.gpu.gather.terms import Terms
from primeattn.kernels.gpu.occupancy import resident
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


targets = pytest.mark.parametrize("capability", CAPABILITIES, ids=CAPABILITIES.get)


def compiled(kernel, integers, number, capability, rest=()):
    """PTX and machine code of a kernel that takes so many integers and a scale, and what follows it."""
    arguments = (*[0] * integers, number, *rest)
    ptx, code = (of(kernel, arguments, capability) for of in (ptx_of, machine_code_of))
    assert code.stack == 0  # nothing is spilled, and no array lies in memory
    assert code.shared <= 48 * 1024
    threads, blocks = kernel.targetoptions["launch_bounds"]
    assert f".maxntid {threads}, 1, 1\n.minnctapersm {blocks}\n" in ptx
    assert code.registers * threads * blocks <= 65536
    assert not re.search(r"^\s*(@\S+ )?(atom|red)\.", ptx, re.MULTILINE) and ".func" not in ptx
    return ptx, code


def compile_gather(name, layout, capability):
    """PTX and machine code of a gather kernel, and the threads of its blocks."""
    make, integers = KERNELS[name]
    threads = plan.threads_of(plan.Layout(*layout))
    number = np.float64(1) if layout[0] == "float64" else np.float32(1)
    return *compiled(make(*layout, threads, plan.CHUNK), integers, number, capability), threads


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


@targets
@pytest.mark.parametrize(
    "layout",
    [("float32", 64, True), ("bfloat16", 128, True)],
    ids=lambda layout: f"{layout[0]}-{layout[1]}",
)
@pytest.mark.parametrize("name", KERNELS)
def test_main_kernels(name, layout, capability):
    ptx, code, threads = compile_gather(name, layout, capability)
    assert threads == 512 and code.registers <= 128
    assert ".f64" not in ptx
    assert "fma.rn.f32" in ptx and "ex2.approx.ftz.f32" in ptx
    reads = re.findall(r"ld\.global\.nc\.(\S+)\s", ptx)
    assert sum(read.startswith("v4.") for read in reads) >= 8  # two rows for each pair of two rounds


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
def test_other_layouts_fit_the_registers(name, layout):
    ptx, code, threads = compile_gather(name, layout, (9, 0))
    assert code.registers <= 65536 // threads
    assert (".f64" in ptx) == (layout[0] == "float64")


TERMS = Terms(biases=True, cap=True, dropout=True)
MAIN, OTHERS = (
    (("float32", 64, True), ("bfloat16", 128, True)),
    (("float64", 64, True), ("float32", 512, True)),
)


@pytest.mark.parametrize(
    ("name", "layout", "capability"),
    [
        *((name, MAIN[0], (9, 0)) for name in (*KERNELS, "summed")),
        *((name, MAIN[1], (8, 0)) for name in ("keys", "summed")),
        *(("summed", layout, (9, 0)) for layout in OTHERS),
    ],
    ids=str,
)
def test_all_terms_together_fit_the_registers(name, layout, capability):
    """With the sums of gradients of biases blocks have fewer threads."""
    summed = name == "summed"
    make, integers = KERNELS["queries" if summed else name]
    threads = plan.threads_of(plan.Layout(*layout), summed)
    kernel = make(*layout, threads, plan.CHUNK, TERMS, *[True] * summed)
    number = np.float64(1) if layout[0] == "float64" else np.float32(1)
    rest = 0, *[number] * 3, *[0] * (4 if summed else 2)  # limit, weight and cap; widths, tiles and slots
    ptx, code = compiled(kernel, integers + (6 if summed else 4), number, capability, rest)
    assert code.registers <= 65536 // threads
    assert summed or (".f64" in ptx) == (layout[0] == "float64")


def test_chains_of_the_benchmark_are_multiply_adds():
    """What is measured as the most that the device can do is one instruction for two operations."""
    from primeattn.bench.gpu_device import CHAINS, fma_chains

    signature = numba_types.Array(float32, 1, "C"), int64
    ptx, _ = cuda.compile_ptx(fma_chains, signature, cc=(9, 0))
    assert ptx.count("fma.rn.f32") % CHAINS == 0 and "fma.rn.f32" in ptx
    assert ".f64" not in ptx and "mul.f32" not in ptx and ".local" not in ptx


@targets
@pytest.mark.parametrize(
    ("storage", "head_dim"), [("bfloat16", 64), ("bfloat16", 128), ("float16", 64), ("float16", 128)]
)
@pytest.mark.parametrize("name", ["forward", "queries", "keys"])
def test_wheel_kernels(name, storage, head_dim, capability):
    tiling, *_ = TILINGS[head_dim > ONE_WARP, name != "forward"]
    make, _, _, _, _, instructions, wanted = WHEEL_KERNELS[name, head_dim]
    code = check_wheel_kernel(name, storage, head_dim, tiling, capability)
    assert resident(code.registers, warps_of(make, tiling), code.shared, capability) == wanted
    if capability == (9, 0) and storage == "bfloat16":
        loop = main_loop(code.cubin)
        print(name, storage, head_dim, dict(loop))
        assert loop["all"] <= instructions


@pytest.mark.slow
@targets
@pytest.mark.parametrize(
    ("name", "head_dim", "tiling"),
    [
        (name, head_dim, tiling)
        for name, head_dim in WHEEL_KERNELS
        for tiling in TILINGS[head_dim > ONE_WARP, name != "forward"][1:]
    ],
    ids=lambda part: f"{part.rows}x{part.columns}" if isinstance(part, Tiling) else str(part),
)
def test_other_tilings_of_the_wheel(name, head_dim, tiling, capability):
    """What the day of measurement may choose has the registers that it was given."""
    code = check_wheel_kernel(name, "bfloat16", head_dim, tiling, capability)
    warps = warps_of(WHEEL_KERNELS[name, head_dim][0], tiling)
    print(name, head_dim, tiling, capability, resident(code.registers, warps, code.shared, capability))


def warps_of(make, tiling):
    return tiling.rows // 16 * (2 if make in (make_wide_queries, make_wide_keys) else 1)


def check_wheel_kernel(name, storage, head_dim, tiling, capability):
    """Machine code of a wheel kernel, which is as it was designed."""
    make, integers, products, loads, registers, _, _ = WHEEL_KERNELS[name, head_dim]
    rows, columns = tiling
    kernel = make(storage, head_dim, rows // 16, columns)
    ptx, code = compiled(kernel, integers, np.float32(1), capability)
    modules = modules_of(kernel, (*[0] * integers, np.float32(1)), capability)
    assert code.registers <= registers and ".f64" not in ptx
    kind = {"bfloat16": "bf16", "float16": "f16"}[storage]
    assert ptx.count(f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32") == products
    assert ptx.count("ldmatrix.sync.aligned.m8n8.x4") == loads
    assert sum(convergent_assembly(module) for module in modules) > 0
    copied_at_once = 32 * warps_of(make, tiling) // (head_dim // 8)  # rows, each in pieces of 16 bytes
    assert ptx.count("cp.async.cg.shared.global") == 4 * -(-columns // copied_at_once)
    if capability == (9, 0):
        loop = main_loop(code.cubin)
        assert (loop["mma"], loop["ldmatrix"]) == (products, loads)
    return code
