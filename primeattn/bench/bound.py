"""How far a call is from the speed of its own inner loops: time for a pair, over that of the micro-kernels.

The bound is what the micro-kernels alone take for a pair, on rows that are in the first-level cache: a score,
its softmax and its value in the forward; two scores, an exponential and three sums more in a backward of one
pass, four scores and two exponentials in one of two. Everything else that a call does counts against it. Call
and micro-kernels take turns in one process, on one thread.
"""

from __future__ import annotations

import itertools

import numba
import numpy as np

from primeattn.bench.report import SEQUENCE_STYLES, dress, number, plot_rows, table
from primeattn.bench.timing import as_seconds, as_sizes, interleave, thread_count, watched
from primeattn.compiled.addresses import zeros_on_lines
from primeattn.compiled.caches import cache_sizes
from primeattn.compiled.simd import GROUP, LINE, VECTOR, exp_times, row_exp, row_max
from primeattn.kernels import sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.call import SEQUENCE
from primeattn.kernels.cpu.plan import make_plan
from primeattn.kernels.cpu.records import make_job
from primeattn.kernels.cpu.tiles import ALONE, ZERO, Packed, axpy_group, dot_group
from primeattn.patterns import Pattern
from primeattn.plot.files import new_figure
from primeattn.workspace import Workspace

__all__ = ["figure", "run", "text"]

LENGTHS, SEQUENCES = (512, 2048, 8192), ("primes", "squares")
WINDOW, GLOBAL_TOKENS = 3, 2
ROWS = 32  # of a block; with eight more of keys and values they fit the first-level cache
GROUPS = 8  # of the softmax
TIMES = 200  # that a micro-kernel is repeated for one timing
FORWARD, BACKWARD = "forward", "forward+backward"


@numba.njit
def _dots(one, jobs, x, y, s, rows):
    x, y = _packed(x), _packed(y)
    for _ in range(TIMES):
        dot_group(one, ALONE, jobs[0], x, ZERO, y, rows, ZERO + 1, s.ctypes.data, ZERO, ZERO + ROWS, ZERO)


@numba.njit
def _axpys(one, jobs, x, y, s, rows):
    x, y = _packed(x), _packed(y)
    for _ in range(TIMES):
        axpy_group(one, ALONE, jobs[0], x, ZERO, y, rows, ZERO, ZERO + 1, s.ctypes.data, ZERO, ZERO + ROWS)


@numba.njit
def _softmax(one, s, maxima, sums):
    for _ in range(TIMES):
        row_max(one, s.ctypes.data, s.strides[0], GROUPS, maxima.ctypes.data, ROWS)
        row_exp(one, s.ctypes.data, s.strides[0], GROUPS, maxima.ctypes.data, sums.ctypes.data, ROWS)


@numba.njit
def _exponentials(one, s, ds, numbers):
    for _ in range(TIMES):
        at = numbers.ctypes.data
        exp_times(one, s.ctypes.data, ds.ctypes.data, at, at, numbers.strides[0], ROWS)


@numba.njit
def _packed(rows):
    return Packed(np.int64(rows.ctypes.data), len(rows))


