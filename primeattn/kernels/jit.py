"""Compilation of the CPU kernels, and where their machine code is kept on disk.

Numba's disk cache looks only at the file of the function it compiles: after an edit in a helper it would go
on using the old code. So the cache folder is named by a hash of all kernel sources, the loops of the layers
among them. It is the first of these that can be written: ``NUMBA_CACHE_DIR``, ``__pycache__`` beside the
kernels, the user's cache folder. Without any of them the kernels are compiled anew in every process.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

import numba

__all__ = ["cache_folder", "cached_njit", "part_njit"]


def _cache_folder() -> str | None:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted([*here.glob("*.py"), *here.parent.glob("nn/_loops.py")]):
        digest.update(source.read_bytes())
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    places = [os.environ.get("NUMBA_CACHE_DIR"), here / "__pycache__", user / "primeattn"]
    for place in places:
        if not place:
            continue
        folder = Path(place) / f"primeattn-{digest.hexdigest()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return str(folder)
        except OSError:
            continue
    return None


_FOLDER = _cache_folder()


def cache_folder() -> str | None:
    """Return the folder of the machine code, None where no place can be written."""
    return _FOLDER


def cached_njit(function):
    """``numba.njit`` without the GIL, dividing as NumPy does, kept on disk where possible."""
    before = numba.config.CACHE_DIR
    try:
        if _FOLDER is not None:
            numba.config.CACHE_DIR = _FOLDER  # read once, when the function is decorated
        return numba.njit(nogil=True, error_model="numpy", cache=_FOLDER is not None)(function)
    finally:
        numba.config.CACHE_DIR = before


# Of a function that only compiled code calls: entries for Python and C are a fifth of what compiling costs.
part_njit = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
