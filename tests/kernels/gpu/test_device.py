"""What is said of a machine without a GPU, with an old one, or with packages that do not fit."""

import os
import re
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from primeattn.kernels.gpu import device, toolchain

VERSIONS = {"numba-cuda": "0.30.4", "numba": "0.68.1"}
CUDA13 = {"cuda-bindings": "13.5.0", "nvidia-nvvm": "13.0.88", "nvidia-nvjitlink": "13.0.88"}
CUDA12 = {
    "cuda-bindings": "12.9.10",
    "nvidia-cuda-nvcc-cu12": "12.8.93",
    "nvidia-nvjitlink-cu12": "12.8.93",
}
ELSEWHERE = "install primeattn[cuda] on a machine with an NVIDIA GPU and its driver"
OUTDATED = RuntimeError("ERROR_OUTDATED_LIBRARY (14)\nmay need newer version of nvJitLink library\n\0")
REFUSED = "a kernel does not compile, load or run: "


def machine(error=None, available=True, capability=(9, 0), broken=None, crashed=None, driver=None):
    """Numba's cuda as it looks on some machine."""

    def current():
        if isinstance(capability, Exception):
            raise capability
        return SimpleNamespace(compute_capability=capability, name=b"NVIDIA H200")

    class Kernel:
        def __getitem__(self, shape):
            warnings.warn("Grid size 1 will likely result in GPU under-utilization", stacklevel=1)
            return lambda: raised(broken)

    def raised(error):
        if error is not None:
            raise error

    def version():
        if driver is None:
            raise RuntimeError("no driver")
        return driver

    return SimpleNamespace(
        cuda_error=lambda: error, is_available=lambda: available, get_current_device=current,
        jit=lambda signature: lambda function: Kernel(), synchronize=lambda: raised(crashed),
        cudadrv=SimpleNamespace(driver=SimpleNamespace(driver=SimpleNamespace(get_version=version))),
    )  # fmt: skip


@pytest.fixture
def on(monkeypatch):
    def put(cuda, packages=VERSIONS, **attributes):
        monkeypatch.setattr(toolchain, "version", packages.get)
        for name, value in ({"cuda": cuda, "_broken": None} | attributes).items():
            monkeypatch.setattr(device, name, value)
        device.problem.cache_clear()

    yield put
    device.problem.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (machine(error="CUDA driver library cannot be found.\nTry this. Try that."),
         f"CUDA driver library cannot be found; {ELSEWHERE}"),
        (machine(available=False),
         f"numba.cuda finds no GPU, or not the CUDA libraries it compiles with; {ELSEWHERE}"),
        (machine(capability=(7, 5)), "the GPU has compute capability 7.5, below 8.0"),
        (machine(capability=RuntimeError("Call to cuInit results in\nCUDA_ERROR_SYSTEM_DRIVER_MISMATCH")),
         f"Call to cuInit results in CUDA_ERROR_SYSTEM_DRIVER_MISMATCH; {ELSEWHERE}"),
        (machine(broken=RuntimeError("no\nmemory\0")), f"{REFUSED}no memory; {ELSEWHERE}"),
        (machine(crashed=RuntimeError("CUDA_ERROR_ILLEGAL_INSTRUCTION")),
         f"{REFUSED}CUDA_ERROR_ILLEGAL_INSTRUCTION; {ELSEWHERE}"),
    ],
    ids=["no driver", "no GPU", "old GPU", "driver that does not start", "no launch", "crash"],
)  # fmt: skip
def test_the_reason_is_one_clear_sentence(cuda, reason, on):
    on(cuda)
    assert device.problem() == reason and not device.available()
    with pytest.raises(RuntimeError) as caught:
        device.require()
    assert str(caught.value) == f"device: no GPU can be used here: {reason}; device='cpu' needs none"
    assert device.describe()["device"] == f"none: {reason}" and device.describe()["kernels"] == "none"


