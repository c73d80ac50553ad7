"""Dense float64 reference of the kernels: the formula written out with full score matrices.

Slow and O(n_q · n_k) in memory on purpose. Every fast path is compared with it, and readers can use it to see
what a kernel computes. It takes the options of the in-place kernels and shares no code with them.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

__all__ = ["backward", "dropped", "forward", "mask"]


def mask(pattern, n_q: int, n_k: int, q_start: int = 0, k_start: int = 0) -> np.ndarray:
    """Boolean (n_q, n_k) mask: entry [r, c] is True where the query attends the key.

    With i = q_start + r and j = k_start + c: 0 <= j <= i and (j < G or i - j <= W or i - j in S).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.kernels.reference.mask(pa.Pattern("squares", window=0, global_tokens=1), 6, 6).astype(int)
    array([[1, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [1, 0, 1, 1, 0, 0],
           [1, 0, 0, 1, 1, 0],
           [1, 1, 0, 0, 1, 1]])
    """
    i = q_start + np.arange(n_q)[:, None]
    j = k_start + np.arange(n_k)[None, :]
    n = max(q_start + n_q, 1)
    in_offsets = np.zeros(n, bool)
    in_offsets[pattern.offsets(n)] = True
    return (j >= 0) & (j <= i) & ((j < pattern.global_tokens) | in_offsets[np.clip(i - j, 0, n - 1)])


def dropped(dropout, seed, number, head, i, j) -> np.ndarray:
    """Whether pairs of positions are dropped, in a query head of an entry of the batch or packed sequence.

    By a hash of all of these, of 32 bits; positions count modulo 2^32.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> i, j = np.arange(1000)[:, None], np.arange(1000)
    >>> bool(0.29 < pa.kernels.reference.dropped(0.3, 1, 0, 0, i, j).mean() < 0.31)
    True
    """
    u, most = np.uint64, 2**64 - 1
    key = _mixed_64(seed)
    for part in (number, head):
        key = _mixed_64((key + part) & most)
    rows = _mixed(u(key % 2**32) + np.asarray(i, np.int64).astype(u))
    x = np.asarray(j, np.int64).astype(u) + rows
    others = _mixed(u(key >> 32) + rows)
    return _mixed(x, others) < min(round(dropout * 2**32), 2**32 - 1)


def _mixed_64(x):
    """The step and the mixer of SplitMix64 (Steele et al. 2014), of a Python number."""
    most = 2**64 - 1
    x = (x + 0x9E3779B97F4A7C15) & most
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & most
    x = (x ^ x >> 27) * 0x94D049BB133111EB & most
    return x ^ x >> 31


def _mixed(x, half_way=0):
    """Numbers modulo 2^32 with their bits mixed, together with those of others from half the way on."""
    u = np.uint64
    low = u(2**32 - 1)
    x = x & low
    x = (x ^ x >> u(16)) * u(0x21F0AAAD) & low
    x = (x ^ x >> u(15) ^ np.asarray(half_way, u)) * u(0x735A2D97) & low
    return x ^ x >> u(15)


def _factors(where, number, head, dropout, seed):
    """m_ij / (1 - dropout) of all pairs of a block."""
    if dropout == 0:
        return 1.0
    return ~dropped(dropout, seed, number, head, where.key + where.distance, where.key) / (1 - dropout)


def forward(
    q,
    k,
    v,
    pattern,
    *,
    scale=None,
    q_start=0,
    k_start=0,
    cu_seqlens=None,
    offset_bias=None,
    global_bias=None,
    slopes=None,
    softcap=None,
    dropout=0.0,
    dropout_seed=0,
):
    """Return ``(out, lse)`` in float64.

    s_ij = cap(scale * q_i·k_j) + bias_ij - slope * (i - j);  p = softmax of s over keys(i);
    out_i = sum_j m_ij / (1 - dropout) p_ij v_j;  lse_i = log sum_j exp s_ij

    m_ij is 0 where `dropped` says so, else 1; cap(s) = softcap * tanh(s / softcap), or s without;
    bias_ij = global_bias[h, j] for j < G, else offset_bias[h, u], where i - j is number u of the offsets.

    Parameters are those of :func:`primeattn.sparse_index_kernel`. A row without keys gets out = 0 and
    lse = -inf.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> q = k = v = np.random.default_rng(0).standard_normal((1, 1, 5, 4))
    >>> out, lse = pa.kernels.reference.forward(q, k, v, pa.Pattern("primes", window=1))
    >>> out.shape, lse.shape
    ((1, 1, 5, 4), (1, 1, 5))
    """
    out = np.zeros(q.shape)
    lse = np.full(q.shape[:3], -np.inf)
    for number, rows, keys, kv_rows, where in _blocks(q, k, pattern, q_start, k_start, cu_seqlens):
        s, _ = _scores(q[rows], k[kv_rows][keys], scale, softcap)
        s, l, m = _biased(s, where, rows[1], offset_bias, global_bias, slopes)
        visible = where.visible
        p = np.where(visible, np.exp(s - m) / np.where(l == 0, 1, l), 0.0)
        m_ij = _factors(where, number, rows[1], dropout, dropout_seed)
        out[rows] = _weighted(m_ij * p, v[kv_rows][keys], visible)
        with np.errstate(divide="ignore"):
            lse[rows] = (m + np.log(l))[:, 0]
    return out, lse


def backward(
    dout,
    q,
    k,
    v,
    out,
    lse,
    pattern,
    *,
    dlse=None,
    scale=None,
    q_start=0,
    k_start=0,
    cu_seqlens=None,
    offset_bias=None,
    global_bias=None,
    slopes=None,
    softcap=None,
    dropout=0.0,
    dropout_seed=0,
):
    """Return ``(dq, dk, dv)`` in float64, then the gradients of those biases that are given.

    P = exp(s - lse);  M = m / (1 - dropout);  dP = M * dout·v;  dS = P * (dP - rowsum(dout * out) + dlse);
    a bias has the sum of dS over all pairs that it is added to;  dT = dS * cap'(scale * q·k);
    dq = scale * dT k;  dk = scale * dTᵀ q;  dv = (M * P)ᵀ dout, summed over the query heads of a key head.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> q = k = v = np.random.default_rng(0).standard_normal((1, 1, 5, 4))
    >>> pat = pa.Pattern("primes", window=1)
    >>> out, lse = pa.kernels.reference.forward(q, k, v, pat)
    >>> dq, dk, dv = pa.kernels.reference.backward(np.ones_like(out), q, k, v, out, lse, pat)
    >>> bool(np.allclose(dv.sum(), out.size))
    True
    """
    dq, dk, dv = np.zeros(q.shape), np.zeros(k.shape), np.zeros(v.shape)
    dout, out, lse = (np.asarray(a, np.float64) for a in (dout, out, lse))
    dlse = np.zeros(lse.shape) if dlse is None else np.asarray(dlse, np.float64)
    factor = _factor(q, scale)
    dbias = [None if a is None else np.zeros(a.shape) for a in (offset_bias, global_bias)]
    for number, rows, keys, kv_rows, where in _blocks(q, k, pattern, q_start, k_start, cu_seqlens):
        qh, kh, vh = (np.asarray(a, np.float64) for a in (q[rows], k[kv_rows][keys], v[kv_rows][keys]))
        s, slope_of_cap = _scores(qh, kh, scale, softcap)
        s, l, _ = _biased(s, where, rows[1], offset_bias, global_bias, slopes)
        visible = where.visible
        row_lse = np.where(l == 0, 0.0, lse[rows][:, None])
        p = np.where(visible, np.exp(s - row_lse), 0.0)
        delta = (dout[rows] * out[rows]).sum(-1, keepdims=True)
        m_ij = _factors(where, number, rows[1], dropout, dropout_seed)
        ds = np.where(visible, p * (m_ij * (dout[rows] @ vh.T) - delta + dlse[rows][:, None]), 0.0)
        for total, which, pairs in zip(dbias, (where.offset, where.key), where.split(), strict=True):
            if total is not None:
                np.add.at(total[rows[1]], which[pairs], ds[pairs])
        ds = np.where(visible, ds * slope_of_cap, 0.0)
        dq[rows] = factor * _weighted(ds, kh, visible)
        dk[kv_rows][keys] += factor * _weighted(ds.T, qh, visible.T)
        dv[kv_rows][keys] += _weighted((m_ij * p).T, dout[rows], visible.T)
    return dq, dk, dv, *(total for total in dbias if total is not None)


class _Where(NamedTuple):
    """Of all pairs of a block: whether they are attended, and which biases they have."""

    visible: np.ndarray
    distance: np.ndarray  # i - j
    offset: np.ndarray  # number of i - j among the offsets
    key: np.ndarray  # position of the key
    is_global: np.ndarray

    def split(self):
        """Pairs that have the bias of an offset, and those of a global key."""
        return self.visible & ~self.is_global, self.visible & self.is_global


def _where(pattern, n_q, n_k, q_start, k_start):
    i, j = np.broadcast_arrays(q_start + np.arange(n_q)[:, None], k_start + np.arange(n_k)[None, :])
    offset = np.searchsorted(pattern.offsets(max(q_start + n_q, 0)), i - j)
    return _Where(mask(pattern, n_q, n_k, q_start, k_start), i - j, offset, j, j < pattern.global_tokens)


def _factor(q, scale):
    return 1 / math.sqrt(q.shape[3]) if scale is None else float(scale)


def _blocks(q, k, pattern, q_start, k_start, cu_seqlens):
    """Yield one (number, query rows, key slice, key head, _Where) per sequence and query head."""
    batch, heads, n_q, _ = q.shape
    group = heads // k.shape[1]
    patterns = list(pattern) if isinstance(pattern, (list, tuple)) else [pattern] * heads
    if cu_seqlens is None:
        starts = np.broadcast_to(q_start, batch), np.broadcast_to(k_start, batch)
        pieces = [
            (b, slice(0, n_q), slice(0, k.shape[2]), int(starts[0][b]), int(starts[1][b]))
            for b in range(batch)
        ]
    else:
        pieces = [(0, slice(a, b), slice(a, b), 0, 0) for a, b in itertools.pairwise(cu_seqlens)]
    for number, (b, q_rows, keys, q0, k0) in enumerate(pieces):
        for h in range(heads):
            where = _where(patterns[h], q_rows.stop - q_rows.start, keys.stop - keys.start, q0, k0)
            yield number, (b, h, q_rows), keys, (b, h // group), where


def _scores(q, k, scale, softcap):
    """Capped scores of all pairs, and the derivative of the cap."""
    with np.errstate(invalid="ignore", over="ignore"):
        s = _factor(q[None, None], scale) * (np.asarray(q, np.float64) @ np.asarray(k, np.float64).T)
        if softcap is None:
            return s, 1.0
        return softcap * np.tanh(s / softcap), 1 - np.tanh(s / softcap) ** 2


def _biased(s, where, head, offset_bias, global_bias, slopes):
    """Masked scores with biases, row sums of exp(s - m) and row maxima m (0 where a row has no keys)."""
    with np.errstate(invalid="ignore", over="ignore"):
        s = s.copy()
        numbers = (offset_bias, where.offset), (global_bias, where.key)
        for (bias, number), pairs in zip(numbers, where.split(), strict=True):
            if bias is not None:
                s[pairs] += np.asarray(bias[head], np.float64)[number[pairs]]
        if slopes is not None:
            s -= float(slopes[head]) * where.distance
        s = np.where(where.visible, s, -np.inf)
        m = np.max(s, axis=1, keepdims=True, initial=-np.inf)
        m = np.where(m == -np.inf, 0.0, m)
        return s, np.exp(s - m).sum(1, keepdims=True), m


def _weighted(p, x, visible):
    """p @ x where a NaN or infinity in a row of x reaches only the rows that see it (0 * NaN is NaN)."""
    x = np.asarray(x, np.float64)
    finite = np.isfinite(x)
    result = p @ np.where(finite, x, 0.0)
    for j in np.flatnonzero(~finite.all(1)):
        seen = visible[:, j]
        result[seen] += p[seen, j, None] * np.where(finite[j], 0.0, x[j])
    return result
