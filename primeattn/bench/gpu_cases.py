"""Calls that cover every option of the kernels, and the limits of their errors."""

from __future__ import annotations

import itertools
from contextlib import contextmanager

import numpy as np

from primeattn.bench.gpu_device import numbers, stored
from primeattn.kernels import attention, reference, sparse_index_kernel_backward
from primeattn.kernels.call import BFLOAT16
from primeattn.patterns import Pattern

__all__ = [
    "CASES", "DTYPES", "LIMITS", "PATTERN", "RESULTS", "SERVES_ALL", "STORAGE", "STRIDED", "Case", "compute",
    "dense_mask", "errors", "finding", "guarded", "number_of", "refusals",
]  # fmt: skip

PATTERN = Pattern("primes", window=3, global_tokens=2)
DTYPES = ("float32", "bfloat16", "float16", "float64")
STORAGE = {np.dtype(name): name for name in DTYPES if name != "bfloat16"} | {BFLOAT16: "bfloat16"}
SERVES_ALL = "gather"  # the kernel that must accept every call
RESULTS = ("out", "lse", "dq", "dk", "dv")
# Relative to the largest number. The 16-bit limits, a few roundings, are for results not compared with torch.
LIMITS = {"float32": 1e-5, "float64": 1e-12, "float16": 4 * 2**-11, "bfloat16": 4 * 2**-8}


class Case:
    """Inputs and options of a call.

    Parameters
    ----------
    heads, kv_heads, n_q, n_k, head_dim, batch : int
    pattern : Pattern or list of Pattern
    dlse : bool
        Whether to pass a gradient with respect to lse.
    terms : sequence of str
        Which of offset_bias, global_bias and slopes to pass, and gradients of biases to ask for.
    options
        Options of the kernels.
    """

    def __init__(
        self, heads, kv_heads, n_q, n_k, head_dim, batch=1, pattern=PATTERN, dlse=False, terms=(), **options
    ):  # fmt: skip
        self.shapes = (batch, heads, n_q, head_dim), (batch, kv_heads, n_k, head_dim)
        self.pattern, self.dlse, self.terms, self.options = pattern, dlse, terms, options
        self.sums = [f"d{name}" for name in ("offset_bias", "global_bias") if name in terms]

    @property
    def results(self) -> tuple[str, ...]:
        """Names of what is computed."""
        return *RESULTS, *self.sums

    @property
    def of_torch(self) -> bool:
        """Whether SDPA computes it, from a mask and a scale."""
        return not (self.dlse or self.terms or {"softcap", "dropout"} & self.options.keys())

    def given(self, storage) -> dict:
        """Options of the kernels, with the biases and slopes, in ``storage``."""
        rng, heads, n = np.random.default_rng(1), self.shapes[0][1], max(self.shapes[0][2], self.shapes[1][2])
        reach = n + int(np.max(self.options.get("q_start", 0)))
        patterns = self.pattern if isinstance(self.pattern, list) else [self.pattern]
        made = {
            "offset_bias": rng.standard_normal((heads, max(p.offsets(reach).size for p in patterns))),
            "global_bias": rng.standard_normal((heads, max(p.global_tokens for p in patterns))),
            "slopes": rng.uniform(0, 5 / n, heads),
        }
        return self.options | {name: stored(made[name], storage) for name in self.terms}

    def draw(self, storage):
        """q, k, v, dout and dlse, which may be None."""
        rng, (of_q, of_k) = np.random.default_rng(0), self.shapes
        q, dout, k, v = (stored(rng.standard_normal(shape), storage) for shape in (of_q, of_q, of_k, of_k))
        dlse = rng.standard_normal(of_q[:3]) if self.dlse else None
        return q, k, v, dout, dlse if dlse is None else stored(dlse, number_of(storage))

    def expected(self, q, k, v, dout, dlse):
        """Results in float64."""
        options = self.given(STORAGE[q.dtype])
        options |= {name: numbers(options[name]) for name in self.terms}
        q, k, v, dout = map(numbers, (q, k, v, dout))
        out, lse = reference.forward(q, k, v, self.pattern, **options)
        gradients = reference.backward(dout, q, k, v, out, lse, self.pattern, dlse=dlse, **options)
        return out, lse, *gradients


def _per_head(*windows):
    return [Pattern("squares", window=w, global_tokens=w % 3) for w in windows]


