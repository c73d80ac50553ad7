"""Stages of :mod:`primeattn.bench.gpu_check` that measure constants of the library."""

from __future__ import annotations

import itertools
import math
import operator
import time

import numpy as np
from scipy.optimize import nnls

from primeattn.bench.cpu import SEQUENCES
from primeattn.bench.gpu_cases import Case, finding
from primeattn.bench.gpu_device import Array, Device, EventTurn, relauncher
from primeattn.bench.gpu_peers import GpuInputs
from primeattn.kernels import sparse_index_kernel
from primeattn.patterns import Pattern
from primeattn.wheel import cost, tables
from primeattn.workspace import Workspace

__all__ = ["HEADS", "auto", "fit_costs", "fit_rule", "tilings", "wheels"]

PASSES = {"forward": False, "backward": True}

AUTO_LENGTHS = (256, 1024, 4096, 16384)
HEADS, HEAD_DIMS, LENGTHS = 16, (64, 128), (4096, 16384, 65536)  # of the calls that compare wheels


def auto():
    """What AUTO_RULE should be on this machine, and how much time the present one loses."""
    from primeattn.kernels import arguments, dispatch, get_num_threads
    from primeattn.kernels.call import Target

    rows = []
    for name in ("primes", "squares", "mian_chowla"):
        pattern = Pattern(name, window=3, global_tokens=2)
        for n in AUTO_LENGTHS:
            case = Case(8, 8, n, n, 64, pattern=pattern)
            q, k, v, _, _ = case.draw("float32")
            out, lse, workspace = np.empty_like(q), np.empty(q.shape[:3], np.float32), Workspace()
            arrays = {"out": out, "q": q, "k": k, "v": v}
            call = arguments.check_forward(Target(None), arrays, {"pattern": pattern}, workspace)
            seconds = {}
            for device in ("cpu", "cuda"):
                times = []
                for _ in range(6):
                    start = time.perf_counter()
                    sparse_index_kernel(out, lse, q, k, v, pattern, device=device, workspace=workspace)
                    times.append(time.perf_counter() - start)
                seconds[device] = float(np.median(times[1:]))
            row = {"work": dispatch.work(call), "bytes": 2 * (q.nbytes + k.nbytes), **seconds}
            row["auto"] = "cuda" if dispatch.is_large(call) else "cpu"
            rows.append(row)
            yield finding(
                f"{name}, n = {n}: seconds on the CPU", seconds["cpu"], gpu=seconds["cuda"], row=row
            )
    rule = fit_rule(rows)
    yield finding("AUTO_RULE measured here", [float(f"{x:.2g}") for x in rule], threads=get_num_threads())
    yield finding("AUTO_RULE in use", list(dispatch.AUTO_RULE))
    lost = [row[row["auto"]] / min(row["cpu"], row["cuda"]) for row in rows]
    yield finding("time with the rule in use, over the best", float(math.prod(lost) ** (1 / len(lost))))


def fit_rule(rows):
    """(multiply-adds per call, per byte) that the CPU does in the time of a call through the GPU."""
    rate = float(np.median([row["work"] / row["cpu"] for row in rows]))  # multiply-adds per second
    weights = np.array([[1, row["bytes"]] for row in rows]) / np.array([[row["cuda"]] for row in rows])
    per_call, per_byte = np.linalg.lstsq(weights, np.ones(len(rows)), rcond=None)[0]  # relative errors
    return rate * max(float(per_call), 0), rate * max(float(per_byte), 0)


def wheels():
    """Seconds of "gather" and of "wheel" with each of WHEELS, and the constants of the cost model by them."""
    device, rows = Device(), []
    turn = EventTurn(device)
    for head_dim, n, name in itertools.product(HEAD_DIMS, LENGTHS, SEQUENCES):
        pattern = Pattern(name, window=3, global_tokens=2)
        inputs = GpuInputs.draw(1, HEADS, n, head_dim, "bfloat16")
        for wheel in (None, *cost.WHEELS):
            kernel = "gather" if wheel is None else "wheel"
            row = {"head_dim": head_dim, "n": n, "sequence": name, "wheel": wheel}
            if wheel is None:
                row["pairs"] = pattern.num_pairs(n)
            else:
                for name_of, backward in PASSES.items():
                    found = cost.divide(pattern, n, wheel, head_dim, backward)
                    row[name_of] = {"tiles": found.tiles, "met": found.met, "warps": found.warps}
            for name_of, backward in (("forward_s", False), ("both_s", True)):
                row[name_of] = float(np.median(turn(_calls(inputs, pattern, kernel, wheel, backward))))
            rows.append(row)
            yield finding("wheel", row["forward_s"], row=row)
    for name, value in fit_costs(rows).items():
        yield finding(f"{name} measured here", str(value))
        yield finding(f"{name} in use", str(getattr(cost, name)))


