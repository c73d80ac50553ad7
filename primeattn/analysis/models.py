"""Attention inside a model: the inputs of its attention layers, and where their heads look."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from primeattn import tree
from primeattn.analysis.attention import attention_map, entropy
from primeattn.analysis.rules import rule_mass
from primeattn.nn import Layer, SparseIndexAttention
from primeattn.nn._memory import Memory
from primeattn.table import Table

if TYPE_CHECKING:
    from primeattn.typing import Array, Params, States

__all__ = ["LayerCall", "attention_calls", "attention_summary"]


class LayerCall(NamedTuple):
    """A layer of a model and what the model calls it with: ``y, st = layer(x, ps, st)``.

    Parameters
    ----------
    layer : SparseIndexAttention
        The layer.
    x : array
        Its input.
    ps, st : nested dicts
        Its parameters and state.

    See Also
    --------
    attention_calls : Finds them in a model.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.Chain(pa.Dense(3, 8), pa.PrimeSelfAttention(8))
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> call = pa.analysis.attention_calls(model, np.ones((5, 3), np.float32), ps, st)["layer_1"]
    >>> call.layer, call.x.shape
    (PrimeSelfAttention(8), (5, 8))
    """

    layer: SparseIndexAttention
    x: np.ndarray
    ps: dict[str, Any]
    st: dict[str, Any]


def attention_calls(model: Layer, x: Array, ps: Params, st: States) -> dict[str, LayerCall]:
    """Run ``model`` on ``x`` and return how it calls each of its attention layers, by their paths in ``ps``.

    Attention is found in every container that runs its children with ``child.apply(x, ps, st, memory)``. A
    warning names attention layers of the model that were not run this way. Pass a call on as
    ``attention_map(*call, head)``.

    Parameters
    ----------
    model : Layer
        With at least one SparseIndexAttention.
    x : array
        Input of the model.
    ps, st : nested dicts
        Parameters and state of the model; with dropout, ``pa.test_mode(st)``.

    Returns
    -------
    dict of str to LayerCall
        By the path of the layer in ``ps``, in the order of the calls.

    Raises
    ------
    TypeError
        If ``model`` is no Layer.
    ValueError
        If no attention was run in this way.

    See Also
    --------
    attention_map : The attention probabilities of one of them.
    attention_summary : A table over all heads.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> model = pa.language_model.make_model(pa.Pattern("primes", window=3), layers=2, width=16, context=64)
    >>> ps, st = pa.setup(np.random.default_rng(0), model)
    >>> calls = pa.analysis.attention_calls(model, np.zeros((1, 64), np.uint8), ps, st)
    >>> list(calls), calls["layer_2/layer_1"].x.shape
    (['layer_2/layer_1', 'layer_4/layer_1'], (1, 64, 16))
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {type(model).__name__}")
    model.check(x, ps, st)
    watch = _Watch()
    model.apply(x, ps, st, watch)
    seen = {id(call.layer) for call in watch.calls}
    missed = [layer for layer in _attention_within(model) if id(layer) not in seen]
    if not watch.calls:
        raise ValueError(f"model: expected attention that containers run by apply, got {model!r}")
    if missed:
        warnings.warn(f"model: not seen, as not run by apply: {missed}", stacklevel=2)
    calls, owners = {}, {id(leaf): path for path, leaf in tree.flatten(ps).items()}
    for call in watch.calls:
        calls[_path(call, owners, calls)] = call
    return calls


def attention_summary(model: Layer, x: Array, ps: Params, st: States) -> Table:
    """Return a table of where every head of ``model`` looks, averaged over the queries of ``x``.

    The columns: layer (its path in ``ps``), head, keys (that a query sees), entropy (of its attention, in
    nats, see ``entropy``), and the attention that each rule carries (see ``rule_mass``).

    Parameters
    ----------
    model, x, ps, st
        As for ``attention_calls``.

    Returns
    -------
    Table
        A row for each head.

    See Also
    --------
    attention_calls : The calls that it looks at.
    primeattn.plot.heads : Pictures of heads.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> rng = np.random.default_rng(0)
    >>> patterns = [pa.Pattern("primes", window=3, global_tokens=2), pa.Pattern(None, window=9)]
    >>> model = pa.Chain(pa.RMSNorm(8), pa.SparseIndexAttention(8, patterns, heads=2))
    >>> ps, st = pa.setup(rng, model)
    >>> ps["layer_1"]["Wi"]["weight"][:] = 0  # attention without preferences
    >>> x = rng.standard_normal((2, 200, 8), dtype=np.float32)
    >>> print(pa.analysis.attention_summary(model, x, ps, st))
    layer    head     keys  entropy  window  global tokens  sequence
    layer_1     0  28.3800   3.2033  0.1970         0.0875    0.7156
    layer_1     1   9.7750   2.2630  1.0000         0.0000    0.0000
    """
    return Table(
        _row(path, call, head)
        for path, call in attention_calls(model, x, ps, st).items()
        for head in range(call.layer.heads)
    )


class _Watch(Memory):
    """Memory that records the calls of attention layers."""

    __slots__ = ("calls",)

    def __init__(self):
        super().__init__(saving=False)
        self.calls = []

    def called(self, layer, x, ps, st):
        if isinstance(layer, SparseIndexAttention):
            self.calls.append(LayerCall(layer, x, ps, st))


def _path(call, owners, known):
    """Path of a call's parameters in those of the model; a second call there gets a number."""
    below, leaf = next(iter(tree.flatten(call.ps).items()))
    path = owners.get(id(leaf), below).removesuffix(below).rstrip("/")
    again = 2
    name = path
    while name in known:
        name, again = f"{path} ({again})", again + 1
    return name


def _attention_within(value):
    """Yield the attention layers in the fields of a layer, also inside collections."""
    if isinstance(value, SparseIndexAttention):
        yield value
    elif isinstance(value, Layer):
        yield from _attention_within(list(vars(value).values()))
    elif isinstance(value, (list, tuple, set, frozenset, dict)):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _attention_within(child)


def _row(path, call, head):
    pattern = call.layer.pattern_of(head)
    samples = []
    for batch in range(len(call.x) if call.x.ndim == 3 else 1):
        p = attention_map(*call, head, batch=batch)
        mass = rule_mass(p, pattern, cu_seqlens=call.st["cu_seqlens"])
        samples.append({"keys": np.diff(p.indptr), "entropy": entropy(p), **mass})
    means = {name: float(np.mean([sample[name] for sample in samples])) for name in samples[0]}
    return {"layer": path, "head": head, **means}
