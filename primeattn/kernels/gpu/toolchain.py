"""Whether the compilers that numba-cuda uses fit each other and the driver, and what to install if not.

Of a kernel nvvm makes intermediate code, of which nvjitlink makes machine code, which the driver loads. Each
takes what an older one made. nvjitlink refuses the code of a later nvvm, and a driver that of compilers of a
later major version of CUDA. pip brings them together from several sides: numba-cuda asks for both compilers,
torch for its own nvjitlink.
"""

from __future__ import annotations

from importlib import metadata

__all__ = ["compilers", "misfit", "numbers", "remedy", "version"]

COMPILERS = {  # by the major version of CUDA: names, and the packages that hold them
    12: {"nvvm": "nvidia-cuda-nvcc-cu12", "nvjitlink": "nvidia-nvjitlink-cu12"},
    13: {"nvvm": "nvidia-nvvm", "nvjitlink": "nvidia-nvjitlink"},
}


def version(package) -> str | None:
    """Return the version of an installed package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def numbers(number) -> tuple[int, ...]:
    """Return (13, 0, 88) for "13.0.88"."""
    return tuple(int(part) for part in number.split(".") if part.isdigit())


def compilers() -> dict[str, str]:
    """Return the versions of the compilers by name, as far as they came as packages."""
    found = {name: version(package) for name, package in COMPILERS.get(_major(), {}).items()}
    return {name: number for name, number in found.items() if number is not None}


def misfit(driver) -> str | None:
    """Return what is known not to fit, in words; ``driver`` is the version of CUDA it supports, or None."""
    if driver is not None and driver[0] < _major():
        supported = ".".join(map(str, driver))
        return f"the driver supports CUDA {supported}, and the compilers are those of CUDA {_major()}"
    found = compilers()
    if len(found) == 2 and numbers(found["nvvm"]) > numbers(found["nvjitlink"]):
        return f"nvvm {found['nvvm']} is newer than nvjitlink {found['nvjitlink']}"
    return None


def remedy(driver) -> str:
    """Return what to install: compilers of the CUDA that is installed, unless the driver is older."""
    major = min(filter(None, (driver and driver[0], _major())), default=13)
    if major < 12:
        return "install a driver for CUDA 12 or later"
    return f"install primeattn[{'cuda12' if major == 12 else 'cuda'}]"


def _major() -> int:
    """Major version of CUDA that is loaded, which cuda-bindings decides; 0 without it."""
    return numbers(version("cuda-bindings") or "0")[0]
