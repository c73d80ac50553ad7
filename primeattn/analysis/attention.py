"""The attention that a layer computes: its probabilities, and how spread they are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.analysis.rules import as_map
from primeattn.checks import as_int
from primeattn.kernels.arguments import as_boundaries
from primeattn.nn._memory import Memory
from primeattn.nn.attention import SparseIndexAttention
from primeattn.nn.biases import alibi_slopes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from primeattn.typing import Array, Params, States

__all__ = ["attention_map", "entropy"]

_NUMBERS = 2**22  # in a temporary array: 16 MiB of float32


def attention_map(
    layer: SparseIndexAttention, x: Array, ps: Params, st: States, head: int, *, batch: int = 0
) -> csr_matrix:
    """Return the attention probabilities of one head as a sparse matrix,

        p_ij = exp(s_ij) / sum of the same over keys(i),    j in keys(i),

    where s_ij is scale q_i·k_j with the layer's soft cap and biases, of the q and k that it gives to its
    kernel. It stores all pairs of the head's pattern (within the packed sequences of ``st``, if any) and
    no others, even where p underflows to 0. Apart from a call of the layer and the result, temporary
    memory is bounded.

    Parameters
    ----------
    layer : SparseIndexAttention
        Such as PrimeSelfAttention, or a subclass that computes scores in the same way.
    x : float array (seq, dims) or (batch, seq, dims)
        Input of the layer; ``attention_calls`` finds it in a model.
    ps, st : nested dicts
        Parameters and state of the layer.
    head : int
        Query head, from 0.
    batch : int
        Entry of the batch, from 0.

    Returns
    -------
    scipy.sparse.csr_matrix (seq, seq)
        In the dtype of x, indices sorted. Rows sum to 1, or to what a sink leaves.

    Raises
    ------
    ValueError
        If the layer does not compute its attention in this way: it does not call the kernel through
        SparseIndexAttention exactly once, or has other scores.

    See Also
    --------
    primeattn.plot.attention_map : A picture of it.
    attention_calls : What a model calls its attention layers with.
    entropy : How spread it is.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> layer = pa.PrimeSelfAttention(16, heads=2)
    >>> rng = np.random.default_rng(0)
    >>> ps, st = pa.setup(rng, layer)
    >>> p = pa.analysis.attention_map(layer, rng.standard_normal((100, 16), dtype=np.float32), ps, st, head=1)
    >>> p.nnz == layer.pattern.num_pairs(100), np.allclose(p.sum(axis=1), 1)
    (True, True)
    """
    if not isinstance(layer, SparseIndexAttention):
        raise TypeError(f"layer: expected a SparseIndexAttention, got {type(layer).__name__}")
    layer.check(x, ps, st)
    head = _index("head", head, layer.heads)
    batch = _index("batch", batch, len(x) if x.ndim == 3 else 1)
    if x.ndim == 3:
        if st["cu_seqlens"] is not None and len(x) != 1:
            raise ValueError(f"x: expected a batch of 1 with packed sequences, got {len(x)}")
        x = x[batch]
    if len(x) == 0:
        raise ValueError(f"x: expected at least one token, got shape {x.shape}")
    p = _structure(layer.pattern_of(head), len(x), st["cu_seqlens"]).astype(x.dtype)
    q, k, lse = _as_computed(layer, x, ps, st, head)
    bounds = np.array([0, len(x)]) if st["cu_seqlens"] is None else st["cu_seqlens"]
    place = np.arange(len(x)) - np.repeat(bounds[:-1], np.diff(bounds))
    rows_of_part = np.searchsorted(p.indptr, np.arange(0, p.nnz, max(_NUMBERS // layer.head_dim, 1)))
    rows_of_part = np.unique(np.append(rows_of_part, len(x)))
    for begin, end in pairwise(rows_of_part.tolist()):
        part = slice(p.indptr[begin], p.indptr[end])
        counts = np.diff(p.indptr[begin : end + 1])
        query = np.repeat(np.arange(begin, end), counts)
        scores = np.einsum("pd,pd->p", q[query], k[p.indices[part]])
        scores = _with_terms(layer, ps, head, scores, query, p.indices[part], place)
        starts = p.indptr[begin:end] - p.indptr[begin]  # no row is empty: a query sees itself
        largest = np.maximum.reduceat(scores, starts)
        weights = np.exp(scores - np.repeat(largest, counts))
        sums = np.add.reduceat(weights, starts)
        if not np.allclose(largest + np.log(sums), lse[begin:end], rtol=1e-3, atol=1e-3, equal_nan=True):
            raise ValueError(f"layer: its scores are not those of its options, in {layer!r}")
        p.data[part] = weights / np.repeat(sums, counts)
    if layer.sinks:
        share = 1 / (1 + np.exp(ps["sinks"][head] - lse.astype(np.float64)))
        p.data *= np.repeat(share, np.diff(p.indptr)).astype(x.dtype)
    return p


def entropy(probabilities: Any) -> np.ndarray:
    """Return how spread the attention of each query is, H_i = - sum_j p_ij log p_ij, in nats.

    It is at most the logarithm of the number of keys, and exp(H) is the number of keys over which evenly
    spread attention would have the same entropy.

    Parameters
    ----------
    probabilities : sparse matrix, shape (n, n)
        p, such as from ``attention_map``.

    Returns
    -------
    float array (n,)
        How spread the attention of each query is, in nats.

    See Also
    --------
    attention_map : The probabilities of a head.
    rule_mass : Which rules carry them.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> from scipy.sparse import csr_matrix
    >>> pa.analysis.entropy(csr_matrix([[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]])).round(3)
    array([0.   , 0.693, 1.04 ])
    """
    p = as_map(probabilities).tocoo()
    data = p.data.astype(np.float64)
    terms = -data * np.log(data, where=data > 0, out=np.zeros_like(data))
    return np.bincount(p.row, terms, p.shape[0])


def _index(name, value, count):
    value = as_int(name, value, minimum=0)
    if value >= count:
        raise ValueError(f"{name}: expected less than {count}, got {value}")
    return value


def _structure(pattern, n, cu_seqlens):
    from scipy.sparse import block_diag

    if cu_seqlens is None:
        return pattern.to_csr(n)
    lengths = np.diff(as_boundaries(cu_seqlens, n))
    return block_diag([pattern.to_csr(length) for length in lengths[lengths > 0].tolist()], format="csr")


def _with_terms(layer, ps, head, scores, query, key, place):
    """Add what the layer's options add to the scores of pairs; ``place`` are positions within sequences."""
    if layer.softcap is not None:
        scores = layer.softcap * np.tanh(scores / scores.dtype.type(layer.softcap))
    if layer.alibi:
        scores = scores - alibi_slopes(layer.heads)[head].astype(scores.dtype) * (query - key)
    if layer.offset_bias is not None:
        known = layer.pattern_of(head).offsets(len(place))
        at = np.minimum(np.searchsorted(known, query - key), layer.offset_counts[head] - 1)
        bias, fixed = ps["offset_bias"][head, at], place[key] < layer.pattern_of(head).global_tokens
        if "global_bias" in ps:
            bias[fixed] = ps["global_bias"][head, place[key[fixed]]]
        scores = scores + bias
    return scores


class _Watch(Memory):
    """Memory that records the inputs of each attention kernel."""

    __slots__ = ("attentions",)

    def __init__(self):
        super().__init__(saving=False)
        self.attentions = []

    def attended(self, q, k, lse, segments):
        self.attentions.append((q, k, lse))


def _as_computed(layer, x, ps, st, head):
    """Return scale * q and k of one head, each (seq, head_dim), and lse (seq,), from a call."""
    if layer.device == "cuda":  # arrays on the GPU cannot be read here
        layer = replace(layer, device=None)
    watch = _Watch()
    layer.apply(x, ps, st, watch)
    if len(watch.attentions) != 1:
        raise ValueError(
            f"layer: expected one call of the kernel by SparseIndexAttention, got {len(watch.attentions)} "
            f"in {layer!r}"
        )
    q, k, lse = watch.attentions[0]
    return (
        q[0, head] * x.dtype.type(1 / np.sqrt(layer.head_dim) if layer.scale is None else layer.scale),
        k[0, head * k.shape[1] // q.shape[1]],
        lse[0, head],
    )
