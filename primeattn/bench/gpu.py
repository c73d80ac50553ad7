"""Attention on a GPU: this library's kernels against torch's, over a grid of shapes."""

from __future__ import annotations

import itertools
import math
import time

from primeattn.bench.cpu import GLOBAL_TOKENS, SEQUENCES, WINDOW, Peers, Shape
from primeattn.bench.gpu_device import Device, EventTurn, ceilings
from primeattn.bench.gpu_peers import FLEX, GPU_PEERS, OURS, SDPA, GpuInputs
from primeattn.bench.peers import COMPILE_LIMIT, Unavailable
from primeattn.bench.timing import as_seconds, as_sizes, interleave
from primeattn.kernels.arguments import check_choice
from primeattn.patterns import Pattern

__all__ = ["DTYPES", "grid", "run"]

LENGTHS, HEAD_DIMS, HEADS = (4096, 16384, 65536), (64, 128), (1, 16)
DTYPES = ("bfloat16", "float32", "float16")
NOTES = (
    "shape: batch x heads x n x head_dim",
    "times are of the kernels alone, by events on the GPU, which never waits for the host; its caches are as "
    "the previous call left them",
    "SDPA works on all causal pairs; times faster: the fastest SDPA of the shape / primeattn",
    "efficiency: times faster / (causal pairs / pairs of the pattern)",
    "GFLOP/s: 4 head_dim flops for a pair forward, and 10 more backward (its least, five products)",
    "GB/s: two rows of head_dim numbers for a pair, a key and a value, through all caches",
    "of copy: GB/s relative to a copy of 1 GiB; of fma: GFLOP/s relative to float32 multiply-adds alone",
)


class GpuPeers(Peers):
    """Measures shapes on a GPU; see :class:`primeattn.bench.cpu.Peers`.

    Parameters
    ----------
    device : Device
    budget : float
        Seconds for a shape.
    late : callable
        Whether it is too late to start a long compilation.
    """

    per_pattern, dense, largest = (*OURS, FLEX), tuple(SDPA), {}

    def __init__(self, device, budget, late):
        super().__init__(budget, {})
        self.device, self.turn, self.late = device, EventTurn(device), late

    def draw(self, shape):
        return GpuInputs.draw(shape.batch, shape.heads, shape.n, shape.head_dim, shape.dtype)

    def prepare(self, peer, inputs, pattern, backward):
        return GPU_PEERS[peer](inputs, pattern, backward)

    def time(self, calls):
        return interleave(
            calls, self.budget, clock=self.device.clock, sleep=lambda seconds: None, turn=self.turn
        )

    def refuse(self, key, shape, threads):
        super().refuse(key, shape, threads)
        if key[0] == FLEX and self.late():
            raise Unavailable("left out: it takes long to compile, and little time was left")


def grid(lengths, heads, head_dims, dtypes):
    """Shapes, the most wanted first: long, many heads, then in the order of head_dims and dtypes."""
    for n, h, d in itertools.product(sorted(lengths, reverse=True), sorted(heads, reverse=True), head_dims):
        for dtype, backward in itertools.product(dtypes, (False, True)):
            yield Shape(1, h, n, d, dtype, backward)


def run(
    *, n=None, heads=None, head_dims=None, dtypes=None, sequences=None, budget=None, limit=None, save=None,
    clock=time.perf_counter,
) -> dict:  # fmt: skip
    """Time the grid and return the results, in the form written to JSON.

    Parameters
    ----------
    n, heads, head_dims : sequence of int, optional
        4096, 16384 and 65536; 1 and 16; 64 and 128 by default.
    dtypes : sequence of str, optional
        Among "bfloat16", "float32", "float16"; all by default.
    sequences : sequence of str, optional
        Names of the patterns' sequences; the window is 3, and there are 2 global tokens.
    budget : float, optional
        Seconds for a shape, 1 by default; exceeded if the fewest calls need more.
    limit : float, optional
        Seconds after which no shape is started; those left out are listed. FlexAttention, which takes long to
        compile, is left out after half this time, and when less than two minutes are left.
    save : callable, optional
        Called with the results so far, after each shape.

    Raises
    ------
    TypeError, ValueError
        Before anything is timed.
    """
    lengths, heads = as_sizes("n", n, LENGTHS), as_sizes("heads", heads, HEADS)
    head_dims = as_sizes("head_dims", head_dims, HEAD_DIMS)
    dtypes = list(DTYPES) if dtypes is None else list(dict.fromkeys(dtypes))
    for dtype in dtypes:
        check_choice("dtypes", dtype, DTYPES)
    patterns = {
        name: Pattern(name, window=WINDOW, global_tokens=GLOBAL_TOKENS) for name in sequences or SEQUENCES
    }
    budget, limit = as_seconds("budget", budget, 1), None if limit is None else as_seconds("limit", limit, 1)

    from tqdm import tqdm

    begun, shapes = clock(), list(grid(lengths, heads, head_dims, dtypes))

    def left():
        return math.inf if limit is None else limit - (clock() - begun)

    device = Device()
    results = {
        "benchmark": "gpu",
        "device": device.describe(),
        "settings": {
            "n": lengths, "heads": heads, "head_dims": head_dims, "dtypes": dtypes,
            "sequences": list(patterns), "window": WINDOW, "global_tokens": GLOBAL_TOKENS, "budget_s": budget,
            "limit_s": limit,
        },
        "notes": list(NOTES),
        "ceilings": ceilings(device, EventTurn(device)),
        "rows": [],
        "left_out": [],
    }  # fmt: skip
    peers = GpuPeers(device, budget, lambda: left() < max((limit or 0) / 2, COMPILE_LIMIT))
    with tqdm(total=len(shapes), desc="gpu", unit="shape", disable=None) as bar:
        for shape in shapes:
            bar.set_postfix_str(f"n = {shape.n}, {shape.heads} heads, {shape.dtype}")
            if left() < 0:
                results["left_out"].append(vars(shape))
            else:
                for row in peers.measure(shape, patterns, GPU_PEERS, 1):
                    results["rows"].append(_against(row, results["ceilings"]))
            if save is not None:
                save(results)
            bar.update()
    return results


def _against(row, ceilings):
    """Add to a row its shares of the ceilings."""
    del row["threads"]
    if row["peer"] in OURS and "gflops" in row:
        row["of_fma"] = row["gflops"] / ceilings["float32_gflops"]
        if "gb_per_s" in row:
            row["of_copy"] = row["gb_per_s"] / ceilings["copy_memory_gb_per_s"]
    matmul = ceilings.get(f"{row['dtype']}_matmul_gflops")
    if row["peer"] in SDPA and "gflops" in row and matmul:
        row["of_matmul"] = row["gflops"] / matmul
    return row
