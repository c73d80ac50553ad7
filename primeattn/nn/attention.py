"""Self-attention layers over sparse patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, InitVar, dataclass, field
from functools import cached_property
from typing import ClassVar

from primeattn import kernels
from primeattn._config import check_callable, freeze_flag, freeze_size
from primeattn.nn._buffers import DeviceBuffers, HostBuffers
from primeattn.nn._layer import Layer, check_float
from primeattn.nn.dense import Dense
from primeattn.nn.initializers import glorot_uniform
from primeattn.patterns import Pattern

__all__ = ["MianChowlaSelfAttention", "PrimeSelfAttention", "SparseIndexAttention", "SquareSelfAttention"]


@dataclass(frozen=True, repr=False)
class SparseIndexAttention(Layer):
    """``[q|k|v] = Wi(x);  y = Wo(concat_h softmax(q_h k_h^T / sqrt(head_dim), over the pattern) v_h)``

    Causal self-attention in which each query sees only the keys that ``pattern`` allows (see `Pattern`).

    Parameters
    ----------
    dims : int
        Size of the last axis of x and y; x is (seq, dims) or (batch, seq, dims) of any length.
    pattern : Pattern, or sequence of Pattern
        One for all heads, or one per head.
    heads : int
        Number of query heads, a divisor of dims; head_dim = dims / heads.
    kv_heads : int, optional
        Number of key and value heads, a divisor of heads; each serves a group. By default ``heads``.
    bias : bool
        Whether Wi and Wo have a bias.
    init : callable
        Initialiser of both weights, ``f(rng, shape, dtype)``.
    device : {None, "cpu", "auto", "cuda"}
        Where the kernel runs. With "cuda", q, k, v, out and lse stay on the GPU until the pullback.

    Notes
    -----
    ps = {"Wi": {"weight": (dims, (heads + 2 kv_heads) head_dim)}, "Wo": {"weight": (dims, dims)}}, with
    "bias" in both if ``bias``. The columns of Wi are [q | k | v], each split by heads. st holds the
    boundaries of packed sequences, which attention does not cross (`with_segments`). A batch padded on the
    right needs no mask, since no token sees later ones.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> layer = pa.SparseIndexAttention(8, pa.Pattern("squares", window=1), heads=2)
    >>> rng = np.random.default_rng(0)
    >>> ps, st = pa.setup(rng, layer)
    >>> y, st = layer(rng.standard_normal((3, 16, 8), dtype=np.float32), ps, st)
    >>> y.shape, layer.parameter_count
    ((3, 16, 8), 256)
    """

    dims: int
    pattern: Pattern | tuple[Pattern, ...]
    _: KW_ONLY
    heads: int = 1
    kv_heads: int | None = None
    bias: bool = False
    init: Callable = glorot_uniform
    device: str | None = None
    seq_len_max: InitVar[None] = None

    def __post_init__(self, seq_len_max):
        name = type(self).__name__
        if seq_len_max is not None:
            raise TypeError(f"{name}: seq_len_max is not needed: any length")
        freeze_size(self, "dims")
        freeze_size(self, "heads")
        if self.dims % self.heads:
            raise ValueError(f"{name}: heads must divide dims, got heads={self.heads}, dims={self.dims}")
        if self.kv_heads is None:
            object.__setattr__(self, "kv_heads", self.heads)
        freeze_size(self, "kv_heads")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{name}: kv_heads must divide heads, got kv_heads={self.kv_heads}, heads={self.heads}"
            )
        freeze_flag(self, "bias")
        check_callable(self, "init")
        if self.device not in (None, "cpu", "auto", "cuda"):
            raise ValueError(f"{name}: device must be None, 'cpu', 'auto' or 'cuda', got {self.device!r}")
        if isinstance(self.pattern, list):
            object.__setattr__(self, "pattern", tuple(self.pattern))
        per_head = self.pattern if isinstance(self.pattern, tuple) else (self.pattern,) * self.heads
        for pattern in per_head:
            if not isinstance(pattern, Pattern):
                raise TypeError(f"{name}: pattern must be a Pattern or one per head, got {pattern!r}")
        if len(per_head) != self.heads:
            raise ValueError(f"{name}: expected one pattern or {self.heads} of them, got {len(per_head)}")

    def default(self, field):
        return self.heads if field.name == "kv_heads" else field.default

    @property
    def head_dim(self):
        return self.dims // self.heads

    def pattern_of(self, head) -> Pattern:
        """Return the pattern of one query head."""
        return self.pattern[head] if isinstance(self.pattern, tuple) else self.pattern

    @cached_property
    def Wi(self):
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        return Dense(self.dims, width, bias=self.bias, init=self.init)

    @cached_property
    def Wo(self):
        return Dense(self.dims, self.dims, bias=self.bias, init=self.init)

    def parameters(self):
        return {"Wi": self.Wi.parameters(), "Wo": self.Wo.parameters()}

    def states(self, rng):
        return {"cu_seqlens": None}

    def check_input(self, x, ps):
        check_float(self, x, ps, self.dims, ranks=(2, 3))

    def _by_head(self, array):
        """(batch, seq, heads * head_dim) seen as (batch, heads, seq, head_dim), without a copy."""
        batch, seq, width = array.shape
        return array.reshape(batch, seq, width // self.head_dim, self.head_dim).transpose(0, 2, 1, 3)

    def _split(self, qkv):
        """Views of the columns [q | k | v], each by head."""
        by_head, h, g = self._by_head(qkv), self.heads, self.kv_heads
        return by_head[:, :h], by_head[:, h : h + g], by_head[:, h + g :]

    def _rows(self, attended):
        return (self._by_head(attended),)

    def _numbers(self, lse):
        return (lse,)

    def _kernel(self, function, *arrays, segments, memory):
        device = None if self.device == "cuda" else self.device  # "cuda": they are there already
        function(*arrays, self.pattern, cu_seqlens=segments, workspace=memory.workspace, device=device)
        if function is kernels.sparse_index_kernel:
            _, lse, q, k, _ = arrays
            memory.attended(q, k, lse, segments)

    def forward(self, x, ps, st, memory):
        buffers = DeviceBuffers(memory) if self.device == "cuda" else HostBuffers(memory)
        segments = st["cu_seqlens"]
        qkv, _, saved_i = self.Wi.forward(x if x.ndim == 3 else x[None], ps["Wi"], {}, memory)
        attended = memory.take((*qkv.shape[:2], self.dims), x.dtype)
        source, result = buffers.copy_of(qkv), buffers.place_for(attended)
        lse = buffers.take((qkv.shape[0], self.heads, qkv.shape[1]), x.dtype)
        outputs = *buffers.views(result, self._rows), *buffers.views(lse, self._numbers)
        inputs = buffers.views(source, self._split)
        self._kernel(kernels.sparse_index_kernel, *outputs, *inputs, segments=segments, memory=memory)
        buffers.fetch(attended, result)
        y, _, saved_o = self.Wo.forward(attended, ps["Wo"], {}, memory)
        return y.reshape(x.shape), st, (saved_i, source, result, lse, segments, saved_o)

    def backward(self, dy, saved, ps, memory):
        buffers = DeviceBuffers(memory) if self.device == "cuda" else HostBuffers(memory)
        saved_i, qkv, attended, lse, segments, saved_o = saved
        dattended, dps_o = self.Wo.backward(dy if dy.ndim == 3 else dy[None], saved_o, ps["Wo"], memory)
        batch, seq, _ = dattended.shape
        dqkv = memory.take((batch, seq, self.Wi.out_features), dattended.dtype)
        result = buffers.place_for(dqkv)
        self._kernel(
            kernels.sparse_index_kernel_backward, *buffers.views(result, self._split),
            *buffers.views(buffers.copy_of(dattended), self._rows), *buffers.views(qkv, self._split),
            *buffers.views(attended, self._rows), *buffers.views(lse, self._numbers),
            segments=segments, memory=memory,
        )  # fmt: skip
        buffers.fetch(dqkv, result)
        dx, dps_i = self.Wi.backward(dqkv, saved_i, ps["Wi"], memory)
        return dx.reshape(dy.shape), {"Wi": dps_i, "Wo": dps_o}


@dataclass(frozen=True, repr=False)
class _SequenceSelfAttention(SparseIndexAttention):
    sequence: ClassVar[str]

    pattern: Pattern = field(init=False, compare=False)
    _: KW_ONLY
    window: int = 3
    global_tokens: int = 2

    def __post_init__(self, seq_len_max):
        freeze_size(self, "window", minimum=0)
        freeze_size(self, "global_tokens", minimum=0)
        pattern = Pattern(self.sequence, window=self.window, global_tokens=self.global_tokens)
        object.__setattr__(self, "pattern", pattern)
        super().__post_init__(seq_len_max)


@dataclass(frozen=True, repr=False)
class PrimeSelfAttention(_SequenceSelfAttention):
    """`SparseIndexAttention` over ``Pattern("primes", window=window, global_tokens=global_tokens)``.

    Parameters
    ----------
    dims : int
        Size of the last axis of x and y.
    heads, kv_heads, bias, init, device
        As in `SparseIndexAttention`.
    window : int
        Number of tokens just before a query that it sees, 3 by default.
    global_tokens : int
        Number of leading tokens that every query sees, 2 by default.

    Examples
    --------
    >>> import primeattn as pa
    >>> layer = pa.PrimeSelfAttention(64, heads=4, window=3)
    >>> layer
    PrimeSelfAttention(64, heads=4)
    >>> layer.pattern.offsets(12)
    array([ 0,  1,  2,  3,  5,  7, 11])
    """

    sequence = "primes"


@dataclass(frozen=True, repr=False)
class SquareSelfAttention(_SequenceSelfAttention):
    """As `PrimeSelfAttention`, with the squares 1, 4, 9, 16, ... (OEIS A000290).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.SquareSelfAttention(64).pattern.offsets(17)
    array([ 0,  1,  2,  3,  4,  9, 16])
    """

    sequence = "squares"


@dataclass(frozen=True, repr=False)
class MianChowlaSelfAttention(_SequenceSelfAttention):
    """As `PrimeSelfAttention`, with the Mian-Chowla sequence 1, 2, 4, 8, 13, ... (OEIS A005282).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.MianChowlaSelfAttention(64).pattern.offsets(22)
    array([ 0,  1,  2,  3,  4,  8, 13, 21])
    """

    sequence = "mian_chowla"
