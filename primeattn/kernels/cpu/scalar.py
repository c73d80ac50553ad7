"""``kernel="scalar"``: attention in loops over rows and numbers, to be read, and stepped through.

``reference`` holds whole matrices of scores, "tiles" works on vectors; this goes from pair to pair. It takes
what "tiles" takes, at any length. With NUMBA_DISABLE_JIT=1 it is plain Python. All sums are in float64; rows
of float16 and bfloat16 are widened to float32 before they come here, and rounded after.

The compiled functions see one query head of one sequence, or a block of its queries, or of its keys:

    q, out, dout, dq    (n_q, head_dim)
    k, v, dk, dv        (n_k, head_dim)
    lse, dlse, delta    (n_q,)

``scale`` and ``cap`` shape the scores; a cap of 0 is none.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from primeattn.compiled.jit import part_njit, plain_njit
from primeattn.compiled.parallel import share
from primeattn.kernels.call import reach
from primeattn.kernels.cpu.drop_keys import drop_keys, drop_limit
from primeattn.kernels.halves import rounded, widened

__all__ = ["run"]

ROWS = 64  # of a block
BIAS_GRADIENTS = "doffset_bias", "dglobal_bias"


class Mask(NamedTuple):
    """Which keys the queries attend, what is added to the scores of these pairs, and which are dropped."""

    offsets: np.ndarray  # distances, rising
    offset_bias: np.ndarray  # number u is that of offset u; none: all are 0
    n_global: int  # so many keys, the first ones, are global
    global_bias: np.ndarray  # number t is that of global key t; none: all are 0
    shift: int  # query r has the position of key r + shift, whether there is such a key or not
    slope: float
    first: int  # position of key 0
    key: int  # of the hash that decides which pairs are dropped
    other_key: int
    limit: int  # of that hash
    kept: float  # weight of the pairs that are not


GLOBAL = -1  # stands for the offset of a global key


@part_njit
def _keys(r, n_k, mask):
    """Yield the keys that query r attends, each once, and the number of the offset by which it does."""
    own = r + mask.shift
    for t in range(min(mask.n_global, own + 1)):
        yield t, GLOBAL
    for u in range(mask.offsets.size):
        t = own - mask.offsets[u]
        if t < mask.n_global:
            break
        if t < n_k:
            yield t, u


@part_njit
def _queries(t, n_q, mask):
    """Yield the queries that attend key t, each once, and the number of the offset by which it does."""
    own = t - mask.shift
    if t < mask.n_global:
        for r in range(max(own, 0), n_q):
            yield r, GLOBAL
    else:
        for u in range(mask.offsets.size):
            r = own + mask.offsets[u]
            if r >= n_q:
                break
            if r >= 0:
                yield r, u


@part_njit
def _dot(a, r, b, t):
    """Return a_r·b_t."""
    total = 0.0
    for c in range(a.shape[1]):
        total += np.float64(a[r, c]) * np.float64(b[t, c])
    return total


@part_njit
def _score(q, k, r, t, u, mask, scale, cap):
    """Return the score of query r and key t, which meet by offset u, and the derivative of its cap."""
    s, rate = scale * _dot(q, r, k, t), 1.0
    if cap != 0.0:
        tanh = np.tanh(s / cap)
        s, rate = cap * tanh, 1.0 - tanh * tanh
    if u == GLOBAL:
        if mask.global_bias.size > 0:
            s += mask.global_bias[t]
    elif mask.offset_bias.size > 0:
        s += mask.offset_bias[u]
    if mask.slope != 0.0:
        s -= mask.slope * (r + mask.shift - t)
    return s, rate


@part_njit
def _mix(x, half_way):
    """Mix the 32 bits of x, and those of another number from half the way on."""
    low = 0xFFFFFFFF
    x = (x ^ (x >> 16)) * 0x21F0AAAD & low
    x = (x ^ (x >> 15) ^ half_way) * 0x735A2D97 & low
    return x ^ (x >> 15)


@part_njit
def _kept(r, t, mask):
    """Return by what dropout multiplies the weight of query r and key t."""
    if mask.limit == 0:
        return mask.kept
    low, t = 0xFFFFFFFF, mask.first + t
    row = _mix((mask.key + mask.first + mask.shift + r) & low, 0)
    number = _mix((t + row) & low, _mix((mask.other_key + row) & low, 0))
    return 0.0 if number < mask.limit else mask.kept


@plain_njit
def forward(q, k, v, mask, scale, cap, out, lse):
    """Each query takes the softmax of its scores, and the mean of the values with these weights.

    s_rt = scale * q_r·k_t, capped and biased;  p_rt = exp(s_rt - lse_r)
    out_r = sum_t m_rt p_rt v_t;  lse_r = log sum_t exp s_rt

    m_rt is what dropout multiplies the weight by.

    In one pass: weights are relative to the largest score so far, and shrink where a larger one comes.
    """
    weighted = np.empty(q.shape[1])
    for r in range(len(q)):
        largest, total = -np.inf, 0.0
        weighted[:] = 0.0
        for t, u in _keys(r, len(k), mask):
            s, _ = _score(q, k, r, t, u, mask, scale, cap)
            if s > largest:
                shrink = np.exp(largest - s)
                total *= shrink
                weighted *= shrink
                largest = s
            weight = np.exp(s - largest) if s != -np.inf else 0.0  # the largest may be -inf, too
            total += weight
            weight *= _kept(r, t, mask)
            for c in range(weighted.size):
                weighted[c] += weight * v[t, c]
        lse[r] = largest + np.log(total)
        if total == 0.0:
            total = 1.0  # no keys: out is 0, and lse -inf
        for c in range(weighted.size):
            out[r, c] = weighted[c] / total


@part_njit
def _score_backward(q, k, v, r, t, u, mask, scale, cap, lse, dout, delta):
    """Return m_rt p_rt, and the gradients with respect to the score and to q_r·k_t in it."""
    s, rate = _score(q, k, r, t, u, mask, scale, cap)
    p = np.exp(s - lse[r]) if lse[r] != -np.inf else 0.0  # all scores are -inf
    kept = _kept(r, t, mask)
    dp = kept * _dot(dout, r, v, t)  # of out_r = sum_t m_rt p_rt v_t
    ds = p * (dp - delta[r])  # of p_rt = exp(s_rt - lse_r), where lse_r depends on s_rt, too
    return kept * p, ds, scale * rate * ds


@plain_njit
def backward_queries(q, k, v, mask, scale, cap, out, lse, dout, dlse, delta, dq):
    """Gradient with respect to q, and delta: each query goes through its keys as in the forward."""
    total = np.empty(q.shape[1])
    for r in range(len(q)):
        delta[r] = _dot(dout, r, out, r) - dlse[r]
        total[:] = 0.0
        for t, u in _keys(r, len(k), mask):
            _, _, d_dot = _score_backward(q, k, v, r, t, u, mask, scale, cap, lse, dout, delta)
            for c in range(total.size):
                total[c] += d_dot * k[t, c]
        for c in range(total.size):
            dq[r, c] = total[c]


@plain_njit
def backward_keys(q, k, v, mask, scale, cap, lse, dout, delta, dk, dv):
    """Add to the gradients with respect to k and v, in float64: each key goes through its queries."""
    for t in range(len(k)):
        for r, u in _queries(t, len(q), mask):
            p, _, d_dot = _score_backward(q, k, v, r, t, u, mask, scale, cap, lse, dout, delta)
            for c in range(q.shape[1]):
                dk[t, c] += d_dot * q[r, c]
                dv[t, c] += p * dout[r, c]  # of out_r = sum_t m_rt p_rt v_t


@plain_njit
def backward_biases(q, k, v, mask, scale, cap, lse, dout, delta, doffset_bias, dglobal_bias):
    """Add to the gradients with respect to the biases, in float64, all pairs of a head."""
    for r in range(len(q)):
        for t, u in _keys(r, len(k), mask):
            _, ds, _ = _score_backward(q, k, v, r, t, u, mask, scale, cap, lse, dout, delta)
            if u == GLOBAL:
                dglobal_bias[t] += ds
            else:
                doffset_bias[u] += ds


class Head(NamedTuple):
    """A query head of a sequence."""

    queries: tuple[int, int, slice]  # where they are: entry of the batch, head, rows
    keys: tuple[int, int, slice]
    mask: Mask
    firsts: tuple[int, int]  # of the head's biases, those of the first offset and the first key


def run(call):
    """Run a checked call."""
    arrays, numbers = dict(call.arrays), call.arrays["q"].shape[:3]
    factors = call.scale, call.softcap or 0.0
    if not call.backward:
        arrays.setdefault("lse", np.empty(numbers, call.computed))
        _share(_query_blocks(call), lambda head: _forward(arrays, factors, head))
        return
    arrays.setdefault("dlse", np.zeros(numbers, call.computed))
    arrays["delta"] = np.empty(numbers)
    # Queries, then keys: each row of a gradient is summed by one thread.
    _share(_query_blocks(call), lambda head: _backward_queries(arrays, factors, head))
    _share(_key_blocks(call), lambda heads: _backward_keys(arrays, factors, heads))
    if "doffset_bias" in arrays or "dglobal_bias" in arrays:
        _share(list(enumerate(_bias_heads(call))), lambda item: _backward_biases(arrays, factors, *item))


def _share(blocks, work):
    def quietly(_, block):
        with np.errstate(all="ignore"):  # compiled code does not warn either
            work(block)

    share(blocks, quietly)


def _heads(call):
    """Return the query heads of all sequences, in lists of those that share a key head."""
    result, group = [], call.heads_per_key
    drops = drop_keys(call.dropout_seed, call.sequences["number"], len(call.patterns)).tolist()
    limit, kept = drop_limit(call.dropout), 1 / (1 - call.dropout)
    for s, sequence in enumerate(call.sequences.tolist()):
        batch, q_row, n_q, k_row, n_k, q_start, k_start, _ = sequence
        distances = reach(call.sequences[s : s + 1])
        offsets = {pattern: pattern.offsets_between(*distances) for pattern in set(call.patterns)}
        heads = []
        for h, pattern in enumerate(call.patterns):
            queries = batch, h, slice(q_row, q_row + n_q)
            keys = batch, h // group, slice(k_row, k_row + n_k)
            n_global = min(max(pattern.global_tokens - k_start, 0), n_k)
            counts = offsets[pattern].size, n_global
            firsts = pattern.offsets(distances[0]).size if "offset_bias" in call.arrays else 0, k_start
            biases = (
                _numbers(call.arrays.get(name), h, first, count)
                for name, first, count in zip(("offset_bias", "global_bias"), firsts, counts, strict=True)
            )
            by_offset, by_key = biases
            slope = float(call.arrays["slopes"][h]) if "slopes" in call.arrays else 0.0
            added = by_offset, n_global, by_key, q_start - k_start, slope
            mask = Mask(offsets[pattern], *added, k_start, *drops[s][h], limit, kept)
            heads.append(Head(queries, keys, mask, firsts))
        result += [heads[h : h + group] for h in range(0, len(heads), group)]
    return result


def _numbers(bias, h, first, count):
    """Return ``count`` numbers of a head's biases from the first on, none if there are no biases."""
    return np.zeros(0) if bias is None else bias[h, first : first + count].astype(np.float64)


