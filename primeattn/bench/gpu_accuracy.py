"""Stages of :mod:`primeattn.bench.gpu_check` that tell whether results are right, and always the same."""

from __future__ import annotations

import itertools

import numpy as np

from primeattn.bench.gpu_cases import (
    CASES,
    LIMITS,
    PATTERN,
    RESULTS,
    SERVES_ALL,
    STRIDED,
    Case,
    compute,
    dense_mask,
    errors,
    finding,
    guarded,
    number_of,
    refusals,
)
from primeattn.bench.gpu_device import Array, numbers, stored, torch_on_gpu
from primeattn.kernels import sparse_index_kernel, sparse_index_kernel_backward
from primeattn.nn import SparseIndexAttention, copy_cache, setup, with_cache
from primeattn.patterns import Pattern

__all__ = ["accuracy", "long", "repeats", "small"]

BACKWARDS = 30  # memory freed too early would be reused after about ten
LONG, LONG_SEQUENCES = 65536, ("primes", "squares")
CACHED = 64, 400  # head_dim, tokens


def accuracy(kernel, storage):
    """Every option against the float64 reference."""
    for name, case in CASES.items():
        yield from guarded(name, _accuracy(kernel, storage, name, case))
    yield from guarded("strided", _strided(kernel, storage))
    yield from guarded("NaN", _nan(kernel, storage))
    if kernel == SERVES_ALL and storage in ("float32", "float64"):  # what layers compute with
        yield from _cache(storage)


def _accuracy(kernel, storage, name, case):
    arrays = case.draw(storage)
    got, expected = compute(kernel, case, *arrays), case.expected(*arrays)
    limits = dict.fromkeys(case.results, LIMITS[storage]) | {"lse": LIMITS[number_of(storage)]}
    against = {"against": "bound"}
    torch = torch_on_gpu()
    empty_rows = not np.isfinite(expected[1]).all() or expected[0].size == 0
    if storage in ("float16", "bfloat16") and torch is not None and not empty_rows and case.of_torch:
        of_torch = _errors_of_torch(torch, case, arrays, expected)
        least = LIMITS[storage] / 16  # a quarter of a rounding, for when torch happens to be exact
        limits |= {result: max(2 * error, least) for result, error in of_torch.items()}
        against = {"against": "twice torch's error"}
    for result, error in errors(got, expected, case.results).items():
        yield finding(f"{name}: {result}", error, limits[result], **against)


def _errors_of_torch(torch, case, arrays, expected):
    """Errors of SDPA with the mask and dtype of the case, without lse, which it does not return."""
    *qkv, dout = (Array.of(a).torch(torch) for a in arrays[:4])
    q, k, v = (a.requires_grad_(True) for a in qkv)
    group = q.shape[1] // k.shape[1]
    mask = torch.from_numpy(dense_mask(case)).to("cuda")
    wide = (a.repeat_interleave(group, 1) for a in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, *wide, attn_mask=mask, scale=case.options.get("scale")
    )
    results = (out, None, *torch.autograd.grad(out, (q, k, v), dout))
    results = [e if a is None else a.detach().float().cpu().numpy()
               for a, e in zip(results, expected, strict=True)]  # fmt: skip
    found = errors(results, expected)
    del found["lse"]
    return found


def _strided(kernel, storage):
    """q, k and v as slices of one buffer in GPU memory, with rows that are not aligned to vectors."""
    (batch, heads, n, d), _ = STRIDED.shapes

    def view(which):
        return lambda a: a[:, :, :, which, 1 : d + 1].transpose(0, 2, 1, 3)

    host = stored(np.random.default_rng(1).standard_normal((batch, n, heads, 3, d + 3)), storage)
    dout = stored(np.random.default_rng(2).standard_normal(STRIDED.shapes[0]), storage)
    buffer, grads = Array.of(host), Array.of(host)
    q, k, v = (buffer.seen(view(i)) for i in range(3))
    dq, dk, dv = (grads.seen(view(i)) for i in range(3))
    out, lse = Array.of(dout), Array.of(np.zeros(dout.shape[:3], number_of(storage)))
    with refusals(kernel):
        sparse_index_kernel(out, lse, q, k, v, PATTERN, kernel=kernel)
        sparse_index_kernel_backward(dq, dk, dv, Array.of(dout), q, k, v, out, lse, PATTERN, kernel=kernel)
    inputs = *(np.ascontiguousarray(view(i)(host)) for i in range(3)), dout, None
    after = grads.download()
    got = out.download(), lse.download(), *(view(i)(after) for i in range(3))
    for result, error in errors([np.ascontiguousarray(a) for a in got], STRIDED.expected(*inputs)).items():
        kind = number_of(storage) if result == "lse" else storage
        yield finding(f"strided: {result}", error, LIMITS[kind])
    untouched = np.array_equal(
        *(numbers(np.ascontiguousarray(a[..., [0, d + 1, d + 2]])) for a in (after, host))
    )
    untouched &= np.array_equal(numbers(buffer.download()), numbers(host))
    yield finding("strided: nothing else is written", ok=bool(untouched))


def _nan(kernel, storage):
    """NaN reaches the rows that attend it and, unless a kernel works on whole tiles, no others."""
    case = CASES["gradient of lse"]
    q, k, v, dout, dlse = case.draw(storage)
    for array, part in ((k, 0.2), (v, 0.1), (q, 0.5)):
        array[0, 0, int(part * array.shape[2])] = stored(np.full(1, np.nan), storage)
    got = compute(kernel, case, q, k, v, dout, dlse)
    with np.errstate(invalid="ignore"):
        expected = case.expected(q, k, v, dout, dlse)
    ok = np.equal if kernel == SERVES_ALL else np.greater_equal
    pairs = zip(got, expected, strict=True)
    yield finding("NaN", ok=all(ok(np.isnan(numbers(a)), np.isnan(b)).all() for a, b in pairs))


