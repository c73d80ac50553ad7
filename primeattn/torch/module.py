"""The attention layer as a module of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from primeattn.nn import SparseIndexAttention
from primeattn.nn.biases import alibi_slopes
from primeattn.torch.differentiable import attention

if TYPE_CHECKING:
    from torch import Tensor

    from primeattn.typing import Patterns

__all__ = ["SparseAttention"]


class SparseAttention(nn.Module):
    """``[q|k|v] = Wi(x);  y = Wo(concat_h softmax(scale q_h k_h^T, over the pattern) v_h)``

    The module of the layer :class:`primeattn.SparseIndexAttention`, which describes the options.

    Parameters
    ----------
    pattern : Pattern, or sequence of Pattern
        One for all heads, or one per head.
    dims : int
        Size of the last axis of x and y.
    heads : int
        Number of query heads.
    kv_heads, head_dim, scale, rotary, rotary_dims, qk_norm, offset_bias, alibi, softcap, sinks, bias
        As in the layer.
    dropout : float
        As in the layer, in training mode, with seeds from torch's generator.
    device, dtype : optional
        Of the parameters, as in torch's own modules.

    See Also
    --------
    attention : The function behind it.
    primeattn.SparseIndexAttention : The layer of the same parameters.

    Notes
    -----
    The parameters have the names of the layer's: ``Wi`` and ``Wo`` are ``nn.Linear``, ``q_norm`` and
    ``k_norm`` are ``nn.RMSNorm``, and ``sinks``, ``offset_bias`` and ``global_bias`` are tensors.
    `from_torch` and `to_torch` carry them over.

    Examples
    --------
    >>> import torch, primeattn as pa
    >>> module = pa.torch.SparseAttention(pa.Pattern("primes", window=3), 64, heads=4, rotary=10000.0)
    >>> module(torch.randn(2, 100, 64)).shape
    torch.Size([2, 100, 64])
    """

    def __init__(
        self,
        pattern: Patterns,
        dims: int,
        heads: int = 1,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        scale: float | None = None,
        rotary: float | None = None,
        rotary_dims: int | None = None,
        qk_norm: bool = False,
        offset_bias: int | None = None,
        alibi: bool = False,
        softcap: float | None = None,
        dropout: float = 0.0,
        sinks: bool = False,
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.layer = layer = SparseIndexAttention(
            dims,
            pattern,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=scale,
            rotary=rotary,
            rotary_dims=rotary_dims,
            qk_norm=qk_norm,
            offset_bias=offset_bias,
            alibi=alibi,
            softcap=softcap,
            dropout=dropout,
            sinks=sinks,
            bias=bias,
        )
        where = {"device": device, "dtype": dtype}
        self.Wi = nn.Linear(layer.Wi.in_features, layer.Wi.out_features, bias=layer.bias, **where)
        self.Wo = nn.Linear(layer.Wo.in_features, layer.Wo.out_features, bias=layer.bias, **where)
        for linear in (self.Wi, self.Wo):
            nn.init.xavier_uniform_(linear.weight)
            if layer.bias:
                nn.init.zeros_(linear.bias)
        if layer.qk_norm:
            self.q_norm, self.k_norm = (
                nn.RMSNorm(layer.head_dim, eps=layer.norm.eps, **where) for _ in range(2)
            )
        declared = layer.parameters()
        for name in ("sinks", "offset_bias", "global_bias"):
            shape = declared[name].shape if name in declared else None
            self.register_parameter(
                name, None if shape is None else nn.Parameter(torch.zeros(shape, **where))
            )
        slopes = torch.as_tensor(alibi_slopes(heads)).to(self.Wi.weight) if alibi else None
        self.register_buffer("slopes", slopes, persistent=False)
        counts = None
        if layer.offset_bias is not None:
            counts = torch.tensor(layer.offset_counts, device=device)[:, None]
        self.register_buffer("offset_counts", counts, persistent=False)

    def extra_repr(self) -> str:
        return repr(self.layer)

    def forward(self, x: Tensor, cu_seqlens: Any = None) -> Tensor:
        """Return y, of the shape of x.

        Parameters
        ----------
        x : (seq, dims) or (batch, seq, dims) tensor
        cu_seqlens : (sequences + 1,) tensor of integers, optional
            Boundaries of packed sequences in a batch of 1.
        """
        layer = self.layer
        if x.ndim not in (2, 3) or x.shape[-1] != layer.dims:
            raise ValueError(
                f"x: expected shape (seq, {layer.dims}) or (batch, seq, {layer.dims}), got {tuple(x.shape)}"
            )
        length = x.shape[-2]
        qkv = self.Wi(x if x.ndim == 3 else x[None])
        by_head = qkv.unflatten(-1, (-1, layer.head_dim)).transpose(1, 2)
        q, k, v = by_head.split([layer.heads, layer.kv_heads, layer.kv_heads], dim=1)
        if layer.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if layer.rotary is not None:
            cos, sin = _turns(length, cu_seqlens, layer.rotary, layer.rotary_dims, q)
            q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        out, lse = attention(
            q,
            k,
            v,
            layer.pattern,
            scale=layer.scale,
            cu_seqlens=cu_seqlens,
            offset_bias=self._wide_bias(length),
            global_bias=self.global_bias,
            slopes=self.slopes,
            softcap=layer.softcap,
            dropout=layer.dropout if self.training else 0.0,
            dropout_seed=torch.randint(2**63 - 1, ()) if layer.dropout and self.training else 0,
            return_lse=True,
        )
        if layer.sinks:
            out = out * torch.sigmoid(lse - self.sinks[:, None]).to(out.dtype)[..., None]
        return self.Wo(out.transpose(1, 2).flatten(2)).reshape(x.shape)

    def _wide_bias(self, length):
        """The bias of each offset below ``length``, of which there are at most so many."""
        if self.offset_bias is None:
            return None
        at = torch.arange(length, device=self.offset_bias.device)
        return self.offset_bias.gather(1, at.minimum(self.offset_counts - 1))  # all beyond share the last


def _turns(length, cu_seqlens, base, dims, like):
    """Cosines and sines of the angles of positions, (length, dims / 2); see :mod:`primeattn.nn.rotary`."""
    positions = torch.arange(length, device=like.device)
    if cu_seqlens is not None:
        bounds = torch.as_tensor(cu_seqlens, device=like.device)
        positions = positions - bounds[torch.searchsorted(bounds, positions, right=True) - 1]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    exponent = torch.arange(0, dims, 2, device=like.device, dtype=dtype) / dims
    power = (torch.tensor(base, dtype=torch.float64, device=like.device) ** exponent.double()).to(dtype)
    angle = torch.outer(positions.to(dtype), 1 / power)
    return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _turn(x, cos, sin):
    half = cos.shape[-1]
    a, b, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)