BIASES = ("offset_bias", "global_bias")
# Lengths that span several blocks, but few widths, as each takes seconds to compile.
CASES = {
    "plain": Case(2, 2, 700, 700, 64, 2),
    "shared keys, a pattern per head": Case(4, 2, 301, 301, 64, pattern=_per_head(0, 5, 9, 1)),
    "wide": Case(2, 1, 200, 200, 128, pattern=Pattern("mian_chowla", global_tokens=1)),
    "odd width, scale": Case(1, 1, 211, 211, 37, scale=-0.3),
    "gradient of lse": Case(2, 2, 150, 150, 64, dlse=True),
    "many globals": Case(1, 1, 333, 333, 64, pattern=Pattern(None, window=2, global_tokens=140)),
    "key range": Case(2, 1, 300, 400, 64, q_start=410, k_start=70),
    "rows without keys": Case(1, 1, 200, 200, 64, q_start=3, k_start=90),
    "decoding": Case(
        2, 1, 2, 900, 64, 2, q_start=np.array([898, 400]), k_start=np.array([0, 1])
    ),
    "packed": Case(2, 2, 400, 400, 64, cu_seqlens=[0, 1, 133, 133, 390, 400]),
    "one token": Case(1, 1, 1, 1, 64),
    "no keys": Case(1, 1, 9, 0, 64, q_start=5),
    "no queries": Case(1, 1, 0, 9, 64, q_start=5),
    "slopes": Case(2, 1, 333, 333, 64, terms=("slopes",)),
    "biases": Case(4, 2, 700, 700, 64, 2, pattern=_per_head(0, 5, 9, 1), terms=BIASES),
    "soft cap": Case(2, 1, 200, 200, 64, softcap=2.5),
    "dropout": Case(2, 1, 300, 300, 64, 2, dropout=0.3, dropout_seed=2**64 - 3),
    "all terms": Case(
        4, 2, 600, 600, 64, 2, terms=("slopes", *BIASES), softcap=2.5, dropout=0.3, dlse=True
    ),
    "all terms, odd width": Case(
        2, 1, 211, 211, 37, terms=("slopes", *BIASES), softcap=2.5, dropout=0.3, q_start=5, k_start=3
    ),
}  # fmt: skip
STRIDED = Case(2, 2, 130, 130, 37, 2)


def number_of(storage) -> str:
    """Return the dtype of lse for rows of ``storage``."""
    return "float64" if storage == "float64" else "float32"


def errors(got, expected, results=RESULTS):
    """Largest error of each result, relative to its largest number, or to 0.1 if all are smaller."""
    found = {}
    for name, a, b in zip(results, got, expected, strict=True):
        a, b = (np.nan_to_num(numbers(x), nan=1e9, neginf=-99) for x in (a, b))
        found[name] = float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 0.1))
    return found


def dense_mask(case) -> np.ndarray:
    """Return the (batch, heads, n_q, n_k) mask of a case."""
    (batch, heads, n_q, _), n_k = case.shapes[0], case.shapes[1][2]
    patterns = case.pattern if isinstance(case.pattern, list) else [case.pattern] * heads
    starts = [np.broadcast_to(case.options.get(name, 0), batch) for name in ("q_start", "k_start")]
    ends = case.options.get("cu_seqlens")
    mask = np.zeros((batch, heads, n_q, n_k), bool)
    for b, h in np.ndindex(batch, heads):
        if ends is None:
            mask[b, h] = reference.mask(patterns[h], n_q, n_k, int(starts[0][b]), int(starts[1][b]))
            continue
        for first, last in itertools.pairwise(ends):
            n = last - first
            mask[b, h, first:last, first:last] = reference.mask(patterns[h], n, n)
    return mask


def finding(check, value=None, limit=None, ok=None, **more) -> dict:
    """A finding of a stage of :mod:`primeattn.bench.gpu_check`; by default ok if within its limit."""
    if limit is not None and ok is None:
        ok = bool(value <= limit)
    return {"check": check, "ok": ok, "value": value, "limit": limit, **more}


class Refused(Exception):
    """A kernel does not support a call, and says so."""


@contextmanager
def refusals(kernel):
    try:
        yield
    except ValueError as error:
        if kernel == SERVES_ALL or not str(error).startswith("kernel:"):
            raise
        raise Refused(str(error)) from error


def guarded(check, findings):
    """Yield the findings of a check, or that the kernel refuses it."""
    try:
        yield from findings
    except Refused as reason:
        yield finding(check, note=f"refused: {reason}")


def compute(kernel, case, q, k, v, dout, dlse, **options):
    """Results of NumPy arrays, computed on the GPU."""
    storage = STORAGE[q.dtype]
    options = {"device": "cuda", "kernel": kernel, **case.given(storage), **options}
    with refusals(kernel):
        out, lse = attention(q, k, v, case.pattern, **options)
        grads = [stored(np.full(a.shape, np.nan), storage) for a in (q, k, v)]
        sums = {name: stored(np.full(options[name[1:]].shape, np.nan), storage) for name in case.sums}
        given = dout, q, k, v, out, lse, case.pattern
        sparse_index_kernel_backward(*grads, *given, dlse=dlse, **options, **sums)
    return out, lse, *grads, *sums.values()
