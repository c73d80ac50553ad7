"""From checked arguments to a run of the CPU kernels: plan, scratch, job, threads."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np

from primeattn.compiled import threads
from primeattn.compiled.simd import LINE
from primeattn.kernels.call import BIASES
from primeattn.kernels.cpu import backward, backward_fused, forward, packing, records, scalar
from primeattn.kernels.cpu.gathering import IN_PLACE, lie_well
from primeattn.kernels.cpu.plan import make_plans
from primeattn.kernels.cpu.term_tables import GRADIENTS, collect, make_terms
from primeattn.kernels.cpu.tiles import ALONE, TWO
from primeattn.kernels.halves import rounded, widened

SERIAL_WORK = 1_000_000  # multiply-adds below which waking a second thread costs more than it saves


def run(call):
    """Run a checked call; small arrays of 16-bit numbers are widened before, and rounded after."""
    given = call.arrays
    biases = {name: widened(given[name]) for name in BIASES if name in given}
    _run_widened(replace(call, arrays=given | biases) if biases else call)
    for name in GRADIENTS:
        if name in given and biases[name] is not given[name]:
            given[name][...] = rounded(biases[name], given[name].dtype)


def _run_widened(call):
    if call.target.kernel == "scalar":
        with nullcontext() if call.workspace is None else call.workspace.guard():
            scalar.run(call)
        return
    size, join = call.computed.itemsize, not call.terms
    plans = make_plans(call.patterns, call.kv_heads, call.sequences, call.head_dim, size, call.backward, join)
    for name in GRADIENTS:
        if name in call.arrays:
            call.arrays[name][...] = 0
    for plan in plans:  # none where the arrays are empty
        if not call.backward:
            _forward(call, plan)
        elif plan.fused:
            _backward_in_one_pass(call, plan)
        else:
            _backward_in_two_passes(call, plan)


def _forward(call, plan):
    size = call.computed.itemsize
    scratch_bytes = forward.scratch_bytes(plan.block, plan.lines, size, plan.gather)
    # Rows that are not packed come from afar: a pair takes four times as long (measured).
    workers = _workers(plan, plan.tables.tasks.size, products=8 if plan.gather else 2)
    heads = ALONE if plan.together == 1 else TWO
    _run(forward.forward, call, plan, scratch_bytes, workers, plan.whole(workers), heads)


def _backward_in_one_pass(call, plan):
    size, lengths, kv_heads = call.computed.itemsize, plan.tables.sequences["n_k"], call.kv_heads
    longest, routes = max(int(lengths.max()), 1), plan.tables.routes
    added = int((routes["end"] - routes["begin"]).max()) * call.heads_per_key
    scratch_bytes = backward_fused.scratch_bytes(plan.block, plan.lines, size, longest, added)
    # A worker has room for the longest stage: so many workers as the rest takes as long as that.
    stages = min(plan.tables.stages.size, -(-int(lengths.sum()) * kv_heads // longest))
    workers = _workers(plan, max(stages, 1), products=5)
    _run(backward_fused.backward, call, plan, scratch_bytes, workers, whole=True)


def _backward_in_two_passes(call, plan):
    scratch_bytes = forward.scratch_bytes(plan.block, plan.lines, call.computed.itemsize, False)
    workers = _workers(plan, plan.tables.tasks.size, products=7)
    _run(backward.backward, call, plan, scratch_bytes, workers, plan.whole(workers))


def _workers(plan, tasks, products):
    return min(threads.get_num_threads(), tasks) if plan.work * products > SERIAL_WORK else 1


def _run(kernel, call, plan, scratch_bytes, workers, whole, *heads):
    """Lay out packed rows and ``scratch_bytes`` per worker, and run the kernel."""
    with nullcontext() if call.workspace is None else call.workspace.guard():
        if not call.terms:
            _run_with(kernel, call, plan, scratch_bytes, workers, whole, heads, None)
            return
        terms, room_bytes, memory = make_terms(call, plan, scratch_bytes)
        _run_with(kernel, call, plan, scratch_bytes + room_bytes, workers, whole, heads, terms)
        collect(call, terms)
        del memory  # the sums were there until now


def _run_with(kernel, call, plan, scratch_bytes, workers, whole, heads, terms):
    dtype, workspace, gather = call.computed, call.workspace, int(plan.gather)
    if gather and plan.single and lie_well(call.arrays["k"], call.arrays["v"], plan.lines):
        gather = IN_PLACE
    key_rows, query_rows = plan.rows_of_stage if whole else plan.rows_at_once
    packs_bytes = packing.packs_bytes(key_rows, query_rows, plan.lines, dtype.itemsize)
    sizes = {
        "counters": LINE,
        "packs": workers * packs_bytes if whole else packs_bytes,
        "scratch": workers * scratch_bytes,
    }
    total = sum(sizes.values()) + LINE
    numbers = {
        "head_dim": call.head_dim,
        "size": dtype.itemsize,
        "halves": records.halves_of(call.arrays["q"].dtype),
        "lines": plan.lines,
        "heads_per_key": call.heads_per_key,
        "block": plan.block,
        "gather": gather,
        "whole": whole,
        "key_rows": key_rows,
        "query_rows": query_rows,
        "packs_bytes": packs_bytes if whole else 0,
        "scratch_bytes": scratch_bytes,
    }
    memory = np.empty(total, np.uint8) if workspace is None else workspace.scratch("kernels", total)
    address = -(-memory.ctypes.data // LINE) * LINE
    memory[address - memory.ctypes.data :][:LINE] = 0  # the counters
    for name, size in sizes.items():
        numbers[name] = address
        address += size
    job = records.make_job(call.arrays, numbers)
    one, scale = dtype.type(1), dtype.type(call.scale)
    threads.run(lambda *way: kernel(one, *heads, scale, job, plan.tables, terms, *way), workers)
