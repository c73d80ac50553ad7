"""From checked arguments to a run of the CPU kernels: plan, scratch, job, threads."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from primeattn.compiled import threads
from primeattn.compiled.simd import LINE
from primeattn.kernels.cpu import backward, backward_fused, forward, records, scalar
from primeattn.kernels.cpu.plan import make_plans

SERIAL_WORK = 1_000_000  # multiply-adds below which waking a second thread costs more than it saves


def run(call):
    """Run a checked call."""
    if call.target.kernel == "scalar":
        with nullcontext() if call.workspace is None else call.workspace.guard():
            scalar.run(call)
        return
    size = call.arrays["q"].itemsize
    plans = make_plans(call.patterns, call.kv_heads, call.sequences, call.head_dim, size, call.backward)
    for plan in plans:  # none where the arrays are empty
        if not call.backward:
            _forward(call, plan)
        elif plan.fused:
            _backward_in_one_pass(call, plan)
        else:
            _backward_in_two_passes(call, plan)


def _forward(call, plan):
    packs = {} if plan.gather else _key_packs(plan)
    size = call.arrays["q"].itemsize
    scratch_bytes = forward.scratch_bytes(plan.block, plan.lines, size, plan.gather, plan.local)
    _run(forward.forward, call, plan, packs, scratch_bytes, plan.tables.query_tasks.size, products=2)


def _backward_in_one_pass(call, plan):
    size, lengths, kv_heads = call.arrays["q"].itemsize, plan.tables.sequences["n_k"], call.kv_heads
    longest, routes = max(int(lengths.max()), 1), plan.tables.routes
    terms = int((routes["end"] - routes["begin"]).max()) * call.heads_per_key
    scratch_bytes = backward_fused.scratch_bytes(plan.block, plan.lines, size, longest, plan.local, terms)
    # A worker has room for the longest: so many of them as the rest takes as long as that.
    tasks = min(lengths.size * kv_heads, -(-int(lengths.sum()) * kv_heads // longest))
    _run(backward_fused.backward, call, plan, _key_packs(plan), scratch_bytes, max(tasks, 1), products=5)


def _backward_in_two_passes(call, plan):
    size = call.arrays["q"].itemsize
    rows, numbers = plan.query_rows * plan.lines * LINE, -(-plan.query_rows * size // LINE) * LINE
    packs = _key_packs(plan) | {"queries": rows, "douts": rows, "minus_lse": numbers, "minus_delta": numbers}
    tasks = plan.tables.query_tasks.size + plan.tables.key_tasks.size
    scratch_bytes = forward.scratch_bytes(plan.block, plan.lines, size, False, False)
    _run(backward.backward, call, plan, packs, scratch_bytes, tasks, products=7)


def _key_packs(plan):
    return dict.fromkeys(("keys", "values"), plan.key_rows * plan.lines * LINE)


def _run(kernel, call, plan, packs, scratch_bytes, tasks, products):
    """Lay out scratch memory, ``packs`` by name and ``scratch_bytes`` per worker, and run the kernel."""
    q, workspace = call.arrays["q"], call.workspace
    workers = min(threads.get_num_threads(), tasks) if plan.work * products > SERIAL_WORK else 1
    sizes = {"counters": LINE} | packs | {"scratch": workers * scratch_bytes}
    total = sum(sizes.values()) + LINE
    numbers = {
        "head_dim": call.head_dim,
        "size": q.itemsize,
        "lines": plan.lines,
        "heads_per_key": call.heads_per_key,
        "block": plan.block,
        "gather": plan.gather,
        "local": plan.local,
        "key_rows": plan.key_rows,
        "query_rows": plan.query_rows,
        "scratch_bytes": scratch_bytes,
    }
    with nullcontext() if workspace is None else workspace.guard():
        memory = np.empty(total, np.uint8) if workspace is None else workspace.scratch("kernels", total)
        address = -(-memory.ctypes.data // LINE) * LINE
        memory[address - memory.ctypes.data :][:LINE] = 0  # the counters
        for name, size in sizes.items():
            numbers[name] = address
            address += size
        job = records.make_job(call.arrays, numbers)
        one, scale = q.dtype.type(1), q.dtype.type(call.scale)
        threads.run(lambda *way: kernel(one, scale, job, plan.tables, *way), workers)
