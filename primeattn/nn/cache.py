"""Caches: what layers keep of the tokens so far, so that the next ones are computed alone.

A cache is an entry of a layer's state. Keys and values lie in arrays with room for ``capacity`` positions,
which a state shares with those that continue it; each state knows how many tokens it has used of them. So a
state can be continued once: the arrays also know how far they are filled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import tree
from primeattn.checks import as_int, integers
from primeattn.nn._layer import Layer
from primeattn.nn._parameter import DTYPES

if TYPE_CHECKING:
    from primeattn.typing import Array, DTypeLike, States

__all__ = ["advance", "begin", "copy_cache", "with_cache", "without_cache"]


def with_cache(
    model: Layer,
    st: States,
    batch: int,
    capacity: int,
    *,
    start: int | Array = 0,
    dtype: DTypeLike = np.float32,
) -> States:
    """State with empty caches: calls with it continue where the last one ended.

    With ``st = with_cache(model, st, batch, capacity)``, a call ``y, st = model(x, ps, st)`` takes the next
    tokens, x (batch, t, ...) for any t, appends them, and gives what a call with all tokens so far would give
    for these: for a prompt in pieces, and token by token. A state is continued once; a second call with it
    raises ValueError, `copy_cache` makes one to go on from as well. There is no pullback.

    Attention layers with ``device="cuda"`` keep their keys and values in the memory of the GPU: a call takes
    its new tokens there, and none of those before.

    Parameters
    ----------
    model : Layer
        Whose calls are to go on.
    st : nested dict
        Its state.
    batch, capacity : int
        Sequences, and most positions of each.
    start : int or int array (batch,)
        Position of the first token, 0 or less: of a batch of prompts that are padded on the left to one
        length, minus the number of tokens of padding. Tokens before position 0 are not there.
    dtype : float32 or float64
        That of the parameters.

    Returns
    -------
    nested dict
        The state with caches of all attention layers.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above. A call raises ValueError if the capacity does not suffice.
    RuntimeError
        If a layer has ``device="cuda"`` and there is no GPU that can be used.

    See Also
    --------
    without_cache : Takes them out.
    copy_cache : A second one to go on from.
    primeattn.language_model.generate : Writes text so.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model, rng = pa.PrimeSelfAttention(8, heads=2, rotary=10000.0), np.random.default_rng(0)
    >>> ps, st = pa.setup(rng, model)
    >>> x = rng.standard_normal((1, 10, 8), dtype=np.float32)
    >>> cached = pa.with_cache(model, st, batch=1, capacity=10)
    >>> parts = []
    >>> for begin, end in ((0, 7), (7, 8), (8, 10)):
    ...     y, cached = model(x[:, begin:end], ps, cached)
    ...     parts.append(y)
    >>> np.allclose(np.concatenate(parts, axis=1), model(x, ps, st)[0], atol=1e-6)
    True
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
    if not isinstance(st, dict):
        raise TypeError(f"st: expected a nested dict, got {type(st).__name__}")
    batch, capacity = as_int("batch", batch, minimum=1), as_int("capacity", capacity, minimum=1)
    dtype = np.dtype(dtype)
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype}")
    starts = integers("start", start)
    if starts.shape not in ((), (batch,)) or starts.max(initial=0) > 0:
        raise ValueError(f"start: expected 0 or less, or an array ({batch},) of such, got {start}")
    return model.with_cache(st, np.array(np.broadcast_to(starts, (batch,))), capacity, dtype)


def without_cache(st: States) -> States:
    """State without the caches of `with_cache`.

    Parameters
    ----------
    st : nested dict
        A state, with or without caches.

    Returns
    -------
    nested dict
        A new state; its arrays are those of ``st``.

    Raises
    ------
    TypeError
        If ``st`` is no nested dict.

    See Also
    --------
    with_cache : Puts them in.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.PrimeSelfAttention(8)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> pa.without_cache(pa.with_cache(model, st, 1, 16)) == st
    True
    """
    if not isinstance(st, dict):
        raise TypeError(f"st: expected a nested dict, got {type(st).__name__}")
    return {
        name: without_cache(child) if isinstance(child, dict) else child
        for name, child in st.items()
        if name != "cache"
    }


def copy_cache(st: States) -> States:
    """State with copies of its caches: both can be continued. What lies on the GPU is copied there.

    Parameters
    ----------
    st : nested dict
        A state with caches.

    Returns
    -------
    nested dict
        A new state.

    See Also
    --------
    with_cache : A state with caches.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.PrimeSelfAttention(8)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> st, x = pa.with_cache(model, st, 1, 16), np.ones((1, 2, 8), np.float32)
    >>> other = pa.copy_cache(st)
    >>> one, two = model(x, ps, st)[0], model(x, ps, other)[0]
    """
    return tree.change(st, "cache", lambda cache: {name: leaf.copy() for name, leaf in cache.items()})


def begin(start, capacity, *sizes, **leaves):
    """A cache before its first token; ``sizes`` are those of its ``leaves``, but for batch and capacity."""
    numbers = {"capacity": capacity, "used": 0, "filled": 0, "sizes": sizes}
    return {"start": start, **{name: np.array(value, np.int64) for name, value in numbers.items()}, **leaves}


def advance(layer, st, shape, memory, *sizes):
    """Positions of the next tokens, (batch, t) = ``shape``, and the layer's state after them.

    ``sizes`` are those with which the layer begins caches: the state may be of another model.
    """
    (batch, length), cache = shape, st["cache"]
    if st["cu_seqlens"] is not None:
        raise ValueError(f"{layer}: cu_seqlens and a cache do not go together")
    if memory.saving:
        raise ValueError(f"{layer}: a state with a cache has no pullback; see without_cache")
    kept = tuple(cache["sizes"].tolist())
    if kept != sizes:
        raise ValueError(
            f"{layer}: expected a cache with sizes {sizes}, got one of another layer with {kept}; "
            "see with_cache"
        )
    if batch != cache["start"].size:
        raise ValueError(f"{layer}: the cache is for a batch of {cache['start'].size}, got one of {batch}")
    used, capacity = int(cache["used"]), int(cache["capacity"])
    if int(cache["filled"]) != used:
        raise ValueError(
            f"{layer}: this state was continued already, with {int(cache['filled']) - used} more tokens; "
            "copy_cache(st) makes one that can be continued as well"
        )
    end = used + length
    if int(cache["start"].max()) + end > capacity:
        raise ValueError(
            f"{layer}: the cache has room for {capacity} positions, got {used} and {length} more"
        )
    cache["filled"][...] = end
    positions = cache["start"][:, None] + np.arange(used, end)
    return positions, {**st, "cache": {**cache, "used": np.array(end)}}
