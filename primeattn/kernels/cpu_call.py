"""From checked arguments to a run of the CPU kernels: plan, scratch, job, threads."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from . import cpu, threads
from .plan import make_plan
from .simd import LINE

SERIAL_WORK = 1_000_000  # multiply-adds below which waking a second thread costs more than it saves


def forward(out, lse, q, k, v, options):
    """Run the forward kernel; see :func:`primeattn.sparse_index_kernel`."""
    arrays = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    _call(cpu.forward, arrays, options, products=2, keep_queries=False)


def backward(dq, dk, dv, dout, q, k, v, out, lse, dlse, options):
    """Run the backward kernel; see :func:`primeattn.sparse_index_kernel_backward`."""
    arrays = {"q": q, "k": k, "v": v, "out": out, "lse": lse, "dout": dout, "dlse": dlse}
    _call(cpu.backward, arrays | {"dq": dq, "dk": dk, "dv": dv}, options, products=7, keep_queries=True)


def _call(kernel, arrays, options, products, keep_queries):
    if options.sequences.size == 0:
        return  # the arrays are empty
    q, k = arrays["q"], arrays["k"]
    plan = make_plan(options.patterns, k.shape[1], options.sequences, q.shape[3], q.itemsize)
    tables = plan.tables
    tasks = tables.query_tasks.size + (tables.key_tasks.size if keep_queries else 0)
    workers = min(threads.get_num_threads(), tasks) if plan.work * products > SERIAL_WORK else 1

    row = plan.lines * LINE
    per_query = {"queries": row, "douts": row, "minus_lse": q.itemsize, "minus_delta": q.itemsize}
    sizes = {"counters": LINE, "keys": plan.key_rows * row, "values": plan.key_rows * row}
    if keep_queries:
        sizes |= {name: -(-plan.query_rows * size // LINE) * LINE for name, size in per_query.items()}
    worker_bytes = cpu.scratch_bytes(plan.block, plan.lines, q.itemsize)
    sizes["scratch"] = workers * worker_bytes

    with nullcontext() if options.workspace is None else options.workspace.guard():
        total = sum(sizes.values()) + LINE
        if options.workspace is None:
            memory = np.empty(total, np.uint8)
        else:
            memory = options.workspace.scratch("kernels", total)
        address = -(-memory.ctypes.data // LINE) * LINE
        memory[address - memory.ctypes.data :][:LINE] = 0  # the counters
        job = np.zeros(1, cpu.JOB)
        for name, size in sizes.items():
            job[name] = address
            address += size
        for name, array in arrays.items():
            if array is not None:
                job[name] = array.ctypes.data
                job[name + "_batch"], job[name + "_head"], job[name + "_row"] = array.strides[:3]
        job["head_dim"], job["size"], job["lines"] = q.shape[3], q.itemsize, plan.lines
        job["group"], job["block"] = q.shape[1] // k.shape[1], plan.block
        job["key_rows"], job["query_rows"], job["scratch_bytes"] = (
            plan.key_rows,
            plan.query_rows,
            worker_bytes,
        )
        one, scale = q.dtype.type(1), q.dtype.type(options.scale)
        threads.run(lambda: kernel(one, scale, job, tables), workers)
