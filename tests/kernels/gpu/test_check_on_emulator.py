"""The stages of ``primeattn.bench gpu-check``, on the emulator: they pass, and fail where they should."""

import numpy as np
import pytest
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.bench import gpu_cases, gpu_costs, gpu_stages
from primeattn.bench.gpu_cases import Case
from primeattn.kernels import dispatch
from primeattn.kernels.call import BFLOAT16
from primeattn.wheel import tables

TILING = tables.tiling  # the emulator has another
CASES = {
    "plain": Case(2, 1, 17, 17, 4),
    "gradient of lse": Case(1, 1, 21, 21, 2, dlse=True),
    "rows without keys": Case(1, 1, 9, 9, 4, q_start=3, k_start=9),
    "no keys": Case(1, 1, 5, 0, 4),
    "packed": Case(1, 1, 20, 20, 2, cu_seqlens=[0, 1, 9, 20]),
    "decoding": Case(2, 1, 2, 30, 2, 2, q_start=np.array([28, 9]), k_start=np.array([0, 1])),
}


@pytest.fixture
def machine(monkeypatch):
    with emulated(monkeypatch) as machine:

        class Array(DeviceArray):
            def __init__(self, array, dtype):
                super().__init__(machine, array)
                self.memory, self.dtype = array, dtype

            @classmethod
            def of(cls, host):
                if host.dtype == BFLOAT16:
                    return cls(host.view(np.int16).copy(), "bfloat16")
                return cls(host.copy(), host.dtype)

            def empty_like(self):
                return Array(np.empty_like(self.memory), self.dtype)

            def seen(self, view):
                return Array(view(self.memory), self.dtype)

            def download(self):
                return self.memory.view(BFLOAT16) if self.dtype == "bfloat16" else self.memory

        monkeypatch.setattr(gpu_stages, "Array", Array)
        monkeypatch.setattr(gpu_stages, "CASES", CASES)
        monkeypatch.setattr(gpu_stages, "STRIDED", Case(2, 2, 11, 11, 5, 2))
        monkeypatch.setattr(gpu_stages, "_torch_on_gpu", lambda: None)
        yield machine


@pytest.mark.parametrize(
    "storage",
    [pytest.param(name, marks=[] if name == "float32" else pytest.mark.slow) for name in gpu_cases.DTYPES],
)
def test_accuracy(storage, machine):
    found = list(gpu_stages.accuracy("gather", storage))
    assert len(found) == 5 * (len(CASES) + 1) + 2
    assert [f["check"] for f in found if not f["ok"]] == []


def test_accuracy_of_16_bits_is_held_to_that_of_torch(machine, monkeypatch):
    of_torch = {"out": 1e-3, "dq": 0.0, "dk": 1e-9, "dv": 1.0}
    monkeypatch.setattr(gpu_stages, "_torch_on_gpu", lambda: "torch")
    monkeypatch.setattr(gpu_stages, "_errors_of_torch", lambda *arguments: of_torch)
    found = {f["check"]: f for f in gpu_stages._accuracy("gather", "float16", "plain", CASES["plain"])}
    least = gpu_cases.LIMITS["float16"] / 16
    limits = {"out": 2e-3, "lse": 1e-5, "dq": least, "dk": least, "dv": 2.0}
    assert {name: found[f"plain: {name}"]["limit"] for name in limits} == limits
    assert found["plain: dv"]["ok"] and not found["plain: dq"]["ok"]
    (bound, *_) = gpu_stages._accuracy("gather", "float16", "x", CASES["gradient of lse"])
    assert bound["limit"] == gpu_cases.LIMITS["float16"]  # torch knows no gradient of lse


def test_accuracy_fails_where_results_are_wrong(machine, monkeypatch):
    backward = gpu_stages.sparse_index_kernel_backward

    def wrong(dq, dk, dv, *rest, **options):
        backward(dq, dk, dv, *rest, **options)
        if isinstance(dk, np.ndarray):
            dk *= 1 + 1e-4
        else:
            dk.memory *= 1 + 1e-4

    monkeypatch.setattr(gpu_stages, "sparse_index_kernel_backward", wrong)
    found = {f["check"]: f["ok"] for f in gpu_stages.accuracy("gather", "float32")}
    assert not found["plain: dk"] and not found["packed: dk"] and not found["strided: dk"]
    assert all(ok for check, ok in found.items() if not check.endswith("dk"))


