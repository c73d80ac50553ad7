"""What is said of a machine without a GPU, with an old one, or with packages that do not fit."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from primeattn.kernels.gpu import device


def machine(error=None, available=True, capability=(9, 0), broken=None):
    """Numba's cuda as it looks on some machine."""

    def current():
        if isinstance(capability, Exception):
            raise capability
        return SimpleNamespace(compute_capability=capability, name=b"NVIDIA H200")

    class Kernel:
        def __getitem__(self, shape):
            warnings.warn("Grid size 1 will likely result in GPU under-utilization", stacklevel=1)
            return launch

    def launch():
        if broken is not None:
            raise broken

    return SimpleNamespace(
        cuda_error=lambda: error, is_available=lambda: available, get_current_device=current,
        jit=lambda signature: lambda function: Kernel(),
    )  # fmt: skip


@pytest.fixture
def on(monkeypatch):
    def put(cuda, **attributes):
        versions = {"numba-cuda": "0.30.4", "numba": "0.68.1"}
        for name, value in ({"cuda": cuda, "_version": versions.get} | attributes).items():
            monkeypatch.setattr(device, name, value)
        device.problem.cache_clear()

    yield put
    device.problem.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (machine(error="CUDA driver library cannot be found.\nTry this. Try that."),
         "CUDA driver library cannot be found"),
        (machine(available=False), "numba.cuda finds no GPU, or not the CUDA libraries it compiles with"),
        (machine(capability=(7, 5)), "the GPU has compute capability 7.5, below 8.0"),
        (machine(capability=RuntimeError("Call to cuInit results in\nCUDA_ERROR_SYSTEM_DRIVER_MISMATCH")),
         "Call to cuInit results in CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"),
        (machine(broken=RuntimeError("nvJitLink: ERROR_OUTDATED_LIBRARY")),
         "a kernel does not compile and load (nvJitLink: ERROR_OUTDATED_LIBRARY)"),
    ],
    ids=["no driver", "no GPU", "old GPU", "old driver", "compilers that do not fit"],
)  # fmt: skip
def test_the_reason_is_one_clear_sentence(cuda, reason, on):
    on(cuda)
    assert device.problem() == reason and not device.available()
    with pytest.raises(RuntimeError) as caught:
        device.require()
    assert str(caught.value) == f"device: no GPU can be used here: {reason}; {device.INSTALL}"
    assert device.describe()["device"] == f"none: {reason}" and device.describe()["kernels"] == "none"


def test_numba_and_numba_cuda_that_do_not_fit(on):
    on(None, _broken="AttributeError: module 'numba.cuda.types' has no attribute 'NPDatetime'")
    assert device.problem().startswith("numba.cuda does not import (AttributeError: module")


@pytest.mark.parametrize("version", [None, "0.23.1", "0.31.0", "1.0"])
def test_numba_cuda_of_another_version_is_refused(version, on):
    on(machine(), _version={"numba-cuda": version}.get)
    assert device.problem() == f"numba-cuda from 0.24 to below 0.31 is needed, found {version or 'none'}"


@pytest.mark.filterwarnings("error")
def test_a_gpu_is_described(on):
    on(machine())
    assert device.available() and device.require() is None
    assert device.describe()["device"] == "NVIDIA H200, compute capability 9.0"
    assert device.describe()["kernels"] == "gather, wheel"


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
