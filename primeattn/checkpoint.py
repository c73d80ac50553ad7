"""Checkpoints: nested dicts in one file without pickle, written whole or not at all, and checked.

The file is an ``.npz``, or, if its name ends so, a ``.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn import _safetensors
from primeattn.checks import is_array
from primeattn.files import written_whole
from primeattn.sequences import Sequence

if TYPE_CHECKING:
    from primeattn.typing import FilePath, Tree

__all__ = ["load", "save", "written_whole"]

_HEADER = "checkpoint.json"
_FORMAT = "primeattn checkpoint 1"
_ARRAY, _EMPTY, _GENERATOR = ["array"], ["dict"], "generator"  # lists mark what JSON has no type for
_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
# Upper bounds of the numbers in a generator's state; arrays are bounded by their dtype.
_LARGEST = {
    "pos": 624,
    "buffer_pos": 4,
    "has_uint32": 1,
    "uinteger": 2**32 - 1,
    "state": 2**128 - 1,
    "inc": 2**128 - 1,
}
_KEY = re.compile("[^/\0\ud800-\udfff]+")
_LONGEST = 65_000  # about the most bytes that a name in a zip file may have
# What NumPy writes before the bytes of an array: format 1.0, the length of the line, the line.
_ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|][biufc]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n",
    re.DOTALL,
)


def save(path: FilePath, tree: Tree, model: Any = None) -> None:
    """Write a nested dict to ``path``: the whole file, or nothing.

    Arrays become entries of the ``.npz``, named by their place in the dict joined with ``/``, so
    ``np.load(path)["parameters/layer_1/weight"]`` works without this library. Everything else (step, options,
    random generators) is stored as JSON text beside them. Nothing is pickled. The file appears under its name
    only when it is complete; on any error the previous file stays as it was.

    Parameters
    ----------
    path : str or path-like
        Written as given; no suffix is added. With the suffix ``.safetensors`` the file has that format, and
        the JSON text is in its metadata; ``pip install 'primeattn[safetensors]'``.
    tree : dict
        Nested dicts with string keys without ``/``. Leaves are arrays of numbers or booleans,
        ``np.random.Generator``, int, float, bool, str or None.
    model : object, optional
        The model that the parameters belong to. Its ``repr`` is stored with a hash of the sequences in it,
        and compared by :func:`load`.

    Raises
    ------
    TypeError, ValueError
        A leaf or key that cannot be stored; nothing is written.
    RuntimeError
        The package safetensors is needed and missing.

    See Also
    --------
    load : Reads the file.

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
        "sequences": None if model is None else _sequences_of(model),
        "leaves": {name: _to_json(name, leaf) for name, leaf in leaves.items()},
    }
    arrays = {name: np.asarray(leaf) for name, leaf in leaves.items() if _is_array(leaf)}
    write = _safetensors.write if _is_safetensors(path) else _write_npz
    with written_whole(path) as file:
        write(file, json.dumps(header, indent=1), arrays)


def load(path: FilePath, like: Tree | None = None, model: Any = None) -> dict:
    """Read what :func:`save` wrote, and check it against what is expected.

    Parameters
    ----------
    path : str or path-like
        With the suffix ``.safetensors``, of a file of that format.
    like : dict, optional
        A dict of the expected structure: the same names, arrays of the same shape and dtype, and other leaves
        of the same type. Its values are not used and it is not changed.
    model : object, optional
        The model that the parameters must belong to. One with a sequence from a user's function
        (``Pattern(lambda limit: ...)``) is refused, since functions cannot be compared.

    Returns
    -------
    dict
        New arrays, and generators in their stored state.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated, damaged or no checkpoint; or it belongs to another model: the first difference
        is named, with what was expected and what the file holds.
    RuntimeError
        The package safetensors is needed and missing.

    See Also
    --------
    save : Writes the file.

    Examples
    --------
    >>> import numpy as np, tempfile, primeattn as pa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pa.checkpoint.save(f"{folder}/a.npz", {"step": 3, "w": np.zeros(2)})
    ...     pa.checkpoint.load(f"{folder}/a.npz")
    {'step': 3, 'w': array([0., 0.])}
    """
    path = str(path)
    tensors = _is_safetensors(path)
    with open(path, "rb") as file:
        try:
            header, leaves = _read_safetensors(path) if tensors else _read_npz(file)
            tree = _unflatten(leaves)
        except MemoryError:  # no sign of damage: reads are no larger than the file
            raise
        except Exception as error:
            raise ValueError(
                f"checkpoint: {path!r} is truncated, damaged, or not a primeattn checkpoint ({error})"
            ) from error
    if model is not None:
        _compare_models(path, header, model)
    if like is not None:
        _compare(path, dict(_flatten(like)), leaves)
    return tree