def test_a_write_beside_the_arrays_is_seen(machine, monkeypatch):
    forward = gpu_stages.sparse_index_kernel

    def careless(out, lse, q, *rest, **options):
        forward(out, lse, q, *rest, **options)
        q.memory[0, 0, 0, 0] = 9

    monkeypatch.setattr(gpu_stages, "sparse_index_kernel", careless)
    found = {f["check"]: f["ok"] for f in gpu_stages._strided("gather", "float32")}
    assert not found["strided: nothing else is written"]


def test_small_and_repeats(machine, monkeypatch):
    assert [f["ok"] for f in gpu_stages.small("gather", "float32", "packed", "decoding")] == [True] * 2
    monkeypatch.setattr(gpu_stages, "Case", lambda *sizes: Case(2, 1, 20, 20, 4))
    monkeypatch.setattr(gpu_stages, "BACKWARDS", 2)
    assert [f["ok"] for f in gpu_stages.repeats("gather", "float32")] == [True] * 2


def test_long(machine, monkeypatch):
    monkeypatch.setattr(gpu_stages, "LONG", 40)
    found = list(gpu_stages.long("gather", "float32"))
    assert len(found) == 10 and all(f["ok"] for f in found)


def test_only_other_kernels_may_refuse(machine, monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("kernel: expected float16, got float32")

    monkeypatch.setattr(gpu_stages, "attention", refuse)
    monkeypatch.setattr(gpu_stages, "sparse_index_kernel", refuse)
    found = list(gpu_stages.accuracy("wheel", "float32"))
    assert {f["ok"] for f in found} == {None} and len(found) == len(CASES) + 2
    assert all(f["note"] == "refused: kernel: expected float16, got float32" for f in found)
    with pytest.raises(ValueError, match="kernel"):
        list(gpu_stages.accuracy("gather", "float32"))


def test_launches(machine, monkeypatch):
    monkeypatch.setattr(gpu_stages, "Case", lambda *sizes: Case(2, 2, 12, 12, 4))
    arrays, _, backward = gpu_stages._calls("gather", "float32", lambda array: array)
    backward()
    launches = len(machine.launches)
    bare = gpu_stages._bare(arrays, "gather")
    made = len(machine.launches)
    monkeypatch.setattr(dispatch, "locate", lambda *arguments: pytest.fail("more than the launch"))
    bare()
    assert made == launches + 1 and len(machine.launches) == made + 1
    q, k, v = (a.memory.astype(float) for a in arrays[2:])
    wanted = pa.kernels.reference.forward(q, k, v, gpu_cases.PATTERN)[0]
    np.testing.assert_allclose(arrays[0].memory, wanted, atol=1e-5)


@pytest.mark.slow
def test_every_tiling_is_compared(machine):
    threads = []

    def turn(call):
        before = len(machine.launches)
        call()
        threads.append({name: threads for name, _, _, threads, _ in machine.launches[before:]})
        return [1.0]

    arrays = [gpu_stages.Array.of(np.zeros((1, 1, 40, 64), np.float16)) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:  # undone before the emulator's own
        for module, name, value in (
            (gpu_costs.tables, "tiling", TILING), (gpu_costs, "Device", lambda: None),
            (gpu_costs, "EventTurn", lambda device: turn), (gpu_costs, "Array", gpu_stages.Array),
            (gpu_costs.GpuInputs, "draw", lambda *shape: gpu_costs.GpuInputs(*arrays)),
            (gpu_costs.cost, "HEAD_DIMS", (64,)),
        ):  # fmt: skip
            patch.setattr(module, name, value)
        found = list(gpu_stages.STAGES["tilings"]())
    assert [f["check"].split(": ")[1] for f in found[:2]] == ["128 rows by 64", "64 rows by 64"]
    assert [each["wheel_forward"] for each in threads] == 2 * [256, 128, 256, 256, 256]
    assert [each["wheel_keys"] for each in threads if "wheel_keys" in each] == 2 * [192, 256, 128]