def micro_kernels(head_dim, dtype) -> dict:
    """Calls of the micro-kernels by name, each with the number of pairs that it works on TIMES times.

    Examples
    --------
    >>> from primeattn.bench.bound import micro_kernels
    >>> sorted(micro_kernels(64, "float32"))
    ['axpy', 'dot', 'exp', 'softmax']
    """
    one = np.dtype(dtype).type(1)
    size, lines = one.itemsize, -(-head_dim * one.itemsize // LINE)
    numbers = {"head_dim": head_dim, "size": size, "lines": lines, "block": ROWS}
    job = make_job({}, numbers)
    x, y = (zeros_on_lines((ROWS + GROUP, lines * LINE // size), one.dtype) for _ in range(2))
    s, ds = (zeros_on_lines((GROUPS, ROWS, GROUP), one.dtype) for _ in range(2))
    maxima, sums = (zeros_on_lines((ROWS,), one.dtype) for _ in range(2))
    rows = np.arange(GROUP)
    eight = tuple(rows.tolist())
    return {
        "dot": (lambda: _dots(one, job, x, y, s, eight), ROWS * GROUP),
        "axpy": (lambda: _axpys(one, job, x, y, s, rows), ROWS * GROUP),
        "softmax": (lambda: _softmax(one, s, maxima, sums), ROWS * GROUP * GROUPS),
        "exp": (lambda: _exponentials(one, s, ds, maxima), ROWS * GROUP),
    }


def products(which, fused) -> dict:
    """How often a pair goes through each micro-kernel."""
    counts = {"dot": 1, "axpy": 1, "softmax": 1}
    if which == BACKWARD:
        passes = 1 if fused else 2
        counts = {"dot": 1 + 2 * passes, "axpy": 1 + 3, "softmax": 1, "exp": passes}
    return counts


def run(*, n=None, heads=None, head_dims=None, sequences=None, budget=None) -> dict:
    """Time the shapes on one thread; return the results, as they are written to JSON.

    Parameters
    ----------
    n, heads, head_dims : sequence of int, optional
        By default 512, 2048 and 8192; 8; 64.
    sequences : sequence of str, optional
        Names of the patterns' sequences; the window is 3, and there are 2 global tokens.
    budget : float, optional
        Seconds for a shape, 3 by default.
    """
    lengths = as_sizes("n", n, LENGTHS)
    heads, head_dims = as_sizes("heads", heads, (8,)), as_sizes("head_dims", head_dims, (64,))
    patterns = {
        name: Pattern(name, window=WINDOW, global_tokens=GLOBAL_TOKENS) for name in sequences or SEQUENCES
    }
    budget = as_seconds("budget", budget, 3)

    from tqdm import tqdm

    cells = list(itertools.product(head_dims, heads, lengths, patterns, (FORWARD, BACKWARD)))
    rows = []
    with thread_count(1), tqdm(cells, desc="bound", unit="shape", disable=None) as bar:
        for head_dim, h, length, name, which in bar:
            bar.set_postfix_str(f"n = {length}")
            rows.append(measure(head_dim, h, length, patterns[name], which, budget) | {"sequence": name})
    return {
        "benchmark": "bound",
        "settings": {
            "n": lengths, "heads": heads, "head_dims": head_dims, "sequences": list(patterns),
            "window": WINDOW, "global_tokens": GLOBAL_TOKENS, "budget_s": budget, "threads": 1,
        },
        "vector_bytes": VECTOR,
        "cache_bytes": cache_sizes(),
        "rows": rows,
    }  # fmt: skip


def measure(head_dim, heads, n, pattern, which, budget, dtype="float32") -> dict:
    """One shape: the call and its micro-kernels in turns."""
    rng = np.random.default_rng(0)
    q, k, v, dout = rng.standard_normal((4, 1, heads, n, head_dim)).astype(dtype)
    out, lse = np.empty_like(q), np.empty(q.shape[:3], q.dtype)
    grads, workspace = [np.empty_like(q) for _ in range(3)], Workspace()

    def call():
        sparse_index_kernel(out, lse, q, k, v, pattern, workspace=workspace)
        if which == BACKWARD:
            sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern, workspace=workspace)

    sequences = np.array([(0, 0, n, 0, n, 0, 0, 0)], SEQUENCE)
    fused = make_plan((pattern,) * heads, heads, sequences, head_dim, q.itemsize, backward=True).fused
    kernels, pairs = micro_kernels(head_dim, dtype), heads * pattern.num_pairs(n)
    calls = {"call": call} | {name: kernel for name, (kernel, _) in kernels.items()}
    timings, others = watched(lambda: interleave(calls, budget))
    ns = {name: 1e9 * timings[name].median / (TIMES * count) for name, (_, count) in kernels.items()}
    bound = sum(ns[name] * count for name, count in products(which, fused).items())
    whole = timings["call"]
    return {
        "head_dim": head_dim,
        "heads": heads,
        "n": n,
        "pass": which,
        "fused": fused,
        "ns_per_pair": 1e9 * whole.median / pairs,
        "spread": (whole.high - whole.low) / (2 * whole.median),
        "micro_ns": ns,
        "bound_ns": bound,
        "ratio": 1e9 * whole.median / pairs / bound,
        "other_cores": others,
    }


def figure(results):
    """The ratio to the bound against length, for the most heads and the widest head: a Figure."""
    settings = results["settings"]
    wanted = {"heads": max(settings["heads"]), "head_dim": max(settings["head_dims"])}
    rows = [row for row in results["rows"] if all(row[name] == value for name, value in wanted.items())]
    fig = new_figure(figsize=(5.6, 4.4), layout="constrained")
    ax = fig.subplots()
    for name, (color, marker) in zip(settings["sequences"], SEQUENCE_STYLES * 9, strict=False):
        for which, dash in ((FORWARD, "-"), (BACKWARD, "--")):
            drawn = [row for row in rows if row["sequence"] == name and row["pass"] == which]
            label = f"{name.replace('_', '-')}, {which.replace('+', ' + ')}"
            plot_rows(
                ax, drawn, "ratio", color=color, marker=marker, markersize=4, linestyle=dash, label=label
            )
    ax.axhline(1, color="black", linewidth=0.8)
    title = f"{wanted['heads']} heads of {wanted['head_dim']}, one thread"
    ax.set(ylabel="time of a call / its inner loops alone", title=title)
    ax.set_ylim(bottom=0)
    dress(ax, settings["n"])
    return fig


def text(results) -> str:
    """The results as text."""
    header = ["shape", "sequence", "pass", "ns/pair", "spread", "bound", "over the bound"]
    lines = [
        [
            f"1x{row['heads']}x{row['n']}x{row['head_dim']}", row["sequence"], row["pass"],
            number(row["ns_per_pair"]), f"±{100 * row['spread']:.0f}%", number(row["bound_ns"]),
            number(row["ratio"]),
        ]
        for row in results["rows"]
    ]  # fmt: skip
    caches = ", ".join(f"{name} {size // 1024} KiB" for name, size in results["cache_bytes"].items())
    notes = (
        f"one thread, vectors of {results['vector_bytes']} bytes, {caches}; bound: the micro-kernels alone"
    )
    return f"{table(header, lines)}\n\n- {notes}"
