"""Compiled loops of layers, losses and optimisers: one pass over memory where NumPy takes many.

All arrays are contiguous and of one floating dtype; outputs come last. A row's result does not depend on the
position of the row: exp always uses the vector code, and only the row's length decides how its sums are split
into lanes.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from primeattn.compiled.jit import cached_njit
from primeattn.compiled.simd import GROUP, row_exp, row_max

CHUNK = 1024  # entries that stay in the first-level cache for several loops

_sums = njit(fastmath={"reassoc", "contract"})  # sums in any order, so that they vectorise


@njit
def _tail(x):
    """Room for the end of a row beyond whole groups, and two more numbers for ``_exp``."""
    return np.zeros(GROUP + 2, x.dtype)


@njit
def _exp(x, tail):
    """x <- exp(x) in place; returns the sum, of chunks in float64."""
    one, stride, total = x.dtype.type(1), GROUP * x.itemsize, 0.0
    shift = np.int64(tail.ctypes.data) + stride
    part = shift + x.itemsize
    done = x.size // GROUP * GROUP
    tail[GROUP] = 0
    for start in range(0, done, CHUNK):
        tail[GROUP + 1] = 0
        groups = (min(start + CHUNK, done) - start) // GROUP
        row_exp(one, np.int64(x.ctypes.data) + start * x.itemsize, stride, groups, shift, part, 1)
        total += np.float64(tail[GROUP + 1])
    if done < x.size:
        tail[GROUP + 1] = 0
        for i in range(GROUP):  # slices assigned to slices take seconds to compile
            tail[i] = x[done + i] if done + i < x.size else -np.inf
        row_exp(one, np.int64(tail.ctypes.data), stride, 1, shift, part, 1)
        total += np.float64(tail[GROUP + 1])
        for i in range(done, x.size):
            x[i] = tail[i - done]
    return total


@njit
def _max(x, tail):
    """Largest entry of x; NaN is ignored."""
    whole = x.size // GROUP
    tail[0] = -np.inf
    if whole > 0:
        at, best = np.int64(x.ctypes.data), np.int64(tail.ctypes.data)
        row_max(x.dtype.type(1), at, GROUP * x.itemsize, whole, best, 1)
    best = tail[0]
    for i in range(whole * GROUP, x.size):
        if x[i] > best:
            best = x[i]
    return best


@cached_njit
def add_bias(bias, y):
    """``y += bias`` for y (rows, dim)."""
    for r in range(len(y)):
        for c in range(bias.size):
            y[r, c] += bias[c]


@cached_njit
def sum_rows(x, total):
    """``total = sum of the rows of x`` (rows, dim), in float64."""
    total[:] = 0
    for r in range(len(x)):
        for c in range(total.size):
            total[c] += np.float64(x[r, c])


@cached_njit
def add_rows(x, total):
    """``total += x`` (rows, dim), total in float64."""
    for r in range(len(x)):
        for c in range(x.shape[1]):
            total[r, c] += np.float64(x[r, c])


@njit
def _gate_argument(x, a, b):
    return x * a if b == 0 else x * (a + b * x * x)


@cached_njit
def gate(x, a, b, y):
    """``y = x s, s = 1 / (1 + exp(-z)), z = x (a + b x^2)``, all (size,)."""
    one, tail = x.dtype.type(1), _tail(x)
    for start in range(0, x.size, CHUNK):
        xs, ys = x[start : start + CHUNK], y[start : start + CHUNK]
        for i in range(xs.size):
            ys[i] = -abs(_gate_argument(xs[i], a, b))
        _exp(ys, tail)  # e = exp(-|z|) does not overflow
        for i in range(xs.size):
            s = (one if xs[i] >= 0 else ys[i]) / (one + ys[i])
            ys[i] = xs[i] * s if s != 0 else s  # -inf * 0 is not 0


@cached_njit
def gate_backward(dy, x, a, b, dx):
    """``dx = dy (s + x s (1 - s) dz/dx)``, all (size,)."""
    one, three, tail = x.dtype.type(1), x.dtype.type(3), _tail(x)
    for start in range(0, x.size, CHUNK):
        xs, dys, dxs = x[start : start + CHUNK], dy[start : start + CHUNK], dx[start : start + CHUNK]
        for i in range(xs.size):
            dxs[i] = -abs(_gate_argument(xs[i], a, b))
        _exp(dxs, tail)
        for i in range(xs.size):
            e, r = dxs[i], one / (one + dxs[i])
            dz = a if b == 0 else a + three * b * xs[i] * xs[i]
            curve = xs[i] * dz * (e * r) if e != 0 else e  # x dz/dx may be infinite
            dxs[i] = dys[i] * r * ((one if xs[i] >= 0 else e) + curve)


@_sums
def _mean(x):
    total = x.dtype.type(0)
    for c in range(x.size):
        total += x[c]
    return total / x.dtype.type(x.size)


@_sums
def _mean_square(x, mean):
    total = x.dtype.type(0)
    for c in range(x.size):
        total += (x[c] - mean) * (x[c] - mean)
    return total / x.dtype.type(x.size)


@_sums
def _mean_products(dy, scale, x, mean, rstd):
    """Means of g and of g n, with g = dy scale and n = (x - mean) rstd."""
    ones, along = x.dtype.type(0), x.dtype.type(0)
    for c in range(x.size):
        g = dy[c] * scale[c]
        ones += g
        along += g * ((x[c] - mean) * rstd)
    size = x.dtype.type(x.size)
    return ones / size, along / size


@cached_njit
def norm(x, scale, bias, eps, y, mean, rstd):
    """``y = (x - mean) rstd scale + bias``, ``rstd = 1 / sqrt(mean((x - mean)^2) + eps)``.

    x and y are (rows, dim), mean and rstd (rows,). Without a bias (None), the mean is taken as 0.
    """
    one = x.dtype.type(1)
    for r in range(len(x)):
        m = x.dtype.type(0) if bias is None else _mean(x[r])
        mean[r] = m
        s = one / np.sqrt(_mean_square(x[r], m) + eps)
        rstd[r] = s
        for c in range(x.shape[1]):
            y[r, c] = (x[r, c] - m) * s * scale[c]
        if bias is not None:
            for c in range(x.shape[1]):
                y[r, c] += bias[c]


@cached_njit
def norm_backward(dy, x, scale, mean, rstd, dx, dscale, dbias):
    """Gradients of `norm`; dscale and dbias (dim,) are sums over these rows in float64.

    dbias is None without a bias.
    """
    zero = x.dtype.type(0)
    dscale[:] = 0
    if dbias is not None:
        dbias[:] = 0
    for r in range(len(x)):
        m, s = mean[r], rstd[r]
        # n = (x - m) s: the parts of its gradient g along the ones vector and along n do not reach x
        ones, along = _mean_products(dy[r], scale, x[r], m, s)
        if dbias is None:
            ones = zero  # no mean was subtracted
        for c in range(x.shape[1]):
            dx[r, c] = (dy[r, c] * scale[c] - ones - (x[r, c] - m) * s * along) * s
        for c in range(x.shape[1]):
            dscale[c] += np.float64(dy[r, c] * ((x[r, c] - m) * s))
        if dbias is not None:
            for c in range(x.shape[1]):
                dbias[c] += np.float64(dy[r, c])


@cached_njit
def add_earlier(tokens, bounds, back, table, y):
    """``y_t += table[tokens_{t - back}]`` where that is in the same sequence.

    tokens (batch, length), y (batch, length, dim), sequences begin at ``bounds``.
    """
    for b in range(len(tokens)):
        for s in range(bounds.size - 1):
            for t in range(bounds[s] + back, bounds[s + 1]):
                row = table[tokens[b, t - back]]
                for c in range(row.size):
                    y[b, t, c] += row[c]


@cached_njit
def sum_by_earlier(tokens, bounds, back, dy, ends, order, dtable):
    """``dtable_v = sum of dy_t with tokens_{t - back} = v``, the transpose of `add_earlier`.

    dy is (batch * length, dim). Sums are in float64, in the order of t. Scratch: ``ends`` has a number per
    token of the vocabulary, ``order`` one per token of the input.
    """
    batch, length = tokens.shape
    ends[:] = 0
    for b in range(batch):
        for s in range(bounds.size - 1):
            for t in range(bounds[s], bounds[s + 1] - back):
                ends[tokens[b, t]] += 1
    count = 0
    for v in range(ends.size):  # where the rows of each token begin
        count, ends[v] = count + ends[v], count
    for b in range(batch):
        for s in range(bounds.size - 1):
            for t in range(bounds[s], bounds[s + 1] - back):
                v = tokens[b, t]
                order[ends[v]] = b * length + t + back
                ends[v] += 1
    total, begin = np.empty(dtable.shape[1]), 0
    for v in range(ends.size):
        total[:] = 0
        for i in range(begin, ends[v]):
            for c in range(total.size):
                total[c] += np.float64(dy[order[i], c])
        for c in range(total.size):
            dtable[v, c] = total[c]
        begin = ends[v]


@_sums
def _sum(x):
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i])
    return total


@cached_njit
def cross_entropy(z, label, count, smoothing, z_loss, dz):
    """Sum over the rows of ``L - (1 - smoothing) z_label - smoothing mean_c z_c + z_loss L^2``, in float64,
    with L = log sum_c exp z_c; ``dz`` is its gradient over count.

    z and dz are (rows, classes); rows with a negative label are skipped, and their gradient is 0.
    """
    loss, tail = 0.0, _tail(z)
    one, count = z.dtype.type(1), z.dtype.type(count)
    others = z.dtype.type(smoothing / z.shape[1]) / count
    for r in range(len(z)):
        d = dz[r]
        if label[r] < 0:
            d[:] = 0
            continue
        largest = _max(z[r], tail)
        for c in range(d.size):
            d[c] = z[r, c] - largest
        shifted = np.float64(d[label[r]])
        if smoothing != 0:
            shifted = (1 - smoothing) * shifted + smoothing * (_sum(d) / d.size)
        total = _exp(d, tail)
        loss += math.log(total) - shifted
        factor = one / (count * z.dtype.type(total))
        if z_loss != 0:
            lse = np.float64(largest) + math.log(total)
            loss += z_loss * lse * lse
            factor *= z.dtype.type(1 + 2 * z_loss * lse)
        for c in range(d.size):
            d[c] *= factor
        if smoothing != 0:
            for c in range(d.size):
                d[c] -= others
        d[label[r]] -= z.dtype.type(1 - smoothing) / count
    return loss


@_sums
def _sum_squares(x):
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@cached_njit
def sum_squares(x):
    """Sum of x^2, in float64."""
    return _sum_squares(x)


@cached_njit
def sgd(g, numbers, p, v, new_p, new_v):
    """One step; ``numbers`` are the momentum and the learning rate."""
    momentum, lr = numbers
    for i in range(p.size):
        velocity = momentum * v[i] + g[i]
        new_v[i] = velocity
        new_p[i] = p[i] - lr * velocity


@cached_njit
def adam(g, numbers, p, m, v, new_p, new_m, new_v):
    """One step; ``numbers`` are b1, 1 - b1, b2, 1 - b2, 1 - lr decay, lr / (1 - b1^t), 1 / sqrt(1 - b2^t)
    and eps.
    """
    b1, c1, b2, c2, keep, rate, root, eps = numbers
    for i in range(p.size):
        mean = b1 * m[i] + c1 * g[i]
        square = b2 * v[i] + c2 * (g[i] * g[i])
        new_m[i], new_v[i] = mean, square
        new_p[i] = keep * p[i] - rate * (mean / (root * np.sqrt(square) + eps))
