"""Attention on the CPU: this library against its peers over a grid of shapes."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from primeattn.bench.peers import (
    LARGEST,
    PEERS,
    PER_PATTERN,
    GivenUp,
    Inputs,
    Unavailable,
    find_torch,
)
from primeattn.bench.report import CROWDED
from primeattn.bench.timing import as_seconds, as_sizes, blas_notes, interleave, thread_count, watched
from primeattn.kernels import get_num_threads, reference
from primeattn.patterns import Pattern

__all__ = ["BACKWARD", "FORWARD", "Peers", "Shape", "accuracy", "copy_bandwidth", "run"]

LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
SEQUENCES = ("primes", "squares", "mian_chowla")
WINDOW, GLOBAL_TOKENS = 3, 2
FORWARD, BACKWARD = "forward", "forward+backward"
PATIENCE = 12  # most seconds for a call of a peer
PRODUCTS = {FORWARD: 2, BACKWARD: 7}  # of head_dim multiply-adds per pair; the backward has five of the seven

NOTES = (
    "shape: batch x heads x n x head_dim, float32 unless stated otherwise",
    "primeattn: outputs allocated once and one Workspace for each shape, as in a training loop",
    "torch causal, torch mask and dense NumPy work on all pairs: their time is the same for any pattern",
    "efficiency: (time of torch causal / time of primeattn) / (causal pairs / pairs of the pattern)",
    "GFLOP/s: 4 head_dim flops for a pair forward, and 10 more backward (its least, five products)",
    "GB/s: two rows of head_dim numbers for a pair, a key and a value; compare with the copy",
    "*: one head in a batch of 1, where torch's backward on the CPU uses one thread, since it runs in "
    "parallel over batch and heads only",
    "scalar loop: one thread, as in PrimeAttention.jl",
    CROWDED,
)


@dataclass(frozen=True)
class Shape:
    """Shape of one measurement: (batch, heads, n, head_dim), forward alone or with the backward."""

    batch: int
    heads: int
    n: int
    head_dim: int = 64
    dtype: str = "float32"
    backward: bool = False

    @property
    def causal_pairs(self):
        return self.batch * self.heads * self.n * (self.n + 1) // 2

    @property
    def itemsize(self):
        return {"bfloat16": 2}.get(self.dtype) or np.dtype(self.dtype).itemsize


def run(*, n=None, heads=None, threads=None, sequences=None, budget=None, quick=False) -> dict:
    """Time the grid and return the results, in the form written to JSON.

    Parameters
    ----------
    n, heads, threads : sequence of int, optional
        Lengths, numbers of heads and of threads. By default 1024 to 65536; 1 and 8; 1 and as many as the
        kernels use.
    sequences : sequence of str, optional
        Names of the patterns' sequences; the window is 3, and there are 2 global tokens.
    budget : float, optional
        Seconds for a shape, 8 by default; exceeded if three calls of each peer need more. A peer is left out
        if one call is expected to take more than 12 s.
    quick : bool
        Smaller defaults, for a run of under a minute.

    Raises
    ------
    TypeError, ValueError
        Before anything is timed.
    """
    lengths = as_sizes("n", n, (256, 1024) if quick else LENGTHS)
    heads = as_sizes("heads", heads, (8,) if quick else (1, 8))
    threads = as_sizes("threads", threads, (get_num_threads(),) if quick else (1, get_num_threads()))
    patterns = {
        name: Pattern(name, window=WINDOW, global_tokens=GLOBAL_TOKENS) for name in sequences or SEQUENCES
    }
    budget = as_seconds("budget", budget, 1 if quick else 8)

    from tqdm import tqdm

    torch, rows, copies = find_torch(), [], {}
    cells = list(itertools.product(threads, _grid(lengths, heads, patterns)))
    peers = Peers(
        budget, {"FlexAttention": "left out of quick runs: it takes long to compile"} if quick else {}
    )
    with tqdm(total=len(cells), desc="cpu", unit="shape", disable=None) as bar:
        for count, (shape, names, asked) in cells:
            bar.set_postfix_str(f"n = {shape.n}, {count} threads")
            with thread_count(count, torch):
                chosen = {name: patterns[name] for name in names}
                rows += peers.measure(shape, chosen, asked, count)
                if count not in copies:
                    copies[count] = copy_bandwidth(count)
            bar.update()
    return {
        "benchmark": "cpu",
        "settings": {
            "n": lengths, "heads": heads, "threads": threads, "sequences": list(patterns),
            "window": WINDOW, "global_tokens": GLOBAL_TOKENS, "budget_s": budget, "quick": quick,
        },
        "notes": [*NOTES, *blas_notes()],
        "copy_gb_per_s": {str(count): copy for count, copy in copies.items()},
        "accuracy": accuracy(min(2048, max(lengths)), patterns),
        "rows": rows,
    }  # fmt: skip


def _grid(lengths, heads, patterns):
    """(shape, names of the sequences, names of the peers), lengths ascending for each kind of shape."""
    every, dense = list(patterns), ("primeattn", "torch causal")
    first, longest = every[:1], min(8192, max(lengths))
    for h, backward, n in itertools.product(heads, (False, True), lengths):
        yield Shape(1, h, n, backward=backward), every, tuple(PEERS)
    for backward in (False, True):
        for head_dim, dtype in ((32, "float32"), (80, "float32"), (128, "float32"), (64, "float64")):
            yield Shape(1, max(heads), longest, head_dim, dtype, backward), first, dense
        yield Shape(32, 4, 256, 32, backward=backward), first, dense


class Peers:
    """Measures shapes, and remembers which peers to skip.

    Parameters
    ----------
    budget : float
        Seconds for a shape.
    given_up : dict of str to str
        Peers to skip, and why.
    """

    per_pattern, dense = PER_PATTERN, ("torch causal",)  # ours is compared with the fastest of ``dense``
    largest = LARGEST

    def __init__(self, budget, given_up):
        self.budget, self.given_up = budget, dict(given_up)
        self._last = {}  # peer and shape without its length -> (length, seconds)

    def measure(self, shape, patterns, names, threads) -> list[dict]:
        """Rows of one shape: each peer of ``names``, with each pattern if that matters."""
        inputs, calls, skipped = self.draw(shape), {}, {}
        for peer in names:
            for sequence, pattern in (
                patterns.items() if peer in self.per_pattern else [*patterns.items()][:1]
            ):
                key = peer, sequence
                try:
                    self.refuse(key, shape, threads)
                    calls[key] = self.prepare(peer, inputs, pattern, shape.backward)
                except Unavailable as reason:
                    skipped[key] = str(reason)
                    if isinstance(reason, GivenUp):
                        self.given_up[peer] = str(reason)
        timings, others = watched(lambda: self.time(calls))
        for key, timing in timings.items():
            self._last[self._kind(key, shape, threads)] = shape.n, timing.median
        dense = [timings[key] for key in timings if key[0] in self.dense]
        dense = min(dense, key=lambda timing: timing.median, default=None)
        rows = []
        for key in [*timings, *skipped]:
            pattern = None if key[0] in self.dense else patterns[key[1]]
            row = _row(shape, *key, pattern, timings.get(key), skipped.get(key), dense)
            rows.append({"threads": threads, **row, "cores_of_others": others})
        return rows

    def draw(self, shape):
        sizes = shape.batch, shape.heads, shape.n, shape.head_dim
        return Inputs.draw(np.random.default_rng(0), *sizes, shape.dtype)

    def prepare(self, peer, inputs, pattern, backward):
        return PEERS[peer](inputs, pattern, backward)

    def time(self, calls):
        return interleave(calls, self.budget)

    def refuse(self, key, shape, threads):
        """Raise Unavailable if a peer is to be skipped."""
        peer = key[0]
        if peer in self.given_up:
            raise Unavailable(self.given_up[peer])
        if shape.n > self.largest.get(peer, shape.n):
            raise Unavailable(f"left out beyond n = {self.largest[peer]}")
        n, seconds = self._last.get(self._kind(key, shape, threads), (shape.n, 0))
        if not peer.startswith("primeattn") and seconds * (shape.n / n) ** 2 > PATIENCE:
            raise Unavailable(f"left out where a call would take more than {PATIENCE} s")

    @staticmethod
    def _kind(key, shape, threads):
        return *key, shape.batch, shape.heads, shape.head_dim, shape.dtype, shape.backward, threads


def _row(shape, peer, sequence, pattern, timing, skipped, dense):
    pairs = shape.causal_pairs
    if pattern is not None:
        pairs = shape.batch * shape.heads * pattern.num_pairs(shape.n)
    which = BACKWARD if shape.backward else FORWARD
    row = {
        "pass": which, "batch": shape.batch, "heads": shape.heads, "n": shape.n, "head_dim": shape.head_dim,
        "dtype": shape.dtype, "peer": peer, "sequence": None if pattern is None else sequence, "pairs": pairs,
    }  # fmt: skip
    if timing is None:
        return {**row, "skipped": skipped}
    seconds = timing.median
    row |= {"median_s": seconds, "q1_s": timing.low, "q3_s": timing.high}
    row |= {"calls": timing.calls, "rounds": timing.rounds, "ns_per_pair": 1e9 * seconds / pairs}
    row["gflops"] = 2e-9 * PRODUCTS[which] * shape.head_dim * pairs / seconds
    if not shape.backward:
        row["gb_per_s"] = 2e-9 * shape.itemsize * shape.head_dim * pairs / seconds
    if peer.startswith("primeattn") and dense is not None:
        row["speedup"] = dense.median / seconds
        row["efficiency"] = row["speedup"] * pairs / shape.causal_pairs
    return row


def copy_bandwidth(threads, nbytes=2**28) -> float:
    """GB/s, read and written together, when ``threads`` threads share the copy of ``nbytes`` bytes."""
    source, target = np.ones(nbytes, np.uint8), np.empty(nbytes, np.uint8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(6):
            start = time.perf_counter()
            for copied in [pool.submit(np.copyto, *part) for part in parts]:
                copied.result()
            times.append(time.perf_counter() - start)
    return 2e-9 * nbytes / float(np.median(times[1:]))  # the first touches new pages


def accuracy(n, patterns) -> list[dict]:
    """Largest errors of float32 results against float64, N(0, 1) inputs, 2 heads of 64.

    torch causal is compared with the formula over all causal pairs, the others with their pattern.
    """
    inputs = Inputs.draw(np.random.default_rng(1), 1, 2, n, 64, "float32")
    causal = Pattern(None, window=n)
    asked = [(peer, sequence) for sequence in patterns for peer in ("primeattn", "torch mask")]
    rows = []
    for peer, sequence in [*asked, ("torch causal", None)]:
        pattern = causal if sequence is None else patterns[sequence]
        try:
            results = PEERS[peer](inputs, pattern, True)()
        except Unavailable:
            continue
        q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
        out, lse = reference.forward(q, k, v, pattern)
        exact = {"out": out}
        exact |= zip(("dq", "dk", "dv"), reference.backward(dout, q, k, v, out, lse, pattern), strict=True)
        errors = {
            name: float(np.abs(np.asarray(result) - right).max())
            for (name, right), result in zip(exact.items(), results, strict=True)
        }
        rows.append({"peer": peer, "sequence": sequence, "n": n, **errors})
    return rows
