"""Pure functions on nested dicts: the trees that hold parameters, gradients, optimiser and layer states.

A tree is a dict whose values are trees or leaves; whatever is not a dict is a leaf. A path joins the keys on
the way to a leaf with slashes: ``layer_0/weight``. Nothing here changes its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.checks import integers, is_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from primeattn.typing import States, Tree

__all__ = [
    "check",
    "flatten",
    "map",
    "map_with_path",
    "test_mode",
    "train_mode",
    "unflatten",
    "with_segments",
    "zeros_like",
]


def map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Tree of ``function(leaf, *leaves of others)``; all trees have the same keys.

    Parameters
    ----------
    function : callable
        Takes one leaf of each tree.
    tree, *others : nested dict
        Trees of one structure.

    Returns
    -------
    nested dict
        Of the results, with the keys of ``tree``.

    Raises
    ------
    ValueError
        If the keys of the trees differ.

    See Also
    --------
    map_with_path : The function gets the path, too.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.tree.map(lambda a, b: a + b, {"w": 1, "d": {"b": 2}}, {"w": 10, "d": {"b": 20}})
    {'w': 11, 'd': {'b': 22}}
    """
    return map_with_path(lambda path, *leaves: function(*leaves), tree, *others)


def map_with_path(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """Tree of ``function(path, leaf, *leaves of others)``.

    Parameters
    ----------
    function : callable
        Takes the path, such as "layer_0/weight", and one leaf of each tree.
    tree, *others : nested dict
        Trees of one structure.

    Returns
    -------
    nested dict
        Of the results, with the keys of ``tree``.

    See Also
    --------
    map : Without the path.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.tree.map_with_path(lambda path, leaf: path, {"w": 1, "d": {"b": 2}})
    {'w': 'w', 'd': {'b': 'd/b'}}
    """
    return _map(function, "", tree, others)


def _map(function, path, tree, others):
    if not isinstance(tree, dict):
        if any(isinstance(other, dict) for other in others):
            raise ValueError(f"tree: {path or 'root'} is a leaf in the first tree and a dict in another")
        return function(path, tree, *others)
    for other in others:
        _check_keys(other, tree, path or "tree")
    prefix = f"{path}/" if path else ""
    return {
        key: _map(function, f"{prefix}{key}", child, [other[key] for other in others])
        for key, child in tree.items()
    }


def flatten(tree: Tree) -> dict:
    """Dict from path to leaf, in the order of the tree; empty dicts are dropped.

    Parameters
    ----------
    tree : nested dict
        With string keys.

    Returns
    -------
    dict
        Of all leaves.

    See Also
    --------
    unflatten : The inverse.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.tree.flatten({"layer_0": {"weight": 1, "bias": 2}, "layer_1": {}})
    {'layer_0/weight': 1, 'layer_0/bias': 2}
    """
    leaves = {}
    map_with_path(leaves.__setitem__, tree)
    return leaves


def unflatten(flat: Mapping[str, Any], like: Tree) -> Tree:
    """Tree with the leaves of ``flat`` and the keys of ``like``: the inverse of `flatten`.

    Parameters
    ----------
    flat : mapping
        From path to leaf, such as a result of `flatten` or of ``np.load`` on an ``.npz`` file.
    like : nested dict
        The expected structure, empty dicts included; its leaves are not used. `check` compares leaves.

    Returns
    -------
    nested dict
        With the leaves of ``flat``.

    Raises
    ------
    ValueError
        If the paths of ``flat`` are not those of ``like``.
    TypeError
        If ``flat`` is no mapping, or holds a dict in the place of a leaf.

    See Also
    --------
    flatten : The inverse.

    Examples
    --------
    >>> import primeattn as pa
    >>> like = {"layer_0": {"weight": 0, "bias": 0}, "layer_1": {}}
    >>> pa.tree.unflatten({"layer_0/bias": 2, "layer_0/weight": 1}, like)
    {'layer_0': {'weight': 1, 'bias': 2}, 'layer_1': {}}
    """
    if not isinstance(flat, Mapping):
        raise TypeError(f"flat: expected a mapping from paths to leaves, got {type(flat).__name__}")
    paths = flatten(like)
    if flat.keys() != paths.keys():
        missing = [path for path in paths if path not in flat]
        unexpected = [path for path in flat if path not in paths]
        raise ValueError(f"flat: expected the paths of like; missing {missing}, unexpected {unexpected}")

    def leaf(path, _):
        value = flat[path]
        if isinstance(value, dict):
            raise TypeError(f"flat: expected a leaf at {path!r}, got a dict")
        return value

    return map_with_path(leaf, like)


def zeros_like(tree: Tree) -> Tree:
    """Tree of new zero arrays with the shapes and dtypes of ``tree``.

    Parameters
    ----------
    tree : nested dict of arrays
        Not changed.

    Returns
    -------
    nested dict of arrays
        New ones.

    See Also
    --------
    map : Any function of the leaves.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.tree.zeros_like({"w": np.ones(2, np.float32)})
    {'w': array([0., 0.], dtype=float32)}
    """
    return map(np.zeros_like, tree)


def check(tree: Any, like: Any, name: str = "tree") -> None:
    """Raise unless ``tree`` holds arrays with the keys, shapes and dtypes of ``like``.

    Parameters
    ----------
    tree : nested dict of arrays
        The tree to check.
    like : nested dict
        The expected tree; its leaves have ``shape`` and ``dtype``.
    name : str
        Name of ``tree`` in errors.

    Raises
    ------
    ValueError
        Missing or unexpected keys, or another shape.
    TypeError
        Something other than a dict or an array, or another dtype.

    See Also
    --------
    map : Checks keys alone.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.tree.check({"d": {"w": np.ones(3)}}, {"d": {"w": np.ones(2)}}, "ps")
    Traceback (most recent call last):
    ValueError: ps/d/w: expected shape (2,), got (3,)
    """
    if isinstance(like, dict):
        _check_keys(tree, like, name)
        for key, child in like.items():
            check(tree[key], child, f"{name}/{key}")
    elif not is_array(tree):
        raise TypeError(f"{name}: expected an array of shape {like.shape}, got {type(tree).__name__}")
    elif tree.shape != like.shape:
        raise ValueError(f"{name}: expected shape {like.shape}, got {tree.shape}")
    elif tree.dtype != like.dtype:
        raise TypeError(f"{name}: expected dtype {like.dtype}, got {tree.dtype}")


def _check_keys(tree, like, name):
    if not isinstance(tree, dict):
        raise TypeError(f"{name}: expected a dict with keys {list(like)}, got {type(tree).__name__}")
    if tree.keys() != like.keys():
        missing = [key for key in like if key not in tree]
        unexpected = [key for key in tree if key not in like]
        raise ValueError(f"{name}: expected keys {list(like)}; missing {missing}, unexpected {unexpected}")


def train_mode(st: States) -> States:
    """State with every ``training`` entry True: Dropout is active.

    Parameters
    ----------
    st : nested dict
        State of a layer.

    Returns
    -------
    nested dict
        A new state; its arrays are those of ``st``.

    See Also
    --------
    test_mode : The other way.
    primeattn.Dropout : What it turns on.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps, st = pa.setup(np.random.default_rng(0), pa.Chain(pa.Dense(2, 2), pa.Dropout(0.5)))
    >>> pa.test_mode(st)["layer_1"]["training"], pa.train_mode(st)["layer_1"]["training"]
    (False, True)
    """
    return change(st, "training", lambda _: True)


def test_mode(st: States) -> States:
    """State with every ``training`` entry False: Dropout is the identity. See `train_mode`.

    Parameters
    ----------
    st : nested dict
        State of a layer.

    Returns
    -------
    nested dict
        A new state; its arrays are those of ``st``.

    See Also
    --------
    train_mode : The other way.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps, st = pa.setup(np.random.default_rng(0), pa.Dropout(0.5))
    >>> pa.test_mode(st)["training"]
    False
    """
    return change(st, "training", lambda _: False)


test_mode.__test__ = False  # pytest must not take it for a test


def with_segments(st: States, cu_seqlens: Any) -> States:
    """State with the boundaries of packed sequences, for every layer that uses positions.

    Sequence s of the batch-1 (or unbatched) input is ``x[cu_seqlens[s]:cu_seqlens[s + 1]]``; positions count
    from 0 in each and nothing crosses a boundary. Layers pass the entry on unchanged, so it stays in force
    until it is replaced; None removes it. Right-padded batches do not need this: causal layers never look
    ahead.

    Parameters
    ----------
    st : nested dict
        State of a layer.
    cu_seqlens : int array (sequences + 1,), or None
        Boundaries, from 0 to the length of the input, not decreasing; a repeated one is an empty sequence.

    Returns
    -------
    nested dict
        A new state; its other arrays are those of ``st``.

    Raises
    ------
    TypeError, ValueError
        If ``cu_seqlens`` is not such an array. The layers check that it ends at the length of the input.

    See Also
    --------
    primeattn.sparse_index_kernel : Takes them as ``cu_seqlens``.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> layer = pa.PositionalEmbedding(8, 1)
    >>> ps, st = pa.setup(np.random.default_rng(0), layer)
    >>> ps["weight"][:, 0] = np.arange(8)
    >>> y, st = layer(np.zeros((5, 1), np.float32), ps, pa.with_segments(st, [0, 2, 5]))
    >>> y[:, 0]
    array([0., 1., 0., 1., 2.], dtype=float32)
    """
    if cu_seqlens is not None:
        bounds = cu_seqlens = integers("cu_seqlens", cu_seqlens)
        if bounds.ndim != 1 or bounds.size == 0:
            raise ValueError(f"cu_seqlens: expected one axis, not empty, got shape {bounds.shape}")
        if bounds[0] != 0 or (np.diff(bounds) < 0).any():
            raise ValueError(f"cu_seqlens: expected to start at 0 and never decrease, got {bounds}")
    return change(st, "cu_seqlens", lambda _: cu_seqlens)


def change(st, name, function):
    """State in which every entry ``name``, at any depth, is ``function`` of the old one."""
    if not isinstance(st, dict):
        raise TypeError(f"st: expected a nested dict, got {type(st).__name__}")

    def changed(key, child):
        if key == name:
            return function(child)
        return change(child, name, function) if isinstance(child, dict) else child

    return {key: changed(key, child) for key, child in st.items()}
