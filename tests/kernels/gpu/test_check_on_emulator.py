"""A dry run of ``primeattn.bench gpu-check`` on the emulator: all stages pass, and fail where they should."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from emulator import emulated
from host_twin import Gpu, Host
from torch_twin import make_torch

import primeattn as pa
from primeattn import bench
from primeattn.bench import (
    gpu,
    gpu_accuracy,
    gpu_cases,
    gpu_check,
    gpu_costs,
    gpu_device,
    gpu_launches,
    gpu_peers,
    gpu_plan,
    gpu_processes,
    gpu_stages,
)
from primeattn.bench.gpu_cases import Case
from primeattn.kernels import dispatch
from primeattn.kernels.call import GPU_KERNELS
from primeattn.kernels.gpu import append, device, launch, launch_cache
from primeattn.wheel import tables

pytestmark = pytest.mark.slow

ALL_TERMS = ("offset_bias", "global_bias", "slopes")
TILING = tables.tiling

WIDTH = {"gather": 4, "wheel": 32}  # head_dim of small cases


def cases(d):
    return {
        "plain": Case(2, 1, 17, 17, d),
        "gradient of lse": Case(1, 1, 21, 21, d, dlse=True),
        "wide": Case(1, 1, 9, 9, 2 * d),
        "rows without keys": Case(1, 1, 9, 9, d, q_start=3, k_start=9),
        "no keys": Case(1, 1, 5, 0, d),
        "packed": Case(1, 1, 20, 20, d, cu_seqlens=[0, 1, 9, 20]),
        "decoding": Case(2, 1, 2, 30, d, 2, q_start=np.array([28, 9]), k_start=np.array([0, 1])),
        "all terms": Case(2, 1, 19, 19, d, terms=ALL_TERMS, softcap=2.5, dropout=0.3),
    }


def shrink(monkeypatch, kernel):
    """Make the cases of the stages small ones that the kernel takes."""

    def small(heads, kv_heads, n_q, n_k, head_dim, *rest, **options):
        if n_q > gpu_accuracy.LONG:
            heads, kv_heads = 2, 2 * kv_heads // heads
            n_q, n_k, head_dim = 12, 12, WIDTH[kernel]
        return Case(heads, kv_heads, n_q, n_k, head_dim, *rest, **options)

    for module in (gpu_accuracy, gpu_launches):
        monkeypatch.setattr(module, "Case", small)
    monkeypatch.setattr(gpu_accuracy, "CASES", cases(WIDTH[kernel]))


SIZES = {
    gpu_accuracy: {"BACKWARDS": 2, "LONG": 30, "STRIDED": Case(2, 2, 11, 11, 5, 2), "CACHED": (4, 8)},
    gpu_launches: {"HOST_LIMIT": 10, "ROUNDS": 1, "CALLS": 2},
    gpu_costs: {"AUTO_LENGTHS": (8, 12), "HEADS": 1, "HEAD_DIMS": (32,), "LENGTHS": (12,)},
    gpu_device: {"TURN": 1e-6, "COPIES": {"memory": 2**12, "cache": 2**8}},
    gpu: {"LENGTHS": (10,), "HEAD_DIMS": (4,), "HEADS": (1,)},
}


@pytest.fixture
def machine(monkeypatch):
    """A GPU for the stages, whose sizes are so small that it can be emulated; no torch, no CuPy."""
    with emulated(monkeypatch, kind=Gpu) as machine:
        for module in (device, gpu_device, gpu_peers):
            monkeypatch.setattr(module, "cuda", Host(machine))
        give_torch(monkeypatch, None)
        monkeypatch.setitem(sys.modules, "cupy", None)
        for module, sizes in SIZES.items():
            for name, value in sizes.items():
                monkeypatch.setattr(module, name, value)
        monkeypatch.setattr(gpu_costs, "SEQUENCES", ("primes",))
        monkeypatch.setattr(gpu, "SEQUENCES", ("primes",))
        one_head = lambda *sizes, pattern: Case(1, 1, *sizes[2:4], 4, pattern=pattern)  # noqa: E731
        monkeypatch.setattr(gpu_costs, "Case", one_head)
        shrink(monkeypatch, "gather")
        yield machine
        monkeypatch.undo()  # what a test has patched, before the emulator undoes its own


def give_torch(monkeypatch, torch):
    for module in (gpu_device, gpu_peers, gpu_stages):
        monkeypatch.setattr(module, "find_torch", lambda: torch)
    if torch is not None:
        monkeypatch.setitem(sys.modules, "torch", torch)  # where the library looks for its streams


def dry_run(process, machine, out, capsys):
    """The entry of a process that is run in this one."""
    words, kernels = process.command(60), set(WIDTH) & set(process.name.split())
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        for kernel in kernels:
            shrink(patch, kernel)
        if process.name.startswith("streams"):
            give_torch(patch, make_torch(machine))
        if process.name == "benchmark":
            status = bench.main(words[words.index("primeattn.bench") + 1 :])
        else:
            status = gpu_stages.main(words[words.index("primeattn.bench.gpu_stages") + 1 :])
    findings, lines = gpu_processes.read(capsys.readouterr().out)
    return {"findings": findings, "status": status, "seconds": 0.0, "tail": "\n".join(lines)}


def check(machine, out, capsys, monkeypatch, kernels):
    """Run gpu-check, all in this process; its exit status, and the arguments of all stages."""
    stages = []

    def run_together(processes, at_once, left, note):
        for process in processes:
            note(process, dry_run(process, machine, out, capsys))

    def main(arguments):
        stages.append(arguments)
        return stage(arguments)

    stage = gpu_stages.main
    monkeypatch.setattr(gpu_stages, "main", main)
    monkeypatch.setattr(gpu_check, "run_together", run_together)
    monkeypatch.setattr(gpu_plan, "sanitizer", lambda: "compute-sanitizer")
    status = gpu_check.run(out=out, command="", kernels=kernels)
    return status, stages


@pytest.mark.slow
def test_dry_run(machine, tmp_path, capsys, monkeypatch):
    """One kernel and dtype go through every stage, and no stage is missing."""
    monkeypatch.setattr(gpu_plan, "DTYPES", {"gather": ("float32",)})
    monkeypatch.setattr(gpu_plan, "SMALL", {64: ("packed",)})
    monkeypatch.setattr(gpu, "DTYPES", ("float32",))
    status, stages = check(machine, tmp_path, capsys, monkeypatch, ("gather",))
    assert status == 0 and capsys.readouterr().out.endswith("\nall checks passed\n")
    assert gpu_plan.ON_REQUEST == ("tilings",)  # which the test after the next one runs
    assert {arguments[0] for arguments in stages} == set(gpu_stages.STAGES) - {"tilings"}
    written = json.loads((tmp_path / "data" / "gpu_check.json").read_text())
    assert {name.split()[0] for name in written["stages"]} == set(gpu_plan.STAGES) - {"tilings"}


@pytest.mark.slow
def test_dry_run_of_all_kernels_and_dtypes(machine, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "HEAD_DIMS", (32,))
    status, stages = check(machine, tmp_path, capsys, monkeypatch, GPU_KERNELS)
    written = json.loads((tmp_path / "data" / "gpu_check.json").read_text())["stages"]
    assert status == 0, [gpu_check.text(*item) for item in written.items()]
    assert len(written) == 40 and len(stages) == 39
    refused = {
        name: [found["check"] for found in entry["findings"] if "refused" in (found.get("note") or "")]
        for name, entry in written.items()
    }
    others = ["rows without keys", "no keys", "all terms", "strided"]
    assert {name: checks for name, checks in refused.items() if checks} == {
        "accuracy wheel bfloat16": others, "accuracy wheel float16": others,
        "memcheck wheel bfloat16 64": ["bfloat16, all terms"],
        "racecheck wheel bfloat16 64": ["bfloat16, all terms"],
    }  # fmt: skip


@pytest.mark.slow
def test_every_tiling_is_compared(machine, monkeypatch):
    """The first is what a call takes, the others what it is compared with."""
    seen, before = [], 0
    monkeypatch.setattr(tables, "tiling", TILING)  # the emulator has another
    monkeypatch.setattr(gpu_costs, "HEAD_DIMS", (64,))
    monkeypatch.setattr(gpu_costs, "LENGTHS", (8, 12, 20))
    for found in gpu_stages.STAGES["tilings"]():
        threads = {name: threads for name, *_, threads, _ in machine.launches[before:]}
        seen.append((found["check"].split(": ")[1], threads))
        before = len(machine.launches)
    rows = [128, 64, 96, 128, 64]  # of forwards, then of both passes
    assert [check for check, _ in seen] == 2 * [f"{n} rows by 64" for n in rows]
    assert [threads["wheel_forward"] for _, threads in seen] == 2 * [256, 128, 256, 256, 256]
    assert [threads.get("wheel_keys") for _, threads in seen] == 2 * [None, None, 192, 256, 128]


def broken(monkeypatch, name, wrong):
    """Put ``wrong``, a function of the right one and its arguments, in its place in all stages."""
    for module in (gpu_cases, gpu_accuracy, gpu_launches, gpu_costs):
        if hasattr(module, name):
            right = getattr(module, name)
            monkeypatch.setattr(
                module, name, lambda *arguments, right=right, **options: wrong(right, *arguments, **options)
            )


def failing(stage, *arguments, capsys):
    """Checks that fail when a stage is run as a program; it says so by its exit status."""
    capsys.readouterr()
    status = gpu_stages.main([stage, *arguments])
    findings, _ = gpu_processes.read(capsys.readouterr().out)
    failed = [found["check"] for found in findings if found["ok"] is False]
    assert status == bool(failed)
    return failed


def memory(array):
    """What an array of the GPU holds, to be read and changed."""
    return array if isinstance(array, np.ndarray) else array.part


def test_accuracy_of_16_bits_is_held_to_that_of_torch(machine, monkeypatch):
    of_torch = {"out": 1e-3, "dq": 0.0, "dk": 1e-9, "dv": 1.0}
    monkeypatch.setattr(gpu_accuracy, "torch_on_gpu", lambda: "torch")
    monkeypatch.setattr(gpu_accuracy, "_errors_of_torch", lambda *arguments: of_torch)
    small = cases(4)
    found = {f["check"]: f for f in gpu_accuracy._accuracy("gather", "float16", "plain", small["plain"])}
    least = gpu_cases.LIMITS["float16"] / 16
    limits = {"out": 2e-3, "lse": 1e-5, "dq": least, "dk": least, "dv": 2.0}
    assert {name: found[f"plain: {name}"]["limit"] for name in limits} == limits
    assert found["plain: dv"]["ok"] and not found["plain: dq"]["ok"]
    (bound, *_) = gpu_accuracy._accuracy("gather", "float16", "x", small["gradient of lse"])
    assert bound["limit"] == gpu_cases.LIMITS["float16"]  # torch knows no gradient of lse


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_errors_of_torch(machine, storage):
    torch = pytest.importorskip("torch")
    on_cpu = SimpleNamespace(
        as_tensor=lambda memory, device: torch.from_numpy(memory.array),
        from_numpy=lambda array: SimpleNamespace(to=lambda device: torch.from_numpy(array)),
        bfloat16=torch.bfloat16, nn=torch.nn, autograd=torch.autograd,
    )  # fmt: skip
    for name in ("plain", "packed", "decoding"):
        case = cases(4)[name]
        arrays = case.draw(storage)
        found = gpu_accuracy._errors_of_torch(on_cpu, case, arrays, case.expected(*arrays))
        assert list(found) == ["out", "dq", "dk", "dv"]
        assert all(0 < error <= gpu_cases.LIMITS[storage] for error in found.values())


def test_accuracy_fails_where_results_are_wrong(machine, monkeypatch, capsys):
    def wrong(backward, dq, dk, *rest, **options):
        backward(dq, dk, *rest, **options)
        machine.synchronize()
        memory(dk)[...] *= 1 + 1e-4

    broken(monkeypatch, "sparse_index_kernel_backward", wrong)
    failed = failing("accuracy", "gather", "float32", capsys=capsys)
    assert {"plain: dk", "packed: dk", "strided: dk"} <= {*failed}
    assert all(check.endswith("dk") for check in failed)


@pytest.mark.parametrize(
    ("name", "wrong", "check"),
    [
        ("append", lambda right, cache, rows, starts, used: right(cache, rows, starts, used // 2), "y"),
        ("copy_cache", lambda right, st: with_cache_emptied(right(st)), "a copy goes on alike"),
    ],
)
def test_a_cache_that_is_wrong_is_seen(name, wrong, check, machine, monkeypatch):
    module = append if name == "append" else gpu_accuracy
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *arguments: wrong(right, *arguments))
    found = {f["check"]: f["ok"] for f in gpu_accuracy._cache("float32")}
    assert not found[f"cache: {check}"]


def with_cache_emptied(st):
    rows = st["cache"]["rows"]
    rows.upload(np.zeros(rows.shape, rows.dtype))
    return st


def test_a_write_beside_the_arrays_is_seen(machine, monkeypatch):
    def careless(forward, out, lse, q, *rest, **options):
        forward(out, lse, q, *rest, **options)
        machine.synchronize()
        memory(q)[0, 0, 0, 0] = 9

    broken(monkeypatch, "sparse_index_kernel", careless)
    found = {f["check"]: f["ok"] for f in gpu_accuracy._strided("gather", "float32")}
    assert not found["strided: nothing else is written"]


def test_a_nan_that_spreads_or_is_lost_is_seen(machine, monkeypatch):
    def spread(forward, *arguments, **options):
        out, lse = forward(*arguments, **options)
        out[0, 0, 0] += out.sum()
        return out, lse

    def lose(forward, *arguments, **options):
        out, lse = forward(*arguments, **options)
        return np.nan_to_num(out), lse

    for wrong in (spread, lose):
        with monkeypatch.context() as patch:
            broken(patch, "attention", wrong)
            assert [f["ok"] for f in gpu_accuracy._nan("gather", "float32")] == [False]


def test_only_other_kernels_may_refuse(machine, monkeypatch, capsys):
    """And one that refuses everything has not passed."""

    def refuse(right, *arguments, **options):
        raise ValueError("kernel: expected float16, got float32")

    broken(monkeypatch, "attention", refuse)
    broken(monkeypatch, "sparse_index_kernel", refuse)
    found = list(gpu_accuracy.accuracy("wheel", "float32"))
    assert {f["ok"] for f in found} == {None} and len(found) == len(cases(4)) + 2
    assert all(f["note"] == "refused: kernel: expected float16, got float32" for f in found)
    assert gpu_check.is_not_run({"findings": found, "status": 0})
    error = ["ValueError: kernel: expected float16, got float32"]
    assert failing("accuracy", "gather", "float32", capsys=capsys) == error


@pytest.mark.parametrize("changed", [2, 4])
def test_repeats_fail_where_a_result_differs(changed, machine, monkeypatch, capsys):
    """In the second run, or in a backward without a workspace: by one bit."""
    calls = []

    def unlike(backward, dq, *rest, **options):
        backward(dq, *rest, **options)
        machine.synchronize()
        calls.append(1)
        if len(calls) == changed:
            memory(dq)[0, 0, 3, 1:2].view(np.int32)[:] ^= 1

    broken(monkeypatch, "sparse_index_kernel_backward", unlike)
    later = "float32, 2 backwards without a workspace"
    assert failing("repeats", "gather", "float32", capsys=capsys) == ["float32" if changed == 2 else later]


def test_scratch_that_is_freed_before_the_launch_is_seen(machine, monkeypatch, capsys):
    again = launch.Launch.run_again

    def careless(self, at, workspace):
        if not self.scratch:
            return again(self, at, workspace)
        (nbytes,) = self.scratch.values()
        self.run(at | {"lse_delta": launch._address(launch.cuda.device_array(nbytes, np.uint8))})

    monkeypatch.setattr(launch.Launch, "run_again", careless)
    (failed,) = failing("repeats", "gather", "float32", capsys=capsys)
    assert "outside of any buffer" in failed


def test_small_fails_where_memory_is_missed(machine, monkeypatch, capsys):
    strides = launch._strides
    monkeypatch.setattr(launch, "_strides", lambda *a, **k: tuple(9 * s for s in strides(*a, **k)))
    (failed,) = failing("small", "gather", "float32", "packed", capsys=capsys)
    assert "outside of any buffer" in failed


def test_long_fails_where_one_row_is_wrong(machine, monkeypatch, capsys):
    def wrong(forward, *arguments, **options):
        out, lse = forward(*arguments, **options)
        out[0, 1, gpu_accuracy.LONG // 2 + 1] *= 1 + 1e-3
        return out, lse

    broken(monkeypatch, "attention", wrong)
    monkeypatch.setattr(gpu_accuracy, "LONG_SEQUENCES", ("squares",))
    assert "squares, n = 30: out" in failing("long", "gather", "float32", capsys=capsys)


def test_streams_fail_where_work_goes_to_another(machine, monkeypatch, capsys):
    give_torch(monkeypatch, make_torch(machine))
    for module in (dispatch, launch_cache):
        monkeypatch.setattr(module, "carried_streams", lambda *arguments: set())
    failed = failing("streams", "gather", capsys=capsys)
    assert failed == ["work of a side stream comes first", "a graph of torch replays forward and backward"]


def test_streams_without_torch_have_not_passed(machine):
    assert gpu_check.is_not_run({"findings": list(gpu_launches.streams("gather")), "status": 0})


def test_launch_fails_over_its_limit(machine, monkeypatch, capsys):
    monkeypatch.setattr(gpu_launches, "HOST_LIMIT", 1e-7)
    assert failing("launch", "gather", capsys=capsys) == ["forward, Numba device arrays"]


def test_a_bare_launch_is_nothing_else(machine, monkeypatch):
    arrays, _, backward = gpu_launches._calls("gather", "float32", lambda array: array)
    backward()
    bare = gpu_launches._bare(arrays, "gather")
    machine.synchronize()
    made = len(machine.launches)
    monkeypatch.setattr(dispatch, "locate", lambda *arguments: pytest.fail("more than the launch"))
    bare()
    machine.synchronize()
    assert len(machine.launches) == made + 1
    out, _, q, k, v = (array.download().astype(float) for array in arrays)
    np.testing.assert_allclose(out, pa.kernels.reference.forward(q, k, v, gpu_cases.PATTERN)[0], atol=1e-5)


def test_arrays_of_a_launch_that_is_repeated_stay_alive(machine, monkeypatch):
    inputs = gpu_peers.GpuInputs.draw(1, 1, 12, 4, "float32")
    again = gpu_costs._calls(inputs, gpu_cases.PATTERN, "gather", None, backward=True)
    del inputs
    again()
    machine.synchronize()  # fails where an address is no longer memory


def test_an_allocation_for_each_call_is_counted(machine, monkeypatch, capsys):
    def careless(forward, *arguments, **options):
        device.cuda.device_array(8, np.uint8)
        forward(*arguments, **options)

    broken(monkeypatch, "sparse_index_kernel", careless)
    assert failing("allocation", "gather", capsys=capsys) == ["forward: allocations in three calls"]


def test_a_count_of_allocations_that_sees_none_fails(machine, monkeypatch, capsys):
    memory_manager = type(machine.manager)()  # not the one that is asked
    monkeypatch.setattr(Host, "current_context", lambda self: SimpleNamespace(memory_manager=memory_manager))
    assert failing("allocation", "gather", capsys=capsys) == ["allocations are counted"]


@pytest.mark.parametrize("stage", ["auto", "wheels"])
def test_a_measurement_that_breaks_fails(stage, machine, monkeypatch, capsys):
    def fault(*arguments, **options):
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")

    monkeypatch.setattr(launch, "_forward", fault)
    assert failing(stage, capsys=capsys) == ["RuntimeError: CUDA_ERROR_LAUNCH_FAILED"]


def test_a_kernel_that_breaks_fails_the_benchmark(machine, monkeypatch, tmp_path, capsys):
    def fault(*arguments, **options):
        raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")

    monkeypatch.setattr(launch, "_backward", fault)
    monkeypatch.setattr(gpu, "DTYPES", ("float32",))
    (process,) = gpu_plan.processes("benchmark", (), tmp_path)
    assert dry_run(process, machine, tmp_path, capsys)["status"] == 0  # its other rows count
    failed = [f for f in gpu_check.of_benchmark(tmp_path, 0) if f["ok"] is False]
    assert [f["check"] for f in failed] == ["primeattn gather, float32"]
    assert failed[0]["note"] == "RuntimeError: CUDA_ERROR_LAUNCH_FAILED"
