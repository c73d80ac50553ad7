"""Dense float64 reference of the kernels: the formula written out with full score matrices.

Slow and O(n_q · n_k) in memory on purpose. Every fast path is compared with it, and readers can use it to see
what a kernel computes. It takes the options of the in-place kernels and shares no code with them.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

__all__ = ["backward", "forward", "mask"]


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


def forward(q, k, v, pattern, *, scale=None, q_start=0, k_start=0, cu_seqlens=None):
    """Return ``(out, lse)`` in float64.

    s_ij = scale * q_i·k_j;  p = softmax of s over keys(i);
    out_i = sum_j p_ij v_j;  lse_i = log sum_j exp s_ij

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
    for rows, keys, visible, kv_rows, factor in _blocks(q, k, pattern, scale, q_start, k_start, cu_seqlens):
        s, l, m = _scores(q[rows], k[kv_rows][keys], visible, factor)
        p = np.where(visible, np.exp(s - m) / np.where(l == 0, 1, l), 0.0)
        out[rows] = _weighted(p, v[kv_rows][keys], visible)
        with np.errstate(divide="ignore"):
            lse[rows] = (m + np.log(l))[:, 0]
    return out, lse


def backward(
    dout, q, k, v, out, lse, pattern, *, dlse=None, scale=None, q_start=0, k_start=0, cu_seqlens=None
):
    """Return ``(dq, dk, dv)`` in float64, from dout and, where given, dlse.

    P = exp(s - lse);  dP = dout·v;  dS = P * (dP - rowsum(dout * out) + dlse);
    dq = scale * dS k;  dk = scale * dSᵀ q;  dv = Pᵀ dout, summed over the query heads of a key head.

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
    for rows, keys, visible, kv_rows, factor in _blocks(q, k, pattern, scale, q_start, k_start, cu_seqlens):
        qh, kh, vh = (np.asarray(a, np.float64) for a in (q[rows], k[kv_rows][keys], v[kv_rows][keys]))
        s, l, _ = _scores(qh, kh, visible, factor)
        row_lse = np.where(l == 0, 0.0, lse[rows][:, None])
        p = np.where(visible, np.exp(s - row_lse), 0.0)
        delta = (dout[rows] * out[rows]).sum(-1, keepdims=True)
        ds = np.where(visible, p * (dout[rows] @ vh.T - delta + dlse[rows][:, None]), 0.0)
        dq[rows] = factor * _weighted(ds, kh, visible)
        dk[kv_rows][keys] += factor * _weighted(ds.T, qh, visible.T)
        dv[kv_rows][keys] += _weighted(p.T, dout[rows], visible.T)
    return dq, dk, dv


def _blocks(q, k, pattern, scale, q_start, k_start, cu_seqlens):
    """Yield one (query rows, key slice, mask, key head, scale) per sequence and query head."""
    batch, heads, n_q, head_dim = q.shape
    group = heads // k.shape[1]
    patterns = list(pattern) if isinstance(pattern, (list, tuple)) else [pattern] * heads
    factor = 1 / math.sqrt(head_dim) if scale is None else float(scale)
    if cu_seqlens is None:
        starts = np.broadcast_to(q_start, batch), np.broadcast_to(k_start, batch)
        pieces = [
            (b, slice(0, n_q), slice(0, k.shape[2]), int(starts[0][b]), int(starts[1][b]))
            for b in range(batch)
        ]
    else:
        pieces = [(0, slice(a, b), slice(a, b), 0, 0) for a, b in itertools.pairwise(cu_seqlens)]
    for b, q_rows, keys, q0, k0 in pieces:
        for h in range(heads):
            visible = mask(patterns[h], q_rows.stop - q_rows.start, keys.stop - keys.start, q0, k0)
            yield (b, h, q_rows), keys, visible, (b, h // group), factor


def _scores(q, k, visible, factor):
    """Masked scores, their row sums of exp(s - m) and their row maxima m (0 where a row has no keys)."""
    with np.errstate(invalid="ignore", over="ignore"):
        s = np.where(visible, factor * (np.asarray(q, np.float64) @ np.asarray(k, np.float64).T), -np.inf)
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