def _is_safetensors(path) -> bool:
    """Whether the suffix of ``path`` asks for that format; RuntimeError if the package is missing."""
    asked = Path(path).suffix == ".safetensors"
    if asked:
        _safetensors.require()
    return asked


def _write_npz(file, header, arrays):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_HEADER, header)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _read_npz(file):
    """Return the header and the leaves; even from a hostile file, read no more than it holds."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:

        def content(name):
            nonlocal size
            entry = archive.getinfo(name)
            size -= entry.file_size
            plain = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
            if not plain or size < 0:
                raise ValueError(f"{name!r} is compressed, or said to be larger than the file")
            return archive.read(entry)

        return _parse(content(_HEADER), lambda name: _as_array(content(f"{name}.npy")))


def _read_safetensors(path):
    text, arrays = _safetensors.read(path)
    return _parse(text, arrays.__getitem__)


def _parse(text, array_of):
    """Return the header and the leaves, from the text of the header and a function from names to arrays."""
    header = json.loads(text)
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']!r}, expected {_FORMAT!r}")
    header.setdefault("sequences")
    for name in ("model", "sequences"):
        if not isinstance(header[name], (str, type(None))):
            raise ValueError(f"{name} {header[name]!r}")
    leaves = {}
    for name, value in header["leaves"].items():
        leaves[name] = array_of(name) if value == _ARRAY else _from_json(value)
    return header, leaves


def _as_array(content):
    header = _ARRAY_HEADER.match(content)
    if header is None or header.end() != 10 + int.from_bytes(content[8:10], "little"):
        raise ValueError(f"unknown array {content[:128]!r}")
    dtype, fortran = np.dtype(header[1].decode()), header[2] == b"True"
    shape = [int(digits) for digits in re.findall(rb"\d+", header[3])]
    flat = np.frombuffer(content, dtype, offset=header.end())
    return flat.reshape(shape, order="F" if fortran else "C").copy(order="K")


def _compare_models(path, header, model):
    stored, wanted = header["model"], repr(model)
    if stored != wanted:
        raise ValueError(f"checkpoint: {path!r} is of another model: expected\n{wanted}\ngot\n{stored}")
    sequences = _sequences_of(model)
    if sequences is None:
        raise ValueError(
            f"checkpoint: {path!r} may be of another model, whose sequence is another function: expected "
            f"sequences known by name or content (see sequences.register, from_array), got\n{wanted}\n"
            "omit model= to skip this check"
        )
    if header["sequences"] not in (None, sequences):  # None: from before this entry existed
        raise ValueError(f"checkpoint: {path!r} is of another model: expected other offsets in\n{wanted}")


def _sequences_of(model):
    """Return a hash of all sequences in a model; None if one is known only as a function."""
    try:
        found = [json.dumps(sequence.to_json()) for sequence in _find_sequences(model, set())]
    except TypeError:
        return None
    content = "\n".join(dict.fromkeys(found))  # equal sequences may be one object or several
    return hashlib.sha256(content.encode()).hexdigest()


def _find_sequences(part, seen):
    if isinstance(part, Sequence):
        yield part
    elif id(part) not in seen and not isinstance(part, (type, ModuleType)):
        seen.add(id(part))
        if is_dataclass(part):
            parts = [getattr(part, field.name) for field in fields(part)]
        elif isinstance(part, (list, tuple)):
            parts = part
        else:
            parts = (part if isinstance(part, dict) else getattr(part, "__dict__", {})).values()
        for child in parts:
            yield from _find_sequences(child, seen)


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
    if not isinstance(tree, dict):
        raise TypeError(f"tree: expected a dict, got {tree!r}")
    for key, value in tree.items():
        _check_key(key, prefix)
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _check_key(key, prefix):
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError(
            "tree: expected non-empty string keys of Unicode text, without '\\0' and without '/', "
            f"got {key!r} under {prefix!r}"
        )
    if len(prefix.encode()) + len(key.encode()) > _LONGEST:
        raise ValueError(f"tree: expected names of at most {_LONGEST} bytes, got {prefix}{key[:40]}...")


def _unflatten(leaves) -> dict:
    tree = {}
    for name, leaf in leaves.items():
        *parents, key = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = leaf
    if dict(_flatten(tree)).keys() != leaves.keys():
        raise ValueError("an entry inside another")
    return tree


def _to_json(name, leaf):
    if _is_array(leaf):
        if not is_array(leaf) and not isinstance(leaf, np.generic):
            raise TypeError(f"tree: expected a plain array at {name!r}, got {type(leaf).__name__}")
        if leaf.dtype.kind not in "biufc":
            raise TypeError(f"tree: expected numbers or booleans at {name!r}, got dtype {leaf.dtype}")
        return _ARRAY
    if isinstance(leaf, np.random.Generator):
        if type(leaf.bit_generator).__name__ not in _GENERATORS:
            raise TypeError(f"tree: expected one of {_GENERATORS} at {name!r}, got {leaf!r}")
        return [_GENERATOR, _plain(leaf.bit_generator.state)]
    if isinstance(leaf, dict):  # only an empty one is a leaf
        return _EMPTY
    if leaf is None or isinstance(leaf, (bool, int, float, str)):
        return leaf
    raise TypeError(
        f"tree: expected an array, a generator, a number, text or None at {name!r}, got {leaf!r}; "
        "store a list of numbers as np.array(...), other lists and tuples as a dict or as text"
    )


def _from_json(value):
    if not isinstance(value, (list, dict)):
        return value
    if value == _EMPTY:
        return {}
    kind, state = value
    name = state["bit_generator"]
    if kind != _GENERATOR or name not in _GENERATORS:
        raise ValueError(f"unknown {kind} {name!r}")
    bit_generator = getattr(np.random, name)()
    _check_state(name, state, bit_generator.state)
    bit_generator.state = state
    return np.random.Generator(bit_generator)


def _check_state(name, state, like):
    """Raise ValueError unless a generator's state has the structure of ``like``, and numbers in bounds.

    NumPy accepts any position, and reads memory there.
    """
    if isinstance(like, dict):
        fits = isinstance(state, dict) and state.keys() == like.keys()
        for key in like if fits else ():
            _check_state(key, state[key], like[key])
    elif _is_array(like):
        fits = isinstance(state, list) and len(state) == like.size
        fits = fits and all(_is_within(number, np.iinfo(like.dtype).max) for number in state)
    elif isinstance(like, int):
        fits = _is_within(state, _LARGEST[name])
    else:
        fits = state == like
    if not fits:
        raise ValueError(f"generator with {name} = {state!r:.80}")


def _is_within(number, largest) -> bool:
    return type(number) is int and 0 <= number <= largest


def _plain(state):
    """Return a bit generator's state with its arrays as lists, which numpy accepts back."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return state.tolist() if _is_array(state) else state
