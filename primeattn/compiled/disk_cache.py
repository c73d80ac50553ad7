"""Machine code on disk: one file per compiled signature; damaged files and disk errors do no harm.

Numba's own cache keeps an index beside the code, trusts both, and lets a disk error stop a call that is
already compiled. Here each file holds its own key and checksum. A file that is damaged, or made for another
processor or version, is ignored; so is a failure to write.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from contextlib import suppress
from pathlib import Path

import llvmlite
import numba
from numba.core.caching import Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from primeattn.files import written_whole

__all__ = ["DiskCache"]

_CHECKSUM = 32  # bytes


class DiskCache(Cache):
    """The cache in ``folder`` that Numba uses for the machine code of ``function``."""

    def __init__(self, function, folder):
        self._py_func, self._cache_path = function, folder
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self.enable()

    def flush(self):
        """Remove all code of the function."""
        for path in Path(self._cache_path).glob(f"{self._name}-*.nbc"):
            path.unlink(missing_ok=True)

    def load_overload(self, sig, target_context):
        target_context.refresh()
        if not self._enabled:
            return None
        try:
            key = self._key(sig, target_context.codegen())
            content = self._path(key).read_bytes()
            if hashlib.sha256(content[_CHECKSUM:]).digest() != content[:_CHECKSUM]:
                return None
            stored, code = pickle.loads(content[_CHECKSUM:])
            return CompileResult._rebuild(target_context, *code) if stored == key else None
        except Exception:
            return None

    def save_overload(self, sig, data):
        if not self._enabled or data.lifted or data.library.has_dynamic_globals:
            return
        key = self._key(sig, data.codegen)
        content = dumps((key, data._reduce()))
        with suppress(OSError, ValueError), written_whole(self._path(key)) as file:  # or a folder is there
            file.write(hashlib.sha256(content).digest() + content)

    def _key(self, sig, codegen):
        versions = sys.version, numba.__version__, llvmlite.__version__
        return (*self._index_key(sig, codegen), versions)

    def _path(self, key):
        return Path(
            self._cache_path, f"{self._name}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        )
