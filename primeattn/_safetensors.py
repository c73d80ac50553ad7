"""Arrays by name and a text in a ``.safetensors`` file, with a hash of both: the format has no checksums."""

from __future__ import annotations

import hashlib
from importlib import import_module

import numpy as np

__all__ = ["read", "require", "write"]

TEXT, HASH = "primeattn", "sha256"  # entries of the metadata
RESERVED = "__metadata__"  # of the format
# The types of a whole number of bytes that all versions of the package know and NumPy has; lowest byte first.
DTYPES = tuple(
    map(np.dtype, ("?", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8"))
)


def require():
    """Return the package safetensors; RuntimeError, which says what to install, where it is missing."""
    try:
        return import_module("safetensors")
    except ImportError:
        raise RuntimeError(
            "path: a '.safetensors' file needs the package safetensors, which is not installed "
            "(pip install 'primeattn[safetensors]'); '.npz' needs none"
        ) from None


def write(file, text, arrays):
    """Write ``text`` and a dict of arrays to a file that is open.

    Raises
    ------
    TypeError, ValueError
        For a dtype, or a name, that the format does not know.
    """
    require()
    for name, array in arrays.items():
        if name == RESERVED:
            raise ValueError(f"tree: expected another name than {name!r}, which '.safetensors' files reserve")
        if array.dtype not in DTYPES:
            raise TypeError(
                f"tree: expected a dtype that '.safetensors' files know at {name!r}, got {array.dtype}; "
                "'.npz' files know it"
            )
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {TEXT: text, HASH: _hash(text, arrays)}
    file.write(import_module("safetensors.numpy").save(arrays, metadata))


def read(path):
    """Return the text and the arrays of a file; an exception of some kind where it was not written so."""
    with require().safe_open(path, framework="np") as file:
        metadata = file.metadata()
        arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    text = metadata[TEXT]
    if metadata[HASH] != _hash(text, arrays):
        raise ValueError("the hash is another")
    return text, arrays


def _hash(text, arrays) -> str:
    result = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        result.update(repr((name, array.dtype.str, array.shape)).encode())
        result.update(array.reshape(-1).view(np.uint8))
    return result.hexdigest()