def _query_blocks(call):
    """Return blocks of queries, each as a head that has no others."""
    return [
        head._replace(queries=(*place, block), mask=head.mask._replace(shift=head.mask.shift + before))
        for heads in _heads(call)
        for head in heads
        for *place, rows in [head.queries]
        for before, block in _cut(rows)
    ]


def _key_blocks(call):
    """Return blocks of keys, each as the heads that read them and have no others."""
    return [
        [head._replace(keys=(*place, block), mask=_mask_beyond(head.mask, before)) for head in heads]
        for heads in _heads(call)
        for *place, rows in [heads[0].keys]
        for before, block in _cut(rows)
    ]


def _mask_beyond(mask, n):
    """Mask of all keys but the first n."""
    n_global, bias = max(mask.n_global - n, 0), mask.global_bias[n:]
    return mask._replace(n_global=n_global, global_bias=bias, shift=mask.shift - n, first=mask.first + n)


def _bias_heads(call):
    """Return the heads of all sequences, in lists of those that have the same biases."""
    heads, count = list(itertools.chain(*_heads(call))), len(call.patterns)
    return [heads[h::count] for h in range(count)]


def _cut(rows):
    """Yield blocks of a slice, and before each the number of rows that come before it."""
    for first in range(rows.start, rows.stop, ROWS):
        yield first - rows.start, slice(first, min(first + ROWS, rows.stop))


