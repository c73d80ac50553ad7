"""Which CUDA this machine offers, and everything that depends on the version of numba-cuda.

The package numba-cuda replaces Numba's own CUDA target. Other modules import ``cuda`` from Numba and ask here
for the rest.
"""

from __future__ import annotations

import threading
import warnings
from functools import cache

import numpy as np

from primeattn.forks import PerProcess
from primeattn.kernels.call import GPU_KERNELS
from primeattn.kernels.gpu import toolchain

__all__ = [
    "available", "compiled", "configured", "current_device", "describe", "device_function", "problem",
    "require",
]  # fmt: skip

MIN_CAPABILITY = (8, 0)  # the first with bfloat16 conversions
NUMBA_CUDA = "0.30.4", "0.31"  # older ones do not import beside Numba 0.66 or later, later ones are untested
_configuring = PerProcess(threading.RLock)

# numba-cuda up to 0.30.4 looks this name up at the first compilation, and NumPy 2.5 dropped it.
if toolchain.version("numba-cuda") and not hasattr(np, "row_stack"):
    setattr(np, "row_stack", np.vstack)  # noqa: B010

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba-cuda 0.30.4 does what NumPy 2.5 deprecates
        from numba import config, cuda

    _broken = None
except Exception as error:  # versions that do not fit each other can raise anything
    cuda, _broken = None, f"{type(error).__name__}: {error}".splitlines()[0]


def _sentence(error) -> str:
    return " ".join(str(error).replace("\0", "").split()).split(". ")[0].rstrip(".")


@cache
def problem() -> str | None:
    """Return why no kernel can run on a GPU here and what to install, in one line, or None when one can."""
    driver, package = _driver(), toolchain.version("numba-cuda")
    remedy = toolchain.remedy(driver)
    on_a_gpu = f"{remedy} on a machine with an NVIDIA GPU and its driver"
    if _broken is not None:
        return f"numba.cuda does not import ({_broken}); {remedy}"
    if config.ENABLE_CUDASIM:
        return "NUMBA_ENABLE_CUDASIM is set, and the simulator knows no warps"
    error = cuda.cuda_error()
    if error is not None:
        return f"{_sentence(error)}; {on_a_gpu}"
    low, high = map(toolchain.numbers, NUMBA_CUDA)
    if package is None or not low <= toolchain.numbers(package) < high:
        wanted = f"numba-cuda from {NUMBA_CUDA[0]} to below {NUMBA_CUDA[1]} is needed"
        return f"{wanted}, found {package or 'none'}; {remedy}"
    try:
        if not cuda.is_available():
            reason = "numba.cuda finds no GPU, or not the CUDA libraries it compiles with"
        else:
            capability = tuple(cuda.get_current_device().compute_capability)
            if capability < MIN_CAPABILITY:
                return f"the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0"
            reason = _trial()
    except Exception as error:  # a driver too old for the runtime raises at the first call
        reason = _sentence(error)
    if reason is None:
        return None
    misfit = toolchain.misfit(driver)  # asked only now: what runs is not refused for the version it has
    return f"{reason}; {on_a_gpu}" if misfit is None else f"{misfit} ({reason}); {remedy}"


def _trial() -> str | None:
    """Why a kernel that does nothing does not run: what does not fit fails here, not in a caller's kernel."""
    try:
        configured(cuda.jit("void()")(_nothing), 1, 1, 0)()
        cuda.synchronize()
    except Exception as error:
        return f"a kernel does not compile, load or run: {_sentence(error)}"
    return None


def _nothing():
    pass


def _driver() -> tuple[int, int] | None:
    """Version of CUDA that the driver supports; None without a driver."""
    try:
        return tuple(cuda.cudadrv.driver.driver.get_version())
    except Exception:  # whatever is wrong is told by what is tried next
        return None


def available() -> bool:
    """Return whether a GPU can run the kernels."""
    return problem() is None


def require():
    """Raise RuntimeError unless a GPU can run the kernels."""
    reason = problem()
    if reason is not None:
        raise RuntimeError(f"device: no GPU can be used here: {reason}; device='cpu' needs none")


def current_device() -> int:
    """Return the number of the GPU that this thread launches on; 0 where there is none."""
    return cuda.current_context().device.id if available() else 0


def describe() -> dict[str, str | None]:
    """Return in words what there is: target of Numba, compilers, driver, device, kernels that can run."""
    package, driver, reason = toolchain.version("numba-cuda"), _driver(), problem()
    found = {
        "target": f"numba-cuda {package}" if package else f"built into numba {toolchain.version('numba')}",
        "compilers": ", ".join(f"{name} {number}" for name, number in toolchain.compilers().items()) or None,
        "driver": f"CUDA {driver[0]}.{driver[1]}" if driver else None,
    }
    if reason is not None:
        return {**found, "device": f"none: {reason}", "kernels": "none"}
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return {
        **found,
        "device": f"{name}, compute capability {major}.{minor}",
        "kernels": ", ".join(GPU_KERNELS),
    }


def configured(kernel, grid, threads, stream):
    """Return the kernel for launches of one shape."""
    # numba-cuda warns that a small grid leaves the GPU idle; Numba has no such class of warnings. Filters are
    # the process's: of two threads here at once, the one that leaves last would restore those of the other.
    with _configuring(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return kernel[grid, threads, stream]


def compiled(threads, blocks):
    """Decorator: a kernel limited to so few registers that ``blocks`` of ``threads`` fit a multiprocessor."""
    return cuda.jit(launch_bounds=(threads, blocks))


def device_function(function):
    """Decorator: a function called by kernels."""
    return cuda.jit(device=True)(function)
