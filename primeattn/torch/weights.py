"""Weights of torch's modules as parameters of layers, and back: exactly, and 16-bit floats as float32.

A *map* says for each path of the parameters which names of a state dict hold it, and whether transposed:
``nn.Linear`` has (out, in) where `primeattn.Dense` has (in, out). Several names stand side by side in the
last axis, as [q|k|v] do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from primeattn import tree
from primeattn.torch.module import SparseAttention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from primeattn.nn import Layer
    from primeattn.typing import Params

__all__ = ["Source", "from_state_dict", "from_torch", "map_of", "to_state_dict", "to_torch"]


class Source(NamedTuple):
    """Where the array of one path is in a state dict.

    Parameters
    ----------
    names : tuple of str
        In the state dict; several are side by side in the array.
    transposed : bool
        Whether the tensor of torch is (out, in).

    See Also
    --------
    map_of : Sources of a module.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.torch.map_of(pa.torch.SparseAttention(pa.Pattern("primes"), 8))["Wo/weight"]
    Source(names=('Wo.weight',), transposed=True)
    """

    names: tuple[str, ...]
    transposed: bool = False


def from_torch(module: nn.Module) -> dict:
    """Return the weights of a module as parameters of the layer that computes the same.

    ==================================================  ==================================================
    module                                              layer
    ==================================================  ==================================================
    ``nn.Linear``, Conv1D of transformers               `Dense`
    ``nn.LayerNorm``, ``nn.RMSNorm``                    `LayerNorm`, `RMSNorm`, with the same ``eps``
    ``nn.Embedding``                                    `Embedding`; its weight also `PositionalEmbedding`
    ``nn.MultiheadAttention``                           `SparseIndexAttention` with ``bias`` as there
    ``nn.ModuleDict`` of linear q, k, v and o           `SparseIndexAttention`
    `SparseAttention`                                   `SparseIndexAttention`, its ``module.layer``
    ==================================================  ==================================================

    ``nn.MultiheadAttention`` then is causal self-attention of all earlier tokens, if the window of the
    pattern is as long as the text.

    Parameters
    ----------
    module : nn.Module
        One of these.

    Returns
    -------
    ps : nested dict of arrays
        New ones, of the module's dtype; float32 for bfloat16 and float16.

    Raises
    ------
    TypeError, ValueError
        For a module, or a setting of it, that no layer has.

    See Also
    --------
    to_torch : The inverse.
    from_state_dict : For whole models.

    Examples
    --------
    >>> import numpy as np, torch, primeattn as pa
    >>> module = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> layer = pa.SparseIndexAttention(8, pa.Pattern(None, window=99), heads=2, bias=True)
    >>> ps = pa.torch.from_torch(module)
    >>> x = torch.randn(1, 20, 8)
    >>> y, _ = layer(x.numpy(), ps, pa.setup(np.random.default_rng(0), layer)[1])
    >>> ahead = torch.ones(20, 20, dtype=torch.bool).triu(1)
    >>> bool(np.allclose(y, module(x, x, x, attn_mask=ahead)[0].detach(), atol=1e-5))
    True
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    ps = {}
    for path, array in _arrays(module.state_dict(), map_of(module)).items():
        *parents, last = path.split("/")
        place = ps
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = array
    return ps


def to_torch(ps: Params, module: nn.Module) -> nn.Module:
    """Copy parameters into a module of torch, and return it: the inverse of `from_torch`.

    Parameters
    ----------
    ps : nested dict of arrays
        Parameters of the layer.
    module : nn.Module
        As in `from_torch`. Its weights are overwritten, after all shapes are checked.

    Returns
    -------
    nn.Module
        The one passed in.

    See Also
    --------
    from_torch : The inverse.

    Examples
    --------
    >>> import numpy as np, torch, primeattn as pa
    >>> ps, _ = pa.setup(np.random.default_rng(0), pa.Dense(3, 2))
    >>> pa.torch.to_torch(ps, torch.nn.Linear(3, 2)).weight.shape
    torch.Size([2, 3])
    """
    state = module.state_dict()
    module.load_state_dict(state | to_state_dict(ps, map_of(module), state))
    return module