def _forward(arrays, factors, head):
    q, out, lse = _at(head.queries, arrays, "q", "out", "lse")
    k, v = _at(head.keys, arrays, "k", "v")
    forward(q, k, v, head.mask, *factors, out, lse)
    _put(head.queries, arrays, out=out)


def _backward_queries(arrays, factors, head):
    q, *given = _at(head.queries, arrays, "q", "out", "lse", "dout", "dlse", "delta", "dq")
    k, v = _at(head.keys, arrays, "k", "v")
    backward_queries(q, k, v, head.mask, *factors, *given)
    _put(head.queries, arrays, dq=given[-1])


def _backward_keys(arrays, factors, heads):
    k, v = _at(heads[0].keys, arrays, "k", "v")
    sums = np.zeros((2, *k.shape))
    for head in heads:
        q, *given = _at(head.queries, arrays, "q", "lse", "dout", "delta")
        backward_keys(q, k, v, head.mask, *factors, *given, *sums)
    _put(heads[0].keys, arrays, dk=sums[0], dv=sums[1])


def _backward_biases(arrays, factors, h, heads):
    totals = {name: np.zeros(arrays[name].shape[1]) for name in BIAS_GRADIENTS if name in arrays}
    for head in heads:
        q, *given = _at(head.queries, arrays, "q", "lse", "dout", "delta")
        k, v = _at(head.keys, arrays, "k", "v")
        sums = np.zeros(head.mask.offsets.size), np.zeros(head.mask.n_global)
        backward_biases(q, k, v, head.mask, *factors, *given, *sums)
        for name, first, part in zip(BIAS_GRADIENTS, head.firsts, sums, strict=True):
            if name in totals:
                totals[name][first : first + part.size] += part
    for name, total in totals.items():
        arrays[name][h] = total


def _at(place, arrays, *names):
    """Return parts of arrays, copied where their numbers have 16 bits."""
    return [widened(arrays[name][place]) for name in names]


def _put(place, arrays, **results):
    """Fill parts of arrays with results, which may be these parts themselves."""
    for name, result in results.items():
        if not np.may_share_memory(result, arrays[name]):
            arrays[name][place] = rounded(result, arrays[name].dtype)