def fit_costs(rows) -> dict:
    """COSTS and PAIR by which the rows of the stage ``wheels`` take about as long as they did.

    A row counts the more, the nearer it is to the fastest of its shape: only those are ever chosen.
    """
    fastest = {}
    for row, backward in itertools.product(rows, PASSES.values()):
        shape = row["head_dim"], row["n"], row["sequence"], backward
        fastest[shape] = min(fastest.get(shape, math.inf), _seconds(row, backward))

    def solve(of_rows, backward, counts):
        """What each of the ``counts`` of a row costs, in nanoseconds."""
        sides, weights = [], []
        for row in of_rows:
            seconds = _seconds(row, backward)
            weights.append((fastest[row["head_dim"], row["n"], row["sequence"], backward] / seconds) ** 3)
            sides.append(weights[-1] * HEADS * np.array(counts(row)) / (1e9 * seconds))
        return [float(f"{x:.3g}") for x in nnls(np.array(sides), np.array(weights))[0]]

    found = {"COSTS": {}, "PAIR": {}}
    widths = sorted({row["head_dim"] for row in rows})
    for (name, backward), head_dim in itertools.product(PASSES.items(), widths):
        of_rows = [row for row in rows if row["head_dim"] == head_dim and row["wheel"] is not None]
        counts = operator.itemgetter("tiles", "met", "warps")
        costs = solve(of_rows, backward, lambda row, name=name, counts=counts: counts(row[name]))
        found["COSTS"][head_dim, backward] = cost.Costs(*costs)
    for backward in PASSES.values():
        of_rows = [row for row in rows if row["wheel"] is None]
        (found["PAIR"][backward],) = solve(
            of_rows, backward, lambda row: [row["pairs"] * row["head_dim"] / 64]
        )
    return found


def tilings():
    """Seconds of a forward, or of both passes, by the wheel with each of TILINGS; the first is in use."""
    turn, pattern = EventTurn(Device()), Pattern("primes", window=3, global_tokens=2)
    for head_dim, n in itertools.product(HEAD_DIMS, LENGTHS[1:]):
        inputs = GpuInputs.draw(1, HEADS, n, head_dim, "bfloat16")
        wheel = cost.choose_wheel((pattern,), n, head_dim, forced=True)
        for name, backward in PASSES.items():
            key = head_dim > tables.ONE_WARP, backward
            in_use = tables.TILINGS[key]
            for tiling in in_use:
                tables.TILINGS[key] = (tiling,)
                try:
                    seconds = turn(_calls(inputs, pattern, "wheel", wheel, backward))
                finally:
                    tables.TILINGS[key] = in_use
                check = f"head_dim {head_dim}, n = {n}, {name}: {tiling.rows} rows by {tiling.columns}"
                yield finding(check, float(np.median(seconds)), unit="s")


def _seconds(row, backward) -> float:
    return row["both_s"] - row["forward_s"] if backward else row["forward_s"]


def _calls(inputs, pattern, kernel, wheel, backward):
    """A forward, and a backward if ``backward``, with that wheel."""
    workspace, q = Workspace(), inputs.q
    arrays = {"out": q.empty_like(), "lse": Array.of(np.empty(q.shape[:3], np.float32))}
    arrays |= {"q": q, "k": inputs.k, "v": inputs.v}
    forward = relauncher(arrays, pattern, kernel, workspace, wheel)
    if not backward:
        return forward
    arrays |= {"dout": inputs.dout, **{name: q.empty_like() for name in ("dq", "dk", "dv")}}
    gradients = relauncher(arrays, pattern, kernel, workspace, wheel, backward=True)
    return lambda: (forward(), gradients())
