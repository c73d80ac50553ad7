"""``kernel="scalar"``: attention in loops over rows and numbers, to be read, and stepped through.

``reference`` holds whole matrices of scores, "tiles" works on vectors; this goes from pair to pair. It takes
what "tiles" takes, at any length. With NUMBA_DISABLE_JIT=1 it is plain Python. All sums are in float64.

The compiled functions see one query head of one sequence, or a block of its queries, or of its keys:

    q, out, dout, dq    (n_q, head_dim)
    k, v, dk, dv        (n_k, head_dim)
    lse, dlse, delta    (n_q,)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.jit import part_njit, plain_njit
from primeattn.compiled.parallel import share
from primeattn.kernels.call import reach

__all__ = ["run"]

ROWS = 64  # of a block


class Mask(NamedTuple):
    """Which keys the queries attend."""

    offsets: np.ndarray  # distances, rising
    n_global: int  # so many keys, the first ones, are global
    shift: int  # query r has the position of key r + shift, whether there is such a key or not


@part_njit
def _keys(r, n_k, mask):
    """Yield the keys that query r attends, each once."""
    own = r + mask.shift
    for t in range(min(mask.n_global, own + 1)):
        yield t
    for d in mask.offsets:
        t = own - d
        if t < mask.n_global:
            break
        if t < n_k:
            yield t


@part_njit
def _queries(t, n_q, mask):
    """Yield the queries that attend key t, each once."""
    own = t - mask.shift
    if t < mask.n_global:
        for r in range(max(own, 0), n_q):
            yield r
    else:
        for d in mask.offsets:
            r = own + d
            if r >= n_q:
                break
            if r >= 0:
                yield r


@part_njit
def _dot(a, r, b, t):
    """Return a_r·b_t."""
    total = 0.0
    for c in range(a.shape[1]):
        total += np.float64(a[r, c]) * np.float64(b[t, c])
    return total


@plain_njit
def forward(q, k, v, mask, scale, out, lse):
    """Each query takes the softmax of its scores, and the mean of the values with these weights.

    s_rt = scale * q_r·k_t;  p_rt = exp(s_rt - lse_r);  out_r = sum_t p_rt v_t;  lse_r = log sum_t exp s_rt

    In one pass: weights are relative to the largest score so far, and shrink where a larger one comes.
    """
    weighted = np.empty(q.shape[1])
    for r in range(len(q)):
        largest, total = -np.inf, 0.0
        weighted[:] = 0.0
        for t in _keys(r, len(k), mask):
            s = scale * _dot(q, r, k, t)
            if s > largest:
                shrink = np.exp(largest - s)
                total *= shrink
                weighted *= shrink
                largest = s
            weight = np.exp(s - largest) if s != -np.inf else 0.0  # the largest may be -inf, too
            total += weight
            for c in range(weighted.size):
                weighted[c] += weight * v[t, c]
        lse[r] = largest + np.log(total)
        if total == 0.0:
            total = 1.0  # no keys: out is 0, and lse -inf
        for c in range(weighted.size):
            out[r, c] = weighted[c] / total


@part_njit
def _score_backward(q, k, v, r, t, scale, lse, dout, delta):
    """Return p_rt, and ds_rt, the gradient with respect to the score."""
    s = scale * _dot(q, r, k, t)
    p = np.exp(s - lse[r]) if lse[r] != -np.inf else 0.0  # all scores are -inf
    dp = _dot(dout, r, v, t)  # of out_r = sum_t p_rt v_t
    ds = p * (dp - delta[r])  # of p_rt = exp(s_rt - lse_r), where lse_r depends on s_rt, too
    return p, ds


@plain_njit
def backward_queries(q, k, v, mask, scale, out, lse, dout, dlse, delta, dq):
    """Gradient with respect to q, and delta: each query goes through its keys as in the forward."""
    total = np.empty(q.shape[1])
    for r in range(len(q)):
        delta[r] = _dot(dout, r, out, r) - dlse[r]
        total[:] = 0.0
        for t in _keys(r, len(k), mask):
            _, ds = _score_backward(q, k, v, r, t, scale, lse, dout, delta)
            for c in range(total.size):
                total[c] += ds * k[t, c]  # of s_rt = scale * q_r·k_t
        for c in range(total.size):
            dq[r, c] = scale * total[c]


@plain_njit
def backward_keys(q, k, v, mask, scale, lse, dout, delta, dk, dv):
    """Add to the gradients with respect to k and v, in float64: each key goes through its queries."""
    for t in range(len(k)):
        for r in _queries(t, len(q), mask):
            p, ds = _score_backward(q, k, v, r, t, scale, lse, dout, delta)
            for c in range(q.shape[1]):
                dk[t, c] += scale * ds * q[r, c]  # of s_rt = scale * q_r·k_t
                dv[t, c] += p * dout[r, c]  # of out_r = sum_t p_rt v_t


class Head(NamedTuple):
    """A query head of a sequence."""

    queries: tuple[int, int, slice]  # where they are: entry of the batch, head, rows
    keys: tuple[int, int, slice]
    mask: Mask


def run(call):
    """Run a checked call."""
    arrays, q, numbers = dict(call.arrays), call.arrays["q"], call.arrays["q"].shape[:3]
    if not call.backward:
        arrays.setdefault("lse", np.empty(numbers, q.dtype))
        _share(_query_blocks(call), lambda head: _forward(arrays, call.scale, head))
        return
    arrays.setdefault("dlse", np.zeros(numbers, q.dtype))
    arrays["delta"] = np.empty(numbers)
    # Queries, then keys: each row of a gradient is summed by one thread.
    _share(_query_blocks(call), lambda head: _backward_queries(arrays, call.scale, head))
    _share(_key_blocks(call), lambda heads: _backward_keys(arrays, call.scale, heads))


def _share(blocks, work):
    def quietly(_, block):
        with np.errstate(all="ignore"):  # compiled code does not warn either
            work(block)

    share(blocks, quietly)


def _heads(call):
    """Return the query heads of all sequences, in lists of those that share a key head."""
    result, group = [], call.heads_per_key
    for s, sequence in enumerate(call.sequences.tolist()):
        batch, q_row, n_q, k_row, n_k, q_start, k_start = sequence
        distances = reach(call.sequences[s : s + 1])
        offsets = {pattern: pattern.offsets_between(*distances) for pattern in set(call.patterns)}
        heads = []
        for h, pattern in enumerate(call.patterns):
            queries = batch, h, slice(q_row, q_row + n_q)
            keys = batch, h // group, slice(k_row, k_row + n_k)
            n_global = min(max(pattern.global_tokens - k_start, 0), n_k)
            heads.append(Head(queries, keys, Mask(offsets[pattern], n_global, q_start - k_start)))
        result += [heads[h : h + group] for h in range(0, len(heads), group)]
    return result


def _query_blocks(call):
    """Return blocks of queries, each as a head that has no others."""
    return [
        Head((*place, block), head.keys, head.mask._replace(shift=head.mask.shift + before))
        for heads in _heads(call)
        for head in heads
        for *place, rows in [head.queries]
        for before, block in _cut(rows)
    ]


def _key_blocks(call):
    """Return blocks of keys, each as the heads that read them and have no others."""
    return [
        [Head(head.queries, (*place, block), _mask_beyond(head.mask, before)) for head in heads]
        for heads in _heads(call)
        for *place, rows in [heads[0].keys]
        for before, block in _cut(rows)
    ]


def _mask_beyond(mask, n):
    """Mask of all keys but the first n."""
    return Mask(mask.offsets, max(mask.n_global - n, 0), mask.shift - n)


def _cut(rows):
    """Yield blocks of a slice, and before each the number of rows that come before it."""
    for first in range(rows.start, rows.stop, ROWS):
        yield first - rows.start, slice(first, min(first + ROWS, rows.stop))


def _forward(arrays, scale, head):
    q, out, lse = _at(head.queries, arrays, "q", "out", "lse")
    k, v = _at(head.keys, arrays, "k", "v")
    forward(q, k, v, head.mask, scale, out, lse)


def _backward_queries(arrays, scale, head):
    q, *given = _at(head.queries, arrays, "q", "out", "lse", "dout", "dlse", "delta", "dq")
    k, v = _at(head.keys, arrays, "k", "v")
    backward_queries(q, k, v, head.mask, scale, *given)


def _backward_keys(arrays, scale, heads):
    k, v, dk, dv = _at(heads[0].keys, arrays, "k", "v", "dk", "dv")
    sums = np.zeros((2, *k.shape))
    for head in heads:
        q, *given = _at(head.queries, arrays, "q", "lse", "dout", "delta")
        backward_keys(q, k, v, head.mask, scale, *given, *sums)
    dk[...], dv[...] = sums


def _at(place, arrays, *names):
    return [arrays[name][place] for name in names]