def from_state_dict(state: Mapping[str, Tensor], names: Mapping[str, Source], layer: Layer) -> dict:
    """Return the parameters of a layer from a state dict and a map, as that of `llama` or `gpt2`.

    Parameters
    ----------
    state : dict of tensors
        Such as ``model.state_dict()``.
    names : dict
        From paths, as in :func:`primeattn.tree.flatten`, to `Source`.
    layer : Layer
        Says which parameters there are.

    Returns
    -------
    nested dict of arrays
        New ones.

    Raises
    ------
    ValueError
        If the map lacks a path, the state dict a name, or a shape is not that of the layer.

    See Also
    --------
    to_state_dict : The inverse.
    llama : Makes a map.

    Examples
    --------
    >>> import torch, primeattn as pa
    >>> names = {"weight": pa.torch.Source(("proj.weight",), transposed=True)}
    >>> layer = pa.Dense(3, 2, bias=False)
    >>> pa.torch.from_state_dict({"proj.weight": torch.ones(2, 3)}, names, layer)["weight"].shape
    (3, 2)
    """
    ps = tree.unflatten(_arrays(state, names), like=layer.parameters())
    layer.check_parameters(ps)
    return ps


def to_state_dict(ps: Params, names: Mapping[str, Source], like: Mapping[str, Tensor]) -> dict:
    """Return the tensors of a state dict from parameters and a map: the inverse of `from_state_dict`.

    Parameters
    ----------
    ps : nested dict of arrays
        Parameters of the layer.
    names : dict
        As in `from_state_dict`.
    like : dict of tensors
        Has the shapes, dtypes and devices of the tensors that are wanted.

    Returns
    -------
    dict of tensors
        New ones.

    Raises
    ------
    ValueError
        If paths or shapes do not fit.

    See Also
    --------
    from_state_dict : The inverse.

    Examples
    --------
    >>> import numpy as np, torch, primeattn as pa
    >>> names = {"weight": pa.torch.Source(("a", "b"))}
    >>> like = {"a": torch.empty(2), "b": torch.empty(1, dtype=torch.bfloat16)}
    >>> pa.torch.to_state_dict({"weight": np.arange(3.0)}, names, like)
    {'a': tensor([0., 1.]), 'b': tensor([2.], dtype=torch.bfloat16)}
    """
    flat, state = tree.flatten(ps), {}
    if flat.keys() != names.keys():
        raise ValueError(f"ps: expected the paths {sorted(names)}, got {sorted(flat)}")
    for path, source in names.items():
        axis = 0 if source.transposed else -1
        sizes = [like[name].shape[axis] for name in source.names]
        if sum(sizes) != flat[path].shape[-1]:
            raise ValueError(f"ps: expected last axis {sum(sizes)} at {path!r}, got shape {flat[path].shape}")
        parts = np.split(flat[path], np.cumsum(sizes)[:-1], axis=-1)
        for name, part in zip(source.names, parts, strict=True):
            part = part.T if source.transposed else part
            if part.shape != like[name].shape:
                raise ValueError(f"ps: expected {tuple(like[name].shape)} for {name!r}, got {part.shape}")
            state[name] = torch.tensor(part).to(like[name])
    return state


