"""Checkpoints: nested dicts in one ``.npz`` without pickle, written whole or not at all, and checked."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ["load", "save", "written_whole"]

_HEADER = "checkpoint.json"
_FORMAT = "primeattn checkpoint 1"
_ARRAY, _EMPTY, _GENERATOR = (
    ["array"],
    ["dict"],
    "generator",
)  # lists mark, in JSON, what JSON has no type for
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    OSError,
)


def save(path, tree, model=None):
    """Write a nested dict to ``path``: the whole file, or nothing.

    Arrays become entries of the ``.npz``, named by their place in the dict joined with ``/``, so
    ``np.load(path)["parameters/layer_1/weight"]`` works without this library. Everything else (step, options,
    random generators) is stored as JSON text beside them. Nothing is pickled. The file appears under its name
    only when it is complete; on any error the previous file stays as it was.

    Parameters
    ----------
    path : str or path-like
        Written as given; no suffix is added.
    tree : dict
        Nested dicts with string keys without ``/``. Leaves are arrays of numbers or booleans,
        ``np.random.Generator``, int, float, bool, str or None.
    model : object, optional
        The model that the parameters belong to. Its ``repr`` is stored, and compared by :func:`load`.

    Raises
    ------
    TypeError, ValueError
        A leaf or key that cannot be stored; nothing is written.

    Examples
    --------
    >>> import numpy as np, os, tempfile, primeattn as pa
    >>> model = pa.Dense(3, 2)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> tree = {"parameters": ps, "rng": np.random.default_rng(1), "step": 10}
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> pa.checkpoint.save(path, tree, model)
    >>> loaded = pa.checkpoint.load(path, like=tree, model=model)
    >>> loaded["step"], bool(np.all(loaded["parameters"]["weight"] == ps["weight"]))
    (10, True)
    """
    leaves = dict(_flatten(tree))
    header = {
        "format": _FORMAT,
        "model": None if model is None else repr(model),
        "leaves": {name: _to_json(name, leaf) for name, leaf in leaves.items()},
    }
    with written_whole(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_HEADER, json.dumps(header, indent=1))
        for name, leaf in leaves.items():
            if _is_array(leaf):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(leaf), allow_pickle=False)


def load(path, like=None, model=None) -> dict:
    """Read what :func:`save` wrote, and check it against what is expected.

    Parameters
    ----------
    path : str or path-like
    like : dict, optional
        A dict of the expected structure: the same names, arrays of the same shape and dtype, and other leaves
        of the same type. Its values are not used and it is not changed.
    model : object, optional
        The model that the parameters must belong to, compared by ``repr``.

    Returns
    -------
    dict
        Fresh arrays, and generators in the state they were in.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated, damaged or no checkpoint; or it is the checkpoint of another model: the first
        difference is named, with what was expected and what the file holds.

    Examples
    --------
    >>> import numpy as np, tempfile, primeattn as pa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pa.checkpoint.save(f"{folder}/a.npz", {"step": 3, "w": np.zeros(2)})
    ...     pa.checkpoint.load(f"{folder}/a.npz")
    {'step': 3, 'w': array([0., 0.])}
    """
    path = str(path)
    with open(path, "rb") as file:
        try:
            stored_model, leaves = _read(file)
        except _DAMAGE as error:
            raise ValueError(
                f"checkpoint: {path!r} is truncated, damaged, or not a primeattn checkpoint ({error})"
            ) from error
    if model is not None and stored_model != repr(model):
        raise ValueError(
            f"checkpoint: {path!r} is of another model: expected\n{model!r}\ngot\n{stored_model}"
        )
    if like is not None:
        _compare(path, dict(_flatten(like)), leaves)
    return _unflatten(leaves)


@contextmanager
def written_whole(path):
    """Open a new binary file that takes the name ``path`` when the block ends, and vanishes if it raises.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and replace ``path`` in one
    step, so a reader finds either the old file or the whole new one.

    Examples
    --------
    >>> import os, tempfile
    >>> from primeattn.checkpoint import written_whole
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_whole(f"{folder}/a") as file:
    ...         _ = file.write(b"text")
    ...         before = os.path.exists(f"{folder}/a")
    ...     print(before, os.listdir(folder))
    False ['a']
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(file):
    with zipfile.ZipFile(file) as archive:
        header = json.loads(archive.read(_HEADER))
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']!r}, expected {_FORMAT!r}")
        leaves = {}
        for name, value in header["leaves"].items():
            if value == _ARRAY:
                entry = io.BytesIO(
                    archive.read(f"{name}.npy")
                )  # read whole first: this verifies the checksum
                leaves[name] = np.lib.format.read_array(entry, allow_pickle=False)
            else:
                leaves[name] = _from_json(value)
    return header["model"], leaves


def _compare(path, expected, got):
    for name in [*expected, *got]:
        if name not in got:
            raise ValueError(f"checkpoint: {path!r} is of another model: expected {name!r}, which it lacks")
        if name not in expected:
            raise ValueError(
                f"checkpoint: {path!r} is of another model: it has {name!r}, which is not expected"
            )
        want, have = _describe(expected[name]), _describe(got[name])
        if want != have:
            raise ValueError(
                f"checkpoint: {path!r} is of another model: expected {name!r} to be {want}, got {have}"
            )


def _describe(leaf) -> str:
    if _is_array(leaf):
        return f"{leaf.dtype} of shape {leaf.shape}"
    if isinstance(leaf, np.random.Generator):
        return f"a {type(leaf.bit_generator).__name__} generator"
    return type(leaf).__name__


def _is_array(leaf) -> bool:
    return isinstance(leaf, (np.ndarray, np.generic))


def _flatten(tree, prefix=""):
    """Yield (path, leaf); an empty dict is a leaf, so that structures survive."""
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(
                f"tree: expected non-empty string keys without '/', got {key!r} under {prefix!r}"
            )
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _unflatten(leaves) -> dict:
    tree = {}
    for name, leaf in leaves.items():
        *parents, key = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = leaf
    return tree


def _to_json(name, leaf):
    if _is_array(leaf):
        if leaf.dtype.kind not in "biufc":
            raise TypeError(f"tree: expected numbers or booleans at {name!r}, got dtype {leaf.dtype}")
        return _ARRAY
    if isinstance(leaf, np.random.Generator):
        return [_GENERATOR, _plain(leaf.bit_generator.state)]
    if isinstance(leaf, dict):  # only an empty one is a leaf
        return _EMPTY
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return leaf
    raise TypeError(f"tree: expected an array, a generator, a number, text or None at {name!r}, got {leaf!r}")


def _from_json(value):
    if not isinstance(value, list):
        return value
    if value == _EMPTY:
        return {}
    kind, state = value
    name = state["bit_generator"]
    if kind != _GENERATOR or name not in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"):
        raise ValueError(f"unknown {kind} {name!r}")
    bit_generator = getattr(np.random, name)()
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def _plain(state):
    """Return a bit generator's state with its arrays as lists, which numpy accepts back."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if _is_array(state) else state
