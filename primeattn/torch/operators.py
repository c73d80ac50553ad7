"""The kernels as two operators of torch, which compilers and exporters take as they are.

Neither has derivatives: those are in ``differentiable``.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch

from primeattn.checks import shown
from primeattn.kernels import sparse_index_kernel, sparse_index_kernel_backward
from primeattn.patterns import Pattern

__all__ = ["HALF", "attend", "attend_backward", "pattern_text"]

HALF = (torch.bfloat16, torch.float16)

_OPTIONS = (
    "Tensor? offset_bias, Tensor? global_bias, Tensor? slopes, Tensor? q_start, Tensor? k_start, "
    "Tensor? cu_seqlens, Tensor? dropout_seed, str pattern, float? scale, float? softcap, float dropout"
)
_SAVED = "Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse"
_LIBRARY = torch.library.Library("primeattn", "DEF")
_LIBRARY.define(f"attend(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor out, Tensor lse)")
_LIBRARY.define(
    f"attend_backward(Tensor dout, Tensor dlse, {_SAVED}, {_OPTIONS}) "
    "-> (Tensor dq, Tensor dk, Tensor dv, Tensor doffset_bias, Tensor dglobal_bias)"
)
attend = torch.ops.primeattn.attend.default
attend_backward = torch.ops.primeattn.attend_backward.default


@torch.compiler.assume_constant_result
def pattern_text(pattern):
    """Return a Pattern as the line of text by which the operators know it."""
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a Pattern or one per head, got {shown(pattern)}")
    return _line(pattern)


@lru_cache(256)
def _line(pattern):
    try:
        return json.dumps(pattern.to_json())
    except TypeError as error:
        raise TypeError(f"pattern: {error}, which operators of torch need") from None


@lru_cache(256)
def _pattern(text):
    """The Pattern, or one per head, of a text with a line for each."""
    patterns = [Pattern.from_json(json.loads(line)) for line in text.splitlines()]
    return patterns[0] if len(patterns) == 1 else tuple(patterns)


def _options(q_start, k_start, cu_seqlens, dropout_seed, pattern, scale, softcap, dropout):
    """Keyword arguments of the kernels."""
    return {
        "pattern": _pattern(pattern),
        "scale": scale,
        "softcap": softcap,
        "dropout": dropout,
        "dropout_seed": 0 if dropout_seed is None else int(dropout_seed) % 2**64,  # torch's are signed
        "q_start": 0 if q_start is None else q_start.numpy(force=True),
        "k_start": 0 if k_start is None else k_start.numpy(force=True),
        "cu_seqlens": None if cu_seqlens is None else cu_seqlens.numpy(force=True),
    }


def _rows(tensor):
    """``tensor`` without derivatives; its last axis is contiguous."""
    tensor = tensor.detach()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _number_rows(tensor):
    return None if tensor is None else tensor.detach().contiguous()


def _results(q):
    """Memory for out, with the order of axes of q in memory, and for lse."""
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32 if q.dtype in HALF else q.dtype)


def _attend(q, k, v, offset_bias, global_bias, slopes, *options):
    q, k, v = _rows(q), _rows(k), _rows(v)
    terms = {"offset_bias": offset_bias, "global_bias": global_bias, "slopes": slopes}
    terms = {name: _number_rows(tensor) for name, tensor in terms.items()}
    return sparse_index_kernel(*_results(q), q, k, v, **terms, **_options(*options))


def _attend_backward(dout, dlse, q, k, v, out, lse, offset_bias, global_bias, slopes, *options):
    dout, q, k, v, out = map(_rows, (dout, q, k, v, out))
    lse, dlse = _number_rows(lse), _number_rows(dlse)
    terms = {"offset_bias": offset_bias, "global_bias": global_bias, "slopes": slopes}
    terms = {name: _number_rows(tensor) for name, tensor in terms.items()}
    gradients = [torch.empty_like(x) for x in (q, k, v)]
    biases = [terms["offset_bias"], terms["global_bias"]]
    dbiases = [None if x is None else torch.empty_like(x) for x in biases]
    terms |= dict(zip(("doffset_bias", "dglobal_bias"), dbiases, strict=True))
    sparse_index_kernel_backward(
        *gradients, dout, q, k, v, out, lse, dlse=dlse, **terms, **_options(*options)
    )
    return *gradients, *(q.new_empty(0) if x is None else x for x in dbiases)


def _attend_shapes(q, k, v, *options):
    return _results(_rows(q))


def _attend_backward_shapes(dout, dlse, q, k, v, out, lse, offset_bias, global_bias, *options):
    gradients = [torch.empty_like(_rows(x)) for x in (q, k, v)]
    biases = [_number_rows(x) for x in (offset_bias, global_bias)]
    return *gradients, *(q.new_empty(0) if x is None else torch.empty_like(x) for x in biases)


def _vmap_rule(operator, arrays, folding):
    """Rule for vmap: the first ``arrays`` arguments and ``folding`` results have axes of the batch."""

    def rule(info, in_dims, *args):
        size, given = info.batch_size, args[arrays:]
        if all(not isinstance(x, torch.Tensor) for x in given):  # then one call does, with a larger batch
            folded = [_fold(x, at, size) for x, at in zip(args[:arrays], in_dims, strict=False)]
            results = operator(*folded, *given)
            wide = [x.unflatten(0, (size, len(x) // size)) for x in results[:folding]]
            return (*wide, *results[folding:]), (0,) * folding + (None,) * (len(results) - folding)
        calls = [
            [x if at is None else x.select(at, i) for x, at in zip(args, in_dims, strict=True)]
            for i in range(size)
        ]
        results = zip(*(operator(*call) for call in calls), strict=True)
        results = tuple(map(torch.stack, results))
        return results, (0,) * len(results)

    return rule


def _fold(tensor, at, size):
    tensor = tensor.expand(size, *tensor.shape) if at is None else tensor.movedim(at, 0)
    return tensor.flatten(0, 1)


for _name, _run, _shapes, _arrays, _folding in (
    ("attend", _attend, _attend_shapes, 3, 2),
    ("attend_backward", _attend_backward, _attend_backward_shapes, 7, 3),
):
    for _device in ("CPU", "CUDA"):
        _LIBRARY.impl(_name, _run, _device)
    torch.library.register_fake(f"primeattn::{_name}", _shapes, lib=_LIBRARY)
    _rule = _vmap_rule(getattr(torch.ops.primeattn, _name).default, _arrays, _folding)
    torch.library.register_vmap(f"primeattn::{_name}", _rule, lib=_LIBRARY)