@pytest.mark.parametrize(
    ("driver", "packages", "reason"),
    [
        ((13, 0), CUDA13 | {"nvidia-nvvm": "13.5.37"},
         "nvvm 13.5.37 is newer than nvjitlink 13.0.88 ({}); install primeattn[cuda]"),
        ((12, 4), CUDA12 | {"nvidia-cuda-nvcc-cu12": "12.10.1"},
         "nvvm 12.10.1 is newer than nvjitlink 12.8.93 ({}); install primeattn[cuda12]"),
        ((13, 0), CUDA12 | {"nvidia-nvjitlink-cu12": "12.6.85", "nvidia-nvjitlink": "13.5.37"},
         "nvvm 12.8.93 is newer than nvjitlink 12.6.85 ({}); install primeattn[cuda12]"),
        ((12, 4), CUDA13,
         "the driver supports CUDA 12.4, and the compilers are those of CUDA 13 ({}); "
         "install primeattn[cuda12]"),
        ((11, 4), CUDA12,
         "the driver supports CUDA 11.4, and the compilers are those of CUDA 12 ({}); "
         "install a driver for CUDA 12 or later"),
        ((14, 0), CUDA13 | {"nvidia-nvjitlink": "13.5.37"}, f"{{}}; {ELSEWHERE}"),
        ((14, 0), {}, f"{{}}; {ELSEWHERE}"),
        ((12, 0), CUDA12, f"{{}}; {ELSEWHERE.replace('cuda', 'cuda12')}"),
    ],
    ids=["nvvm newer", "nvvm of CUDA 12 newer", "beside another CUDA", "old driver", "older driver",
         "nvjitlink newer", "compilers of the system", "all fit"],
)  # fmt: skip
def test_compilers_and_driver_that_do_not_fit(driver, packages, reason, on):
    text = REFUSED + "ERROR_OUTDATED_LIBRARY (14) may need newer version of nvJitLink library"
    on(machine(driver=driver, broken=OUTDATED), VERSIONS | packages)
    assert device.problem() == reason.format(text)


@pytest.mark.parametrize("packages", [CUDA13 | {"nvidia-nvvm": "13.5.37"}, CUDA13], ids=["nvvm", "driver"])
def test_what_runs_is_not_refused_for_its_version(packages, on):
    on(machine(driver=(12, 4)), VERSIONS | packages)
    assert device.available()


def test_an_old_driver_may_fail_before_any_kernel(on):
    on(machine(driver=(12, 4), capability=RuntimeError("cuCtxGetDevice_v2 is not found")), VERSIONS | CUDA13)
    assert device.problem() == (
        "the driver supports CUDA 12.4, and the compilers are those of CUDA 13 "
        "(cuCtxGetDevice_v2 is not found); install primeattn[cuda12]"
    )


def test_numba_and_numba_cuda_that_do_not_fit(on):
    broken = "AttributeError: module 'numba.cuda.types' has no attribute 'NPDatetime'"
    on(None, _broken=broken)
    assert device.problem() == f"numba.cuda does not import ({broken}); install primeattn[cuda]"
    on(None, VERSIONS | CUDA12, _broken=broken)
    assert device.problem() == f"numba.cuda does not import ({broken}); install primeattn[cuda12]"


