"""Attention with gradients: two nested autograd Functions around the operators.

The outer one has the gradients, the inner one refuses theirs. Both are in the form that transformations such
as ``torch.func.grad`` and ``vmap`` need; that form has no forward mode, which therefore raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function

from primeattn.checks import as_int, is_real
from primeattn.torch.operators import attend, attend_backward, pattern_text

if TYPE_CHECKING:
    from torch import Tensor

    from primeattn.typing import AnyArray, Patterns

__all__ = ["attention"]


# The arguments are spelled out below, as torch.compile does not follow ``*args`` here.
class _Attend(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        q, k, v, offset_bias, global_bias, slopes, q_start, k_start, cu_seqlens, dropout_seed,
        pattern, scale, softcap, dropout,
    ):  # fmt: skip
        return attend(
            q, k, v, offset_bias, global_bias, slopes, q_start, k_start, cu_seqlens, dropout_seed,
            pattern, scale, softcap, dropout,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx, inputs, output):
        q, k, v, *tensors = inputs[:10]
        ctx.save_for_backward(q, k, v, *output, *tensors)
        ctx.pattern, ctx.scale, ctx.softcap, ctx.dropout = inputs[10:]

    @staticmethod
    def backward(ctx, dout, dlse):
        (
            q, k, v, out, lse, offset_bias, global_bias, slopes, q_start, k_start, cu_seqlens, dropout_seed,
        ) = ctx.saved_tensors  # fmt: skip
        dq, dk, dv, doffset_bias, dglobal_bias = _AttendBackward.apply(
            dout, dlse, q, k, v, out, lse, offset_bias, global_bias, slopes, q_start, k_start, cu_seqlens,
            dropout_seed, ctx.pattern, ctx.scale, ctx.softcap, ctx.dropout,
        )  # fmt: skip
        doffset_bias = None if offset_bias is None else doffset_bias
        dglobal_bias = None if global_bias is None else dglobal_bias
        return (
            dq, dk, dv, doffset_bias, dglobal_bias, None, None, None, None, None, None, None, None, None,
        )  # fmt: skip


class _AttendBackward(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        dout, dlse, q, k, v, out, lse, offset_bias, global_bias, slopes, q_start, k_start, cu_seqlens,
        dropout_seed, pattern, scale, softcap, dropout,
    ):  # fmt: skip
        return attend_backward(
            dout, dlse, q, k, v, out, lse, offset_bias, global_bias, slopes, q_start, k_start, cu_seqlens,
            dropout_seed, pattern, scale, softcap, dropout,
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *gradients):
        raise RuntimeError("primeattn.torch.attention has no second derivatives")


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Patterns,
    *,
    scale: float | None = None,
    q_start: int | AnyArray = 0,
    k_start: int | AnyArray = 0,
    cu_seqlens: AnyArray | None = None,
    offset_bias: AnyArray | None = None,
    global_bias: AnyArray | None = None,
    slopes: AnyArray | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    dropout_seed: int | Tensor = 0,
    return_lse: bool = False,
) -> Any:
    """Sparse causal attention with gradients of q, k, v, offset_bias, global_bias, also through lse.

    out and lse are those of :func:`primeattn.sparse_index_kernel`, where the formula is.

    Works with ``torch.compile(fullgraph=True)``, ``torch.export``, ``torch.func`` (``grad``, ``vmap``,
    ``jacrev``) and checkpointing. Second derivatives and forward mode raise an error.

    Parameters
    ----------
    q : (batch, heads, n_q, head_dim) tensor
        On the CPU or a GPU; float32, float64, float16 or bfloat16 (computed in float32). Under
        ``torch.autocast``, tensors of floats other than float64 are cast to its dtype first, as in torch's
        own attention. Any strides.
    k, v : (batch, kv_heads, n_k, head_dim) tensors
        Like q in dtype and device.
    pattern : Pattern or sequence of Pattern
        One, or one per query head. It must be one that JSON can hold: not of a plain callable.
    scale : float, optional
        By default 1 / sqrt(head_dim).
    q_start, k_start : int, or (batch,) tensor or array of integers
        Positions of the first query and the first key.
    cu_seqlens : (sequences + 1,) tensor or array of integers, optional
        Boundaries of packed sequences in a batch of 1.
    offset_bias, global_bias, slopes : tensors, optional
        Of the dtype of q; slopes has no gradient.
    softcap : float, optional
        Bound of the scores before biases.
    dropout : float
        Probability that a pair is dropped.
    dropout_seed : int, or () tensor of int64
        Says which.
    return_lse : bool
        Whether to return lse, too.

    Returns
    -------
    out : tensor like q
        The attention of each query.
    lse : (batch, heads, n_q) tensor
        Only with ``return_lse``; float64 if q is, else float32.

    Raises
    ------
    TypeError, ValueError
        As in the kernel; also where slopes requires a gradient.
    RuntimeError
        For second derivatives.

    See Also
    --------
    SparseAttention : A module with projections.
    primeattn.sparse_index_kernel : The formula, and all that options mean.

    Examples
    --------
    >>> import torch, primeattn as pa
    >>> q, k, v = torch.randn(3, 1, 2, 100, 16).requires_grad_()
    >>> out = pa.torch.attention(q, k, v, pa.Pattern("primes", window=3))
    >>> out.shape
    torch.Size([1, 2, 100, 16])
    >>> [gradient.shape == q.shape for gradient in torch.autograd.grad(out.sum(), (q, k, v))]
    [True, True, True]
    """
    tensors = {"q": q, "k": k, "v": v}
    terms = {"offset_bias": offset_bias, "global_bias": global_bias, "slopes": slopes}
    for name, tensor in terms.items():
        if tensor is not None:
            tensors[name] = tensor
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}: expected a torch tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name}: expected a tensor of floats, got {tensor.dtype}")
        if tensor.device != q.device:
            raise ValueError(f"{name}: expected a tensor on {q.device} as q is, got one on {tensor.device}")
    if slopes is not None and slopes.requires_grad and torch.is_grad_enabled():
        raise ValueError("slopes: expected a tensor that requires no gradient, as there is none")
    if q.device.type != "meta" and torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.dtype != torch.float64:
                tensors[name] = tensor.to(dtype)
    dtype = tensors["q"].dtype
    for name, tensor in tensors.items():
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: expected the dtype of q, {dtype}, got {tensor.dtype}")
    if isinstance(pattern, (tuple, list)):
        text = "\n".join([pattern_text(one) for one in pattern])
    else:
        text = pattern_text(pattern)
    arguments = (
        *(tensors.get(name) for name in ("q", "k", "v", "offset_bias", "global_bias", "slopes")),
        None if type(q_start) is int and q_start == 0 else _own(q_start),
        None if type(k_start) is int and k_start == 0 else _own(k_start),
        None if cu_seqlens is None else _own(cu_seqlens),
        _seed(dropout_seed) if dropout else None,
    )
    scale = None if scale is None else _number("scale", scale)
    softcap = None if softcap is None else _number("softcap", softcap)
    out, lse = _Attend.apply(*_distinct(arguments), text, scale, softcap, _number("dropout", dropout))
    return (out, lse) if return_lse else out


def _distinct(tensors):
    """Return the tensors as different objects, as torch.compile takes none twice: k may be v, say."""
    seen = []
    for tensor in tensors:
        again = tensor is not None and any(tensor is other for other in seen)
        seen.append(tensor.view_as(tensor) if again else tensor)
    return seen


def _own(integers):
    """A tensor that does not change unnoticed before the backward, as a NumPy array may."""
    return integers if isinstance(integers, torch.Tensor) else torch.tensor(integers)


def _number(name, value):
    if not is_real(value):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    return float(value)


def _seed(seed):
    if isinstance(seed, torch.Tensor):
        if seed.dtype != torch.int64 or seed.ndim:
            raise ValueError(
                f"dropout_seed: expected one int64, got {seed.dtype} of shape {tuple(seed.shape)}"
            )
        return seed
    seed = as_int("dropout_seed", seed, minimum=0, maximum=2**64 - 1)
    return torch.tensor(seed - 2**64 if seed >= 2**63 else seed)