def map_of(module: nn.Module) -> dict:
    """Return the map of one of the modules of `from_torch`.

    Parameters
    ----------
    module : nn.Module
        As in `from_torch`.

    Returns
    -------
    dict of str to Source
        By paths in the parameters.

    Raises
    ------
    TypeError, ValueError
        For a module, or a setting of it, that no layer has.

    See Also
    --------
    from_state_dict : Takes it.

    Examples
    --------
    >>> import torch, primeattn as pa
    >>> pa.torch.map_of(torch.nn.RMSNorm(8))
    {'scale': Source(names=('weight',), transposed=False)}
    """
    if isinstance(module, nn.Linear):
        return linear(bias=module.bias is not None)
    if type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers."):
        return conv1d()
    if isinstance(module, nn.LayerNorm) and module.bias is not None and len(module.normalized_shape) == 1:
        return layer_norm()
    if isinstance(module, nn.RMSNorm) and module.weight is not None and len(module.normalized_shape) == 1:
        return rms_norm()
    if isinstance(module, nn.Embedding) and module.max_norm is None:
        return {"weight": Source(("weight",))}
    if isinstance(module, nn.MultiheadAttention):
        return _of_multihead(module)
    if isinstance(module, nn.ModuleDict) and list(module) == ["q", "k", "v", "o"]:
        biased = {name: map_of(child).keys() == {"weight", "bias"} for name, child in module.items()}
        if len(set(biased.values())) > 1:
            raise ValueError(f"module: expected a bias in all of q, k, v and o or in none, got {biased}")
        return projections(("q", "k", "v"), "o", bias=biased["q"])
    if isinstance(module, SparseAttention):
        children = {name: map_of(child) for name, child in module.named_children()}
        own = {name: Source((name,)) for name, _ in module.named_parameters(recurse=False)}
        nested = {f"{name}/": within(f"{name}.", names) for name, names in children.items()}
        return below(nested) | own
    raise TypeError(f"module: expected one that a layer can compute (see from_torch), got {module!r}")


def _of_multihead(module):
    if module.bias_k is not None or module.add_zero_attn or not module._qkv_same_embed_dim:
        raise ValueError(f"module: expected no bias_k, add_zero_attn, kdim or vdim, got {module!r}")
    names = {
        "Wi/weight": Source(("in_proj_weight",), True),
        "Wi/bias": Source(("in_proj_bias",)),
        "Wo/weight": Source(("out_proj.weight",), True),
        "Wo/bias": Source(("out_proj.bias",)),
    }
    if module.in_proj_bias is None:
        del names["Wi/bias"], names["Wo/bias"]
    return names


def linear(*modules, bias=False):
    """Map of a `Dense` that stands for linear modules side by side; without names for one itself."""
    prefixes = [f"{name}." for name in modules] or [""]
    names = {"weight": Source(tuple(f"{prefix}weight" for prefix in prefixes), True)}
    return names | ({"bias": Source(tuple(f"{prefix}bias" for prefix in prefixes))} if bias else {})


def conv1d():
    """Map of the Conv1D of GPT-2, which is (in, out)."""
    return {"weight": Source(("weight",)), "bias": Source(("bias",))}


def layer_norm():
    return {"scale": Source(("weight",)), "bias": Source(("bias",))}


def rms_norm():
    return {"scale": Source(("weight",))}


def projections(qkv, out, bias=False):
    """Map of a `SparseIndexAttention` from linear modules."""
    return below({"Wi/": linear(*qkv, bias=bias), "Wo/": linear(out, bias=bias)})


def within(prefix, names):
    """``names`` where all tensors have a prefix."""
    return {
        path: Source(tuple(f"{prefix}{name}" for name in source.names), source.transposed)
        for path, source in names.items()
    }


def below(nested):
    """One map from maps by the beginnings of their paths."""
    return {f"{begin}{path}": source for begin, names in nested.items() for path, source in names.items()}


def _arrays(state, names):
    """New arrays by the paths of a map."""
    arrays = {}
    for path, source in names.items():
        missing = [name for name in source.names if name not in state]
        if missing:
            raise ValueError(f"state: expected {missing[0]!r} for {path!r}, got none")
        parts = [_array(state[name]) for name in source.names]
        parts = [part.T if source.transposed else part for part in parts]
        arrays[path] = np.ascontiguousarray(np.concatenate(parts, axis=-1))
    return arrays


def _array(tensor):
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