@pytest.mark.parametrize(
    ("at_import", "printed"),
    [
        ("warnings.warn('old', DeprecationWarning)", "None"),
        ("raise AttributeError('no NPDatetime')", "numba.cuda does not import (AttributeError: no NP"),
    ],
    ids=["a warning", "an error"],
)
def test_numba_cuda_that_does_not_import_in_silence(at_import, printed):
    """As numba-cuda 0.30.4 beside NumPy 2.5, and an older one beside Numba 0.66, do under ``-W error``."""
    script = f"""
import sys, warnings
import numba, numpy as np, primeattn as pa

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "numba.cuda":
            {at_import}

class Array:
    __module__ = "library"
    shape, dtype = (1, 1, 4, 8), np.dtype(np.float32)
    __cuda_array_interface__ = {{
        "shape": shape, "typestr": "<f4", "data": (1 << 20, False), "strides": None, "version": 3,
    }}

sys.meta_path.insert(0, Finder())
try:
    pa.attention(Array(), Array(), Array(), pa.Pattern("primes"))
except RuntimeError as error:
    assert str(error).startswith("device: no GPU can be used here: ")
from primeattn.kernels.gpu import device
print(device._broken and device.problem())
"""
    command, environment = [sys.executable, "-W", "error", "-c", script], {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.stdout.startswith(printed), done.stderr


@pytest.mark.parametrize("version", [None, "0.24.0", "0.30.3", "0.31.0", "1.0"])
@pytest.mark.parametrize(("driver", "extra"), [((13, 0), "cuda"), ((12, 8), "cuda12"), (None, "cuda")])
def test_numba_cuda_of_another_version_is_refused(version, driver, extra, on):
    on(machine(driver=driver), {"numba-cuda": version})
    assert device.problem() == (
        f"numba-cuda from 0.30.4 to below 0.31 is needed, found {version or 'none'}; "
        f"install primeattn[{extra}]"
    )


@pytest.mark.parametrize("version", ["0.30.4", "0.30.10", "0.30.4.post1"])
def test_numba_cuda_of_the_range_is_taken(version, on):
    on(machine(), {"numba-cuda": version})
    assert device.available()


def test_the_extras_ask_for_the_same_numba_cuda():
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    wanted = ">={},<{}".format(*device.NUMBA_CUDA)
    found = re.findall(r'"numba-cuda\[(\w+)\](.+?)"', project)
    assert found == [("cu13", wanted), ("cu12", wanted)]


@pytest.mark.filterwarnings("error")
def test_a_gpu_is_described(on):
    on(machine(driver=(13, 0)), VERSIONS | CUDA13)
    assert device.available() and device.require() is None
    assert device.describe() == {
        "target": "numba-cuda 0.30.4",
        "compilers": "nvvm 13.0.88, nvjitlink 13.0.88",
        "driver": "CUDA 13.0",
        "device": "NVIDIA H200, compute capability 9.0",
        "kernels": "gather, wheel",
    }


def test_what_is_not_there_is_described_too(on):
    on(machine(error="no driver"), {"numba": "0.68.1"})
    found = device.describe()
    assert found["target"] == "built into numba 0.68.1"
    assert found["compilers"] is None and found["driver"] is None


def test_threads_leave_the_filters_of_warnings_as_they_were():
    started = threading.Barrier(2)

    class Kernel:
        def __getitem__(self, shape):
            time.sleep(0.05)

    def configure(turn):
        started.wait()
        time.sleep(turn * 0.02)  # enters and leaves after the other
        device.configured(Kernel(), 1, 1, 0)

    before = list(warnings.filters)
    threads = [threading.Thread(target=configure, args=(turn,)) for turn in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


def test_a_launch_warns_of_nothing(monkeypatch):
    """From configuration to machine code by numba-cuda itself; only the driver is not there."""
    pytest.importorskip("numba_cuda")
    from numba.cuda import codegen, dispatcher

    gpu, launched = SimpleNamespace(compute_capability=(9, 0)), []
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: gpu)
    monkeypatch.setattr(codegen.devices, "get_context", lambda: SimpleNamespace(device=gpu))
    monkeypatch.setattr(dispatcher._Kernel, "bind", lambda kernel: kernel._codelibrary.get_cubin())
    monkeypatch.setattr(dispatcher._Kernel, "launch", lambda kernel, *arguments: launched.append(kernel))
    monkeypatch.setattr(device.cuda, "synchronize", lambda: None)

    @device.compiled(512, 1)
    def kernel(address, numbers, scale):
        numbers[0] = address + int(scale)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for grid in (3, 1), (1, 1), (3, 1):
            device.configured(kernel, grid, 512, 0)(1 << 40, np.zeros(9, np.int64), np.float32(1))
        assert device._trial() is None
    assert len(launched) == 4


def test_the_simulator_is_no_gpu():
    script = "from primeattn.kernels.gpu import device; print(device.problem())"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"NUMBA_ENABLE_CUDASIM": "1"}, capture_output=True, text=True
    )
    assert done.stdout == "NUMBA_ENABLE_CUDASIM is set, and the simulator knows no warps\n"


def test_importing_the_package_leaves_cuda_alone():
    script = "import sys, primeattn as pa; pa.attention; print('numba.cuda.cudadrv.driver' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n"
