"""Compilation of the CPU kernels, and where their machine code is kept on disk.

Code must not outlive an edit in whatever it was compiled from, helpers in other files included. So the cache
folder is named by a hash of all sources of the kernels and layers. It is in the first of these places that
can be written: ``NUMBA_CACHE_DIR``, ``__pycache__`` beside the kernels, the user's cache folder; those of
earlier versions there are removed. Without any of them the kernels are compiled anew in every process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numba

from primeattn.compiled.disk_cache import DiskCache

__all__ = ["cache_folder", "cached_njit", "part_njit", "plain_njit"]

_SOURCES = ("compiled", "kernels")  # folders of the package that have compiled code
_OURS = re.compile(r".*\.nb[ci](\..*)?|\..*\.nbc\..*\.tmp")  # files in a folder of ours, whole or not


def _cache_folder() -> str | None:
    here = Path(__file__).parent
    package = hashlib.sha256(os.fsencode(here.parent)).hexdigest()[:8]  # two may share a place
    name = f"primeattn-{package}-{_hash_of_sources(here.parent)}"
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if user.startswith("~"):  # nobody's home
        user = ""
    for place in (os.environ.get("NUMBA_CACHE_DIR"), here / "__pycache__", user and Path(user, "primeattn")):
        if not place:
            continue
        folder = Path(place).absolute() / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError:
            continue
        with suppress(OSError):
            _remove_earlier(folder, package)
        return str(folder)
    return None


def _hash_of_sources(package) -> str:
    """Hash what compiled code comes from: sources, and Python's own code where a tree has no sources."""
    digest = hashlib.sha256()
    for suffix in ("py", "pyc"):
        files = [path for folder in _SOURCES for path in (package / folder).rglob(f"*.{suffix}")]
        for path in sorted(path for path in files if path.parent.name != "__pycache__"):
            digest.update(f"{path.relative_to(package)} {path.stat().st_size} ".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _remove_earlier(folder, package):
    """Remove the folders of earlier versions of this package beside ``folder``, if all in them is ours."""
    earlier = re.compile(rf"primeattn-({package}-)?[0-9a-f]{{16}}")
    for other in folder.parent.iterdir():
        if other == folder or not earlier.fullmatch(other.name) or other.is_symlink():
            continue
        names = [name for _, _, files in os.walk(other) for name in files]
        if other.is_dir() and all(map(_OURS.fullmatch, names)):
            shutil.rmtree(other, ignore_errors=True)


_FOLDER = _cache_folder()


def cache_folder() -> str | None:
    """Return the folder of the machine code, None where no place can be written."""
    return _FOLDER


def cached_njit(function):
    """``numba.njit`` without the GIL, dividing as NumPy does, kept on disk where possible.

    With NUMBA_DISABLE_JIT the function says that it cannot run: vectors and atomic counters have no Python.
    """
    if numba.config.DISABLE_JIT:
        return _refusal(function.__name__)
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    if _FOLDER is not None:
        dispatcher._cache = DiskCache(function, _FOLDER)
    return dispatcher


def _refusal(name):
    def refuse(*_):
        raise RuntimeError(f"{name!r} is compiled code: unset NUMBA_DISABLE_JIT, or take kernel='scalar'")

    return refuse


def plain_njit(function):
    """As ``cached_njit``, of loops over arrays that run as Python, too, and do with NUMBA_DISABLE_JIT.

    They are compiled once for all layouts of the arrays, read-only ones included.
    """
    if numba.config.DISABLE_JIT:
        return function
    dispatcher = cached_njit(function)

    @functools.wraps(function)
    def run(*arguments):
        kinds = map(numba.typeof, arguments)
        return dispatcher.compile(tuple(map(_any_layout, kinds)))(*arguments)

    return run


def _any_layout(kind):
    return kind.copy(layout="A", readonly=False) if isinstance(kind, numba.types.Array) else kind


# Of a function that only compiled code calls: entries for Python and C are a fifth of what compiling costs.
part_njit = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
