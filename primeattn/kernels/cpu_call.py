"""From checked arguments to a run of the CPU kernels: plan, scratch, job, threads."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from primeattn.kernels import cpu, fused, packing, threads
from primeattn.kernels.plan import make_plan, parts
from primeattn.kernels.simd import LINE

SERIAL_WORK = 1_000_000  # multiply-adds below which waking a second thread costs more than it saves


def forward(out, lse, q, k, v, options):
    """Run the forward kernel; see :func:`primeattn.sparse_index_kernel`."""
    arrays = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    for patterns, sequences in parts(options.patterns, options.sequences):  # none where the arrays are empty
        plan = make_plan(patterns, k.shape[1], sequences, q.shape[3], q.itemsize)
        packs = {} if plan.gather else _key_packs(plan)
        own = cpu.scratch_bytes(plan.block, plan.lines, q.itemsize, plan.gather, plan.local)
        _call(cpu.forward, arrays, options, plan, packs, own, plan.tables.query_tasks.size, products=2)


def backward(dq, dk, dv, dout, q, k, v, out, lse, dlse, options):
    """Run the backward kernel; see :func:`primeattn.sparse_index_kernel_backward`."""
    arrays = {"q": q, "k": k, "v": v, "out": out, "lse": lse, "dout": dout, "dlse": dlse}
    arrays |= {"dq": dq, "dk": dk, "dv": dv}
    for patterns, sequences in parts(options.patterns, options.sequences):
        plan = make_plan(patterns, k.shape[1], sequences, q.shape[3], q.itemsize, backward=True)
        run = _backward_in_one_pass if plan.fused else _backward_in_two_passes
        run(arrays, options, plan)


def _backward_in_one_pass(arrays, options, plan):
    size, lengths, kv_heads = arrays["q"].itemsize, plan.tables.sequences["n_k"], arrays["k"].shape[1]
    longest, routes = max(int(lengths.max()), 1), plan.tables.routes
    terms = int((routes["end"] - routes["begin"]).max()) * (arrays["q"].shape[1] // kv_heads)
    own = fused.scratch_bytes(plan.block, plan.lines, size, longest, plan.local, terms)
    # A worker has room for the longest: so many of them as the rest takes as long as that.
    tasks = min(lengths.size * kv_heads, -(-int(lengths.sum()) * kv_heads // longest))
    _call(fused.backward, arrays, options, plan, _key_packs(plan), own, max(tasks, 1), products=5)


def _backward_in_two_passes(arrays, options, plan):
    size = arrays["q"].itemsize
    rows, numbers = plan.query_rows * plan.lines * LINE, -(-plan.query_rows * size // LINE) * LINE
    packs = _key_packs(plan) | {"queries": rows, "douts": rows, "minus_lse": numbers, "minus_delta": numbers}
    tasks = plan.tables.query_tasks.size + plan.tables.key_tasks.size
    own = cpu.scratch_bytes(plan.block, plan.lines, size, False, False)
    _call(cpu.backward, arrays, options, plan, packs, own, tasks, products=7)


def _key_packs(plan):
    return dict.fromkeys(("keys", "values"), plan.key_rows * plan.lines * LINE)


def _call(kernel, arrays, options, plan, packs, own, tasks, products):
    """Lay out scratch memory, ``packs`` by name and ``own`` bytes per worker, and run the kernel."""
    q, workspace = arrays["q"], options.workspace
    workers = min(threads.get_num_threads(), tasks) if plan.work * products > SERIAL_WORK else 1
    sizes = {"counters": LINE} | packs | {"scratch": workers * own}
    total = sum(sizes.values()) + LINE
    job = {
        "head_dim": q.shape[3],
        "size": q.itemsize,
        "lines": plan.lines,
        "group": q.shape[1] // arrays["k"].shape[1],
        "block": plan.block,
        "gather": plan.gather,
        "local": plan.local,
        "key_rows": plan.key_rows,
        "query_rows": plan.query_rows,
        "scratch_bytes": own,
    }
    for name, array in arrays.items():
        if array is not None:
            job[name] = array.ctypes.data
            job[name + "_batch"], job[name + "_head"], job[name + "_row"] = array.strides[:3]
    with nullcontext() if workspace is None else workspace.guard():
        memory = np.empty(total, np.uint8) if workspace is None else workspace.scratch("kernels", total)
        address = -(-memory.ctypes.data // LINE) * LINE
        memory[address - memory.ctypes.data :][:LINE] = 0  # the counters
        for name, size in sizes.items():
            job[name] = address
            address += size
        jobs = np.array([tuple(job.get(name, 0) for name in packing.JOB.names)], packing.JOB)
        one, scale = q.dtype.type(1), q.dtype.type(options.scale)
        threads.run(lambda *way: kernel(one, scale, jobs, plan.tables, *way), workers)