def _cache(storage):
    """A layer that goes on from a cache on the GPU: a prompt, padded on the left, and then single tokens."""
    (head_dim, n), rng = CACHED, np.random.default_rng(3)
    layer = SparseIndexAttention(
        4 * head_dim, PATTERN, heads=4, kv_heads=2, v_dim=head_dim - 1, rotary=1e4, device="cuda"
    )
    ps, st = setup(rng, layer, np.dtype(storage))
    x, missing = rng.standard_normal((3, n, layer.dims)).astype(storage), np.array([0, n // 3, n - 2])
    cached = with_cache(layer, st, 3, n, start=-missing, dtype=np.dtype(storage))
    ends = [n // 2, *range(n // 2 + 1, n + 1)]
    got, copied = [], None
    for begin, end in itertools.pairwise([0, *ends]):
        if end == n:
            copied = copy_cache(cached)
        y, cached = layer(x[:, begin:end], ps, cached)
        got.append(y)
    got, error = np.concatenate(got, axis=1), 0.0
    for b, first in enumerate(missing.tolist()):
        whole, _ = layer(x[b : b + 1, first:], ps, st)
        error = max(error, *errors([got[b, first:]], [whole[0]], ("y",)).values())
    yield finding("cache: y", error, LIMITS[storage])
    again, _ = layer(x[:, -1:], ps, copied)
    yield finding("cache: a copy goes on alike", ok=again.tobytes() == got[:, -1:].tobytes())


def repeats(kernel, storage):
    """Two runs give the same bits; so do many backwards in a row, without a workspace."""
    yield from guarded(storage, _repeats(kernel, storage))


def _repeats(kernel, storage):
    case = Case(4, 2, 2000, 2000, 64)
    arrays = case.draw(storage)
    one = yield from _twice(storage, kernel, case, arrays)
    q, k, v, dout, _ = (a if a is None else Array.of(a) for a in arrays)
    out, lse, *grads = (Array.of(a) for a in one)
    for _ in range(BACKWARDS):
        sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, case.pattern, kernel=kernel)
    same = [a.download().tobytes() == b.tobytes() for a, b in zip(grads, one[2:], strict=True)]
    yield finding(f"{storage}, {BACKWARDS} backwards without a workspace", ok=all(same))
    if kernel == SERVES_ALL:
        case = CASES["all terms"]
        yield from _twice(f"{storage}, all terms", kernel, case, case.draw(storage))


def _twice(check, kernel, case, arrays):
    """A finding, whether two runs are the same; return the results of one."""
    one, two = (compute(kernel, case, *arrays) for _ in range(2))
    yield finding(check, ok=all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True)))
    return one


def small(kernel, storage, *names):
    """A few small calls to run under compute-sanitizer."""
    for name in names:
        yield from guarded(f"{storage}, {name}", _small(kernel, storage, name))


def _small(kernel, storage, name):
    compute(kernel, CASES[name], *CASES[name].draw(storage))
    yield finding(f"{storage}, {name}", ok=True)


def long(kernel, storage):
    """Some rows at a length for which the full reference does not fit in memory."""
    for name in LONG_SEQUENCES:
        pattern = Pattern(name, window=3, global_tokens=2)
        yield from guarded(name, _long(kernel, storage, name, Case(2, 1, LONG, LONG, 64, pattern=pattern)))


def _long(kernel, storage, name, case):
    arrays = case.draw(storage)
    got = compute(kernel, case, *arrays)
    q, k, v, dout = (numbers(a)[0] for a in arrays[:4])
    out, lse, dq, dk, dv = (numbers(a)[0] for a in got)
    offsets, leading, scale = case.pattern.offsets(LONG), case.pattern.global_tokens, 64**-0.5
    chosen = [0, 1, 2, 3, 4, LONG // 3, LONG // 2 + 1, LONG - 2, LONG - 1]
    worst = dict.fromkeys(RESULTS, 0.0)

    def note(result, row, expected):
        error = float(np.abs(row - expected).max() / max(np.abs(expected).max(), 0.1))
        worst[result] = max(worst[result], error)

    for h, i in itertools.product(range(2), chosen):
        keys = np.union1d(np.arange(min(leading, i + 1)), i - offsets[offsets <= i])
        s = scale * (k[0, keys] @ q[h, i])
        p = np.exp(s - s.max())
        p /= p.sum()
        note("out", out[h, i], p @ v[0, keys])
        note("lse", lse[h, i], s.max() + np.log(np.exp(s - s.max()).sum()))
        ds = p * (v[0, keys] @ dout[h, i] - dout[h, i] @ out[h, i])
        note("dq", dq[h, i], scale * ds @ k[0, keys])
    for j in chosen:
        queries = np.arange(j, LONG) if j < leading else j + offsets[offsets < LONG - j]
        dk_j, dv_j = np.zeros((2, 64))
        for h in range(2):
            p = np.exp(scale * (q[h, queries] @ k[0, j]) - lse[h, queries])
            ds = p * (dout[h, queries] @ v[0, j] - (dout[h, queries] * out[h, queries]).sum(axis=1))
            dk_j += scale * ds @ q[h, queries]
            dv_j += p @ dout[h, queries]
        note("dk", dk[0, j], dk_j)
        note("dv", dv[0, j], dv_j)
    for result, error in worst.items():
        kind = number_of(storage) if result == "lse" else storage
        yield finding(f"{name}, n = {LONG}: {result}", error, LIMITS[kind])
