"""Self-attention over a sparse pattern."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, InitVar, dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn import kernels
from primeattn._config import check_callable, freeze_flag, freeze_real, freeze_size
from primeattn.checks import shown
from primeattn.compiled import heads as loops
from primeattn.nn import biases, cache, rotary
from primeattn.nn._buffers import DeviceBuffers, HostBuffers
from primeattn.nn._heads import Columns, by_head
from primeattn.nn._layer import Layer, check_float
from primeattn.nn._parameter import Parameter
from primeattn.nn.dense import Dense
from primeattn.nn.dropout import advanced, generator, random_state
from primeattn.nn.embedding import segment_bounds
from primeattn.nn.initializers import glorot_uniform, zeros
from primeattn.nn.norm import RMSNorm
from primeattn.patterns import Pattern

if TYPE_CHECKING:
    from primeattn.typing import Array, DTypeLike, Memory, Params, Patterns, States, Tree

__all__ = ["SparseIndexAttention"]


@dataclass(frozen=True, repr=False)
class SparseIndexAttention(Layer):
    """``[q|k|v] = Wi(x);  y = Wo(concat_h softmax(scale q_h k_h^T, over the pattern) v_h)``

    Causal self-attention in which each query sees only the keys that ``pattern`` allows (see `Pattern`).

    Parameters
    ----------
    dims : int
        Size of the last axis of x and y; x is (seq, dims) or (batch, seq, dims) of any length.
    pattern : Pattern, or sequence of Pattern
        One for all heads, or one per head.
    heads : int
        Number of query heads.
    kv_heads : int, optional
        Number of key and value heads, a divisor of heads; each serves a group. By default ``heads``.
    head_dim : int, optional
        Features of a query and a key; by default dims / heads, if that is whole.
    v_dim : int, optional
        Features of a value, by default ``head_dim``. The kernel computes with the larger of the two.
    scale : float, optional
        By default 1 / sqrt(head_dim).
    rotary : float, optional
        Base of rotary positions, such as 10000.0: q and k turn by the angles of their positions, "half"
        pairing as in Llama (Su et al., RoFormer, 2021). None: no positions.
    rotary_dims : int, optional
        So many features of a head turn, an even number; by default all.
    qk_norm : bool
        Normalise each row of q and of k by RMSNorm with a learned scale, before positions.
    offset_bias : int, optional
        Learn a number for each head and offset of its pattern up to this distance, added to the score;
        farther offsets share the last. Each global token has one of its own. All are 0 at the start.
    alibi : bool
        Scores fall with the distance, by the slopes of ALiBi (Press et al., 2022).
    softcap : float, optional
        Scores before biases stay between -softcap and softcap: ``softcap tanh(s / softcap)``, as in Gemma 2.
    dropout : float
        Probability, in [0, 1), that a weight of a pair is dropped in training mode; the others are divided by
        1 - dropout.
    sinks : bool
        One learned logit per query head joins the denominator of its softmax: attention may go nowhere.
    bias : bool
        Whether Wi and Wo have a bias.
    init : callable
        Initialiser of both weights, ``f(rng, shape, dtype)``.
    device : {None, "cpu", "auto", "cuda"}
        Where the kernel runs. With "cuda", q, k, v, out and lse stay on the GPU until the pullback, and keys
        and values of a cache (`with_cache`) as long as its state.
    seq_len_max : None
        Refused: a pattern has no longest length.

    See Also
    --------
    PrimeSelfAttention : Over one sequence, with window and global tokens.
    primeattn.sparse_index_kernel : The kernel, with the formula.
    primeattn.with_cache : Text token by token.

    Notes
    -----
    ps = {"Wi": {"weight": (dims, (heads + kv_heads) head_dim + kv_heads v_dim)}, "Wo": {"weight": (heads
    v_dim, dims)}}, with "bias" in both if ``bias``, and

    - "q_norm" and "k_norm", {"scale": (head_dim,)}, if ``qk_norm``,
    - "sinks" (heads,) if ``sinks``,
    - "offset_bias" (heads, most offsets up to that distance), and "global_bias" (heads, most global tokens)
      if there are any, if ``offset_bias``.

    The columns of Wi are [q | k | v], each split by heads. st holds the boundaries of packed sequences, which
    attention does not cross (`with_segments`); with ``dropout`` also "rng" and "training", as in `Dropout`. A
    batch padded on the right needs no mask, since no token sees later ones.

    A variant of your own derives from this class and overrides `prepare`, to change q, k and v before the
    kernel, or `finish`, to change what comes out of it, each together with its backward.

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
    pattern: Patterns
    _: KW_ONLY
    heads: int = 1
    kv_heads: int | None = None
    head_dim: int | None = None
    v_dim: int | None = None
    scale: float | None = None
    rotary: float | None = None
    rotary_dims: int | None = None
    qk_norm: bool = False
    offset_bias: int | None = None
    alibi: bool = False
    softcap: float | None = None
    dropout: float = 0.0
    sinks: bool = False
    bias: bool = False
    init: Callable = glorot_uniform
    device: str | None = None
    seq_len_max: InitVar[None] = None

    def __post_init__(self, seq_len_max: None) -> None:
        name = type(self).__name__
        if seq_len_max is not None:
            raise TypeError(f"{name}: seq_len_max is not needed: any length")
        freeze_size(self, "dims")
        freeze_size(self, "heads")
        if self.head_dim is None:
            if self.dims % self.heads:
                raise ValueError(
                    f"{name}: heads must divide dims, got heads={self.heads}, dims={self.dims}; or give "
                    "head_dim"
                )
            object.__setattr__(self, "head_dim", self.dims // self.heads)
        freeze_size(self, "head_dim")
        if self.v_dim is None:
            object.__setattr__(self, "v_dim", self.head_dim)
        freeze_size(self, "v_dim")
        if self.scale is not None:
            freeze_real(self, "scale", 0)
        rotary.freeze_options(self)
        freeze_flag(self, "qk_norm")
        freeze_flag(self, "sinks")
        freeze_flag(self, "alibi")
        if self.offset_bias is not None:
            freeze_size(self, "offset_bias", minimum=0)
        if self.softcap is not None:
            freeze_real(self, "softcap", 0)
            if self.softcap == 0:
                raise ValueError(f"{name}: softcap must be above 0, got 0")
        freeze_real(self, "dropout", 0, 1)
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
                raise TypeError(f"{name}: pattern must be a Pattern or one per head, got {shown(pattern)}")
        if len(per_head) != self.heads:
            raise ValueError(f"{name}: expected one pattern or {self.heads} of them, got {len(per_head)}")

    def default(self, field: Any) -> Any:
        derived = {"kv_heads": self.heads, "v_dim": self.head_dim}
        derived["rotary_dims"] = self.head_dim if self.rotary else None
        if self.dims % self.heads == 0:
            derived["head_dim"] = self.dims // self.heads
        return derived.get(field.name, field.default)

    def pattern_of(self, head: int) -> Pattern:
        """Return the pattern of one query head."""
        return self.pattern[head] if isinstance(self.pattern, tuple) else self.pattern

    @cached_property
    def Wi(self) -> Dense:
        """The layer that makes q, k and v."""
        return Dense(self.dims, self._columns.width, bias=self.bias, init=self.init)

    @cached_property
    def Wo(self) -> Dense:
        """The layer that makes y."""
        return Dense(self.heads * self.v_dim, self.dims, bias=self.bias, init=self.init)

    @cached_property
    def _patterns(self):
        return tuple(self.pattern_of(head) for head in range(self.heads))

    @cached_property
    def offset_counts(self) -> tuple[int, ...]:
        """Offsets of each head that have a bias of their own."""
        return tuple(pattern.offsets(self.offset_bias + 1).size for pattern in self._patterns)

    @cached_property
    def norm(self) -> Any:
        """The layer that normalises the rows of q; that for k is like it."""
        return RMSNorm(self.head_dim)

    def parameters(self) -> Tree:
        declared = {"Wi": self.Wi.parameters(), "Wo": self.Wo.parameters()}
        if self.qk_norm:
            declared |= {"q_norm": self.norm.parameters(), "k_norm": self.norm.parameters()}
        if self.sinks:
            declared["sinks"] = Parameter((self.heads,), zeros)
        if self.offset_bias is not None:
            declared["offset_bias"] = Parameter((self.heads, max(self.offset_counts)), zeros)
            if most := max(pattern.global_tokens for pattern in self._patterns):
                declared["global_bias"] = Parameter((self.heads, most), zeros)
        return declared

    def states(self, rng: np.random.Generator) -> States:
        return {"cu_seqlens": None} | (random_state(rng) if self.dropout else {})

    def check_input(self, x: Array, ps: Params) -> None:
        check_float(self, x, ps, self.dims, ranks=(2, 3))

    @cached_property
    def _columns(self):
        return Columns(self.heads, self.kv_heads, self.head_dim, self.v_dim)

    def _rows(self, attended):
        return (by_head(attended, self._columns.of_kernel.v_dim),)

    def _numbers(self, lse):
        return (lse,)

    def prepare(self, q: Array, k: Array, v: Array, ps: Params, positions: Array, memory: Memory) -> Any:
        """Change q (batch, heads, seq, head_dim), k and v (batch, kv_heads, seq, head_dim or v_dim) in place.

        Here: normalise, then turn. ``positions`` (batch or 1, seq) are those of the rows. Returns what
        ``prepare_backward`` needs.
        """
        saved = []
        if self.qk_norm:
            for x, name in ((q, "q_norm"), (k, "k_norm")):
                rows = memory.copy(x.transpose(0, 2, 1, 3))
                normed, _, of_norm = self.norm.forward(rows, ps[name], {}, memory)
                np.copyto(x, normed.transpose(0, 2, 1, 3))
                saved.append(of_norm)
        if self.rotary is not None:
            for x in (q, k):
                rotary.rotate(x, positions, self.rotary, self.rotary_dims)
        return saved, positions

    def prepare_backward(
        self, dq: Array, dk: Array, dv: Array, saved: Any, ps: Params, memory: Memory
    ) -> Params:
        """Turn the gradients of what `prepare` made into those of what it was given, in place.

        Returns the gradients of the parameters that it used, as a dict.
        """
        of_norms, positions = saved
        dps = {}
        if self.rotary is not None:
            for dx in (dq, dk):
                rotary.rotate(dx, positions, self.rotary, self.rotary_dims, inverse=True)
        if self.qk_norm:
            for dx, name, of_norm in zip((dq, dk), ("q_norm", "k_norm"), of_norms, strict=True):
                rows = memory.copy(dx.transpose(0, 2, 1, 3))
                back, dps[name] = self.norm.backward(rows, of_norm, ps[name], memory)
                np.copyto(dx, back.transpose(0, 2, 1, 3))
        return dps

    def finish(self, out: Array, lse: Array, ps: Params, memory: Memory) -> tuple[Array, Any]:
        """Return what replaces out (batch, seq, heads, v_dim), and what ``finish_backward`` needs.

        out and lse (batch, heads, seq) must stay as they are. Here: a sink takes its share of the weight,
        ``out * sigmoid(lse - sink)``.
        """
        if not self.sinks:
            return out, None
        result = memory.take(out.shape, out.dtype)
        for b in range(len(out)):
            loops.weigh(out[b], lse[b], ps["sinks"], result[b])
        return result, (out, lse)

    def finish_backward(
        self, dresult: Array, saved: Any, ps: Params, memory: Memory
    ) -> tuple[Array, Array | None, Params]:
        """Return the gradients of out, of lse (None if it was not used), and of parameters, as a dict."""
        if not self.sinks:
            return dresult, None, {}
        out, lse = saved
        dout, dlse = memory.take(out.shape, out.dtype), memory.take(lse.shape, lse.dtype)
        sums, dsinks = memory.take((self.heads,), np.float64), memory.take((self.heads,), out.dtype)
        sums.fill(0)
        for b in range(len(out)):
            loops.weigh_backward(dresult[b], out[b], lse[b], ps["sinks"], dout[b], dlse[b], sums)
        dsinks[...] = sums
        return dout, dlse, {"sinks": dsinks}

    def with_cache(self, st: States, start: Array, capacity: int, dtype: DTypeLike) -> States:
        columns = self._columns.of_kernel
        rows = self._buffers.cache_rows(columns, start, capacity, dtype)
        return {**st, "cache": cache.begin(start, capacity, columns.kv_heads, columns.head_dim, **rows)}

    def _dropout(self, st):
        """Options of the kernel for dropout, and the state after it."""
        if not self.dropout or not st["training"]:
            return {}, st
        seed = int(generator(self, st).integers(0, 2**64, dtype=np.uint64))
        return {"dropout": self.dropout, "dropout_seed": seed}, advanced(st)

    def _check_cache(self, kept, dtype):
        rows = kept.get(self._buffers.in_cache)
        if rows is None:
            raise ValueError(
                f"{type(self).__name__}: the cache was made for another device, not for {self.device!r}; "
                "see with_cache"
            )
        if rows.dtype != dtype:
            raise TypeError(
                f"{type(self).__name__}: the cache is {rows.dtype} but x is {dtype}; see dtype of with_cache"
            )

    def _place(self, st, shape, dtype, memory):
        """Positions of the tokens, (batch or 1, seq), and the state after them."""
        if "cache" in st:
            self._check_cache(st["cache"], dtype)
            columns = self._columns.of_kernel
            return cache.advance(self, st, shape, memory, columns.kv_heads, columns.head_dim)
        if st["cu_seqlens"] is None:
            return _count(shape[1]), st
        bounds = segment_bounds(self, st, shape)
        return _count(shape[1]) - np.repeat(bounds[:-1], np.diff(bounds)), st

    @property
    def _buffers(self):
        return DeviceBuffers if self.device == "cuda" else HostBuffers

    def _seen(self, buffers, source, positions, st):
        """q, the keys and values that it may see, and options that say where they are."""
        columns = self._columns.of_kernel
        q, k, v = buffers.views(source, columns.split)
        if "cache" not in st:
            return q, k, v, {"cu_seqlens": st["cu_seqlens"]}
        kept, end = st["cache"], max(int(positions.max(initial=-1)) + 1, 0)
        buffers.append(kept, source, columns, positions)
        return q, *buffers.kept(kept, columns, end), {"q_start": positions.min(axis=1, initial=end)}

    def _kernel(self, function, *arrays, memory, **options):
        device = None if self.device == "cuda" else self.device  # "cuda": they are there already
        scale = 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale
        options |= {"scale": scale, "device": device}
        function(*arrays, self.pattern, workspace=memory.workspace, **options)

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        buffers = self._buffers(memory)
        qkv, _, saved_i = self.Wi.forward(x if x.ndim == 3 else x[None], ps["Wi"], {}, memory)
        batch, seq, _ = qkv.shape
        positions, st = self._place(st, (batch, seq), x.dtype, memory)
        columns, of_kernel = self._columns, self._columns.of_kernel
        prepared = self.prepare(*columns.split(qkv), ps, positions, memory)
        attended = memory.take((batch, seq, self.heads * of_kernel.v_dim), x.dtype)
        lse = memory.take((batch, self.heads, seq), x.dtype)
        source = buffers.copy_of(columns.fit(qkv, memory))
        result, numbers = buffers.place_for(attended), buffers.place_for(lse)
        outputs = *buffers.views(result, self._rows), *buffers.views(numbers, self._numbers)
        q, k, v, options = self._seen(buffers, source, positions, st)
        dropout, st = self._dropout(st)
        cached = "cache" in st
        terms = biases.terms(self, ps, k.shape[2] if cached else seq, x.dtype, memory, growing=cached)
        options |= dropout | buffers.options(terms)
        self._kernel(kernels.sparse_index_kernel, *outputs, q, k, v, memory=memory, **options)
        if not cached:
            memory.attended(q, k, outputs[1], st["cu_seqlens"])
        buffers.fetch(attended, result)
        buffers.fetch(lse, numbers)
        out = columns.unfit_out(attended, memory)
        finished, saved_f = self.finish(out.reshape(batch, seq, self.heads, self.v_dim), lse, ps, memory)
        y, _, saved_o = self.Wo.forward(finished.reshape(out.shape), ps["Wo"], {}, memory)
        saved = saved_i, prepared, source, result, numbers, options, saved_f, saved_o
        return y.reshape(x.shape), st, saved

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        buffers = self._buffers(memory)
        saved_i, prepared, fitted, attended, lse, options, saved_f, saved_o = saved
        dfinished, dps_o = self.Wo.backward(dy if dy.ndim == 3 else dy[None], saved_o, ps["Wo"], memory)
        batch, seq, width = dfinished.shape
        columns, of_kernel = self._columns, self._columns.of_kernel
        dfinished = dfinished.reshape(batch, seq, self.heads, self.v_dim)
        dout, dlse, dps_f = self.finish_backward(dfinished, saved_f, ps, memory)
        dattended = columns.fit_out(dout.reshape(batch, seq, width), memory)
        gradients = biases.term_gradients(options, memory)
        places = {name: buffers.place_for(array) for name, array in gradients.items()}
        options = options | {name: buffers.whole(place) for name, place in places.items()}
        if dlse is not None:
            [options["dlse"]] = buffers.views(buffers.copy_of(dlse), self._numbers)
        dfitted = memory.take((batch, seq, of_kernel.width), dfinished.dtype)
        result = buffers.place_for(dfitted)
        self._kernel(
            kernels.sparse_index_kernel_backward, *buffers.views(result, of_kernel.split),
            *buffers.views(buffers.copy_of(dattended), self._rows), *buffers.views(fitted, of_kernel.split),
            *buffers.views(attended, self._rows), *buffers.views(lse, self._numbers),
            memory=memory, **options,
        )  # fmt: skip
        buffers.fetch(dfitted, result)
        for name, place in places.items():
            buffers.fetch(gradients[name], place)
        dqkv = columns.unfit(dfitted, memory)
        dps_p = self.prepare_backward(*columns.split(dqkv), prepared, ps, memory)
        dx, dps_i = self.Wi.backward(dqkv, saved_i, ps["Wi"], memory)
        dps = {"Wi": dps_i, "Wo": dps_o} | dps_p | dps_f
        dps |= biases.learned_gradients(self, gradients, ps, memory)
        return dx.reshape(dy.shape), {name: dps[name] for name in ps}


@lru_cache(8)
def _count(length):
    """Positions 0, 1, 2, ... of one entry of a batch."""
    positions = np.arange(length)[None]
    positions.flags.writeable = False
    return positions
