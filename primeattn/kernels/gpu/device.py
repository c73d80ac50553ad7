"""Which CUDA this machine offers, and everything that depends on the version of numba-cuda.

The package numba-cuda replaces Numba's own CUDA target. Other modules import ``cuda`` from Numba and ask here
for the rest.
"""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from primeattn.kernels.call import GPU_KERNELS

__all__ = [
    "available", "compiled", "configured", "current_device", "describe", "device_function", "problem",
    "require",
]  # fmt: skip

INSTALL = "install primeattn[cuda] on a machine with an NVIDIA GPU and its driver, or use device='cpu'"
MIN_CAPABILITY = (8, 0)  # the first with bfloat16 conversions
NUMBA_CUDA = (0, 24), (0, 31)  # older ones have no launch bounds, later ones are untested


def _version(package) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# numba-cuda up to 0.30.4 looks this name up at the first compilation, and NumPy 2.5 dropped it.
if _version("numba-cuda") and not hasattr(np, "row_stack"):
    setattr(np, "row_stack", np.vstack)  # noqa: B010

try:
    from numba import config, cuda

    _broken = None
except Exception as error:  # versions that do not fit each other can raise anything
    cuda, _broken = None, f"{type(error).__name__}: {error}".splitlines()[0]


def _sentence(error) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")


@cache
def problem() -> str | None:
    """Return why no kernel can run on a GPU here, in one line, or None when one can."""
    if _broken is not None:
        return f"numba.cuda does not import ({_broken})"
    if config.ENABLE_CUDASIM:
        return "NUMBA_ENABLE_CUDASIM is set, and the simulator knows no warps"
    error = cuda.cuda_error()
    if error is not None:
        return _sentence(error)
    try:
        if not cuda.is_available():
            return "numba.cuda finds no GPU, or not the CUDA libraries it compiles with"
        capability = tuple(cuda.get_current_device().compute_capability)
    except Exception as error:  # a driver too old for the runtime raises at the first call
        return _sentence(error)
    if capability < MIN_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, below 8.0"
    package = _version("numba-cuda")
    if package is None or not NUMBA_CUDA[0] <= _numbers(package) < NUMBA_CUDA[1]:
        low, high = (".".join(map(str, part)) for part in NUMBA_CUDA)
        return f"numba-cuda from {low} to below {high} is needed, found {package or 'none'}"
    try:  # a compiler and a driver that do not fit fail here, not in the caller's first kernel
        configured(cuda.jit("void()")(_nothing), 1, 1, 0)()
    except Exception as error:
        return f"a kernel does not compile and load ({_sentence(error)})"
    return None


def _nothing():
    pass


def _numbers(package) -> tuple[int, ...]:
    return tuple(int(part) for part in package.split(".")[:2] if part.isdigit())


def available() -> bool:
    """Return whether a GPU can run the kernels."""
    return problem() is None


def require():
    """Raise RuntimeError unless a GPU can run the kernels."""
    reason = problem()
    if reason is not None:
        raise RuntimeError(f"device: no GPU can be used here: {reason}; {INSTALL}")


def current_device() -> int:
    """Return the number of the GPU that this thread launches on; 0 where there is none."""
    return cuda.current_context().device.id if available() else 0


def describe() -> dict[str, str]:
    """Return what there is, in words: the CUDA target of Numba, the device, and which kernels can run."""
    package = _version("numba-cuda")
    target = f"numba-cuda {package}" if package else f"built into numba {_version('numba')}"
    reason = problem()
    if reason is not None:
        return {"target": target, "device": f"none: {reason}", "kernels": "none"}
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else device.name
    major, minor = device.compute_capability
    return {
        "target": target,
        "device": f"{name}, compute capability {major}.{minor}",
        "kernels": ", ".join(GPU_KERNELS),
    }


def configured(kernel, grid, threads, stream):
    """Return the kernel for launches of one shape."""
    with warnings.catch_warnings():
        # numba-cuda warns that a small grid leaves the GPU idle; Numba has no such class of warnings.
        warnings.simplefilter("ignore")
        return kernel[grid, threads, stream]


def compiled(threads, blocks):
    """Decorator: a kernel limited to so few registers that ``blocks`` of ``threads`` fit a multiprocessor."""
    return cuda.jit(launch_bounds=(threads, blocks))


def device_function(function):
    """Decorator: a function called by kernels."""
    return cuda.jit(device=True)(function)
