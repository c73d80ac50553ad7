"""From checked arguments to launches of the GPU kernels: memory, plan, kernels, results.

Arrays in the memory of the GPU are used in place, without waiting. NumPy arrays are copied there, and
the call waits until the results have been copied back.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from numba import cuda

from primeattn.kernels.call import ARRAYS, BFLOAT16, BIASES
from primeattn.kernels.cpu.drop_keys import drop_limit, signed_seed
from primeattn.kernels.gpu import device
from primeattn.kernels.gpu.gather import plan as planning
from primeattn.kernels.gpu.gather.backward import make_backward_keys, make_backward_queries
from primeattn.kernels.gpu.gather.forward import make_forward
from primeattn.kernels.gpu.gather.rows import make_rows
from primeattn.kernels.gpu.gather.sums import SUM_BYTES, THREADS, make_bias_gradients
from primeattn.kernels.gpu.gather.terms import Terms
from primeattn.kernels.gpu.memory import scratch
from primeattn.kernels.gpu.ptx import VECTOR_BYTES
from primeattn.kernels.gpu.tables import Layout, check_limits
from primeattn.kernels.gpu.wheel.backward import make_wheel_keys, make_wheel_queries
from primeattn.kernels.gpu.wheel.backward_wide import make_wide_keys, make_wide_queries
from primeattn.kernels.gpu.wheel.forward import make_wheel_forward
from primeattn.kernels.gpu.wheel.plan import choose, make_wheel_plan
from primeattn.wheel.tables import ONE_WARP

__all__ = ["Launch", "run"]

ALIGN = 256
SLOTS = 2 * planning.BLOCKS  # blocks with sums for gradients of biases
FORWARD = ("out", "lse", "q", "k", "v")  # arrays that the kernels take, in order
BACKWARD_QUERIES = ("dq", "lse_delta", "dout", "q", "k", "v", "out", "lse", "dlse")
BACKWARD_KEYS = ("dk", "dv", "lse_delta", "dout", "q", "k", "v")
TERMS = ("offset_bias", "global_bias", "slopes", "dropout_seed")  # and what kernels with terms take, too
SUMS = {"doffset_bias": "offset_sums", "dglobal_bias": "global_sums"}  # for gradients of biases
STORAGE = {np.dtype(name): name for name in ("float64", "float32", "float16")} | {BFLOAT16: "bfloat16"}


class Launch(NamedTuple):
    """The kernels of a call, for arrays of one layout wherever they lie."""

    kernels: tuple  # (configured kernel, names of the arrays whose addresses it takes, the rest), in order
    plans: tuple  # whose tables the kernels read; kept as long as they may be launched
    scratch: dict  # bytes of memory that the kernels need besides the arrays, by name
    where: tuple  # device, handle of the stream

    def run(self, at):
        """Launch with addresses ``at`` by name; an array without one was not given."""
        for kernel, names, rest in self.kernels:
            kernel(*[at.get(name, 0) for name in names], *rest)

    def run_again(self, at, workspace):
        """Launch once more, for arrays in the memory of the GPU; what they need has been checked."""
        if not self.scratch:
            return self.run(at)
        with nullcontext() if workspace is None else workspace.guard():
            spans, total = _spans(self.scratch)
            base = _address(_scratch(total, workspace, *self.where))
            at |= {name: base + span.start for name, span in spans.items()}
            self.run(at)


def run(call) -> Launch:
    """Run a checked call; return how to repeat it."""
    return _backward(call) if call.backward else _forward(call)


def _forward(call):
    with _resident(call, ("q", "k", "v", *TERMS), ("out", "lse"), {}) as (at, strides, stream):
        layout = _layout(call, at, strides)
        scale, wheel = _scale(layout, call), choose(call, layout)
        terms, names, given = _terms(layout, call)
        shape, kernels = (call.patterns, call.kv_heads, call.sequences, strides, layout), []
        if wheel is None:
            plan = planning.make_plan(*shape, biased="offset_bias" in at)
            kernel = make_forward(*layout, plan.threads, planning.CHUNK, terms)
            threads, rest = plan.threads, (*plan.addresses, plan.later, scale, *given)
        else:
            plan = make_wheel_plan(*shape, wheel)
            kernel = make_wheel_forward(layout.storage, layout.head_dim, plan.groups, plan.columns)
            threads, rest = 32 * plan.groups, (*plan.addresses, wheel, scale)
        if plan.query_tiles:
            kernel = device.configured(kernel, (plan.query_tiles, len(call.patterns)), threads, stream)
            kernels.append((kernel, FORWARD + names, rest))
        launch = Launch(tuple(kernels), (plan,), {}, _where(call))
        launch.run(at)
    return launch


def _backward(call):
    lse, inputs = call.arrays["lse"], ("q", "k", "v", "dout", "out", "lse", "dlse", *TERMS)
    heads, kv_heads = len(call.patterns), call.kv_heads
    wanted, slots = [name for name in SUMS if name in call.arrays], max(SLOTS // len(call.patterns), 1)
    scratch = {"lse_delta": 2 * lse.size * lse.itemsize}
    scratch |= {SUMS[name]: SUM_BYTES * slots * call.arrays[name].size for name in wanted}
    with _resident(call, inputs, ("dq", "dk", "dv", *SUMS), scratch) as (at, strides, stream):
        batch_rows, rows, number = lse.shape[1] * lse.shape[2], lse.shape[2], 2 * lse.itemsize
        strides["lse_delta"] = (batch_rows * number, rows * number, number)
        layout = _layout(call, at, strides)
        scale, wheel = _scale(layout, call), choose(call, layout)
        terms, of_terms, given = _terms(layout, call)
        shape, kernels = (call.patterns, call.kv_heads, call.sequences, strides, layout), []

        def add(kernel, tiles, heads, threads, names, *rest):
            if tiles:
                kernel = device.configured(kernel, (tiles, heads), threads, stream)
                kernels.append((kernel, names, rest))

        if wheel is None:
            shape, summed = (*shape, "all", "offset_bias" in at), bool(wanted)
            plan, key_plan = planning.make_plan(*shape, summed), planning.make_plan(*shape)
            kernel = make_backward_queries(*layout, plan.threads, planning.CHUNK, terms, summed)
            names, rest = BACKWARD_QUERIES + of_terms, (*plan.addresses, scale, *given)
            blocks = plan.query_tiles
            if summed:
                blocks = slots = min(slots, blocks)
                names, rest = names + tuple(SUMS.values()), (*rest, plan.query_tiles, slots)
            add(kernel, blocks, heads, plan.threads, names, *rest)
        else:
            plan = make_wheel_plan(*shape, wheel, with_keys=True)
            rows, threads = (layout.storage, layout.head_dim, plan.groups, plan.columns), 32 * plan.groups
            rest = *plan.addresses, wheel
            global_tokens = max(pattern.global_tokens for pattern in call.patterns)
            make_queries, make_keys = make_wheel_queries, make_wheel_keys
            if layout.head_dim > ONE_WARP:
                make_queries, make_keys, threads = make_wide_queries, make_wide_keys, 2 * threads
            add(make_queries(*rows), plan.query_tiles, heads, threads, BACKWARD_QUERIES, *rest, scale)
            rest = *rest, global_tokens, scale
            add(make_keys(*rows), plan.key_tiles, kv_heads, threads, BACKWARD_KEYS, *rest)
            key_plan = planning.make_plan(*shape, keys="global_tokens")  # which all queries meet
        kernel = make_backward_keys(*layout, key_plan.threads, planning.CHUNK, terms)
        names, rest = BACKWARD_KEYS + of_terms, (*key_plan.addresses, scale, *given)
        add(kernel, key_plan.key_tiles, kv_heads, key_plan.threads, names, *rest)
        for name in wanted:
            width, kernel = call.arrays[name].shape[1], make_bias_gradients(layout.storage)
            add(kernel, -(-width // THREADS), heads, THREADS, (name, SUMS[name]), slots, width)
        launch = Launch(tuple(kernels), (plan, key_plan), scratch, _where(call))
        launch.run(at)
    return launch


def _layout(call, at, strides):
    q = call.arrays["q"]
    row_bytes = call.head_dim * q.itemsize
    rows = [name for name in call.arrays if name not in ("lse", "dlse", *BIASES)]
    aligned = row_bytes % VECTOR_BYTES == 0 and all(
        at[name] % VECTOR_BYTES == 0 and all(stride % VECTOR_BYTES == 0 for stride in strides[name])
        for name in rows
    )
    return Layout(STORAGE[q.dtype], call.head_dim, aligned)


def _number(layout):
    return np.float64 if layout.storage == "float64" else np.float32


def _scale(layout, call):
    return _number(layout)(call.scale * make_rows(*layout).unit)


def _terms(layout, call):
    """What kernels are compiled for; names of the arrays and numbers that they take for it, and the rest."""
    if not call.terms:
        return None, (), ()
    number, unit = _number(layout), make_rows(*layout).unit
    biases = any(name in call.arrays for name in BIASES)
    cap = min((call.softcap or 1) * unit, float(np.finfo(number).max))
    given = drop_limit(call.dropout), number(1 / (1 - call.dropout)), number(cap), number(1 / cap)
    widths = (call.arrays[name].shape[1] if name in call.arrays else 0 for name in TERMS[:2])
    return Terms(biases, call.softcap is not None, call.dropout > 0), TERMS, (*given, *widths)


@contextmanager
def _resident(call, inputs, outputs, scratch):
    """Addresses and strides on the device by name, and the stream. ``scratch`` are bytes of more memory.

    Inputs in the memory of the host are copied to the device before, and outputs back after.
    """
    check_limits(call)
    arrays, target = call.arrays, call.target
    moved = {} if target.resident else arrays
    stream = cuda.external_stream(target.stream) if target.stream else 0
    with nullcontext() if call.workspace is None else call.workspace.guard():
        memory = _memory({name: a.nbytes for name, a in moved.items()} | scratch, call)
        strides = {name: _strides(arrays[name], dense=name in moved) for name in ARRAYS if name in arrays}
        at = {name: array.ctypes.data for name, array in arrays.items()}
        at |= {name: _address(part) for name, part in memory.items()}
        at["dropout_seed"] = signed_seed(call.dropout_seed)
        for name in moved.keys() & inputs:
            if moved[name].size:
                memory[name].copy_to_device(_bytes(np.ascontiguousarray(moved[name])), stream=stream)
        yield at, strides, stream
        for name in moved.keys() & outputs:
            if moved[name].size:
                _copy_back(moved[name], memory[name], stream)


def _memory(sizes, call):
    """Device memory of the given sizes, as parts of one buffer; none where all are 0."""
    spans, total = _spans(sizes)
    if total == 0:
        return {}
    if call.target.resident or call.workspace is not None:
        buffer = _scratch(total, call.workspace, *_where(call))
    else:  # copies of the caller's arrays, of any size, and waited for
        buffer = cuda.device_array(total, np.uint8)
    return {name: buffer[span] for name, span in spans.items() if span.stop > span.start}


def _spans(sizes):
    """Parts of a buffer by name, for so many bytes each, and the bytes of all."""
    spans, total = {}, 0
    for name, size in sizes.items():
        spans[name], total = slice(total, total + size), total + -(-size // ALIGN) * ALIGN
    return spans, total


def _where(call):
    return device.current_device(), call.target.stream or 0


def _scratch(nbytes, workspace, number, stream):
    if workspace is None:
        return scratch(nbytes, number, stream)
    return workspace.scratch("gpu", nbytes, cuda.device_array)


def _address(buffer):
    return buffer.device_ctypes_pointer.value


def _strides(array, dense):
    """Strides of batch, head and row in bytes: those of ``array``, or of a copy of it in C order."""
    strides = array.strides
    if dense:
        strides = np.cumprod([array.itemsize, *array.shape[:0:-1]], dtype=np.int64)[::-1].tolist()
    return tuple(stride if n > 1 else 0 for stride, n in zip(strides[:3], array.shape[:3], strict=True))


def _bytes(array):
    return array.reshape(-1).view(np.uint8)


def _copy_back(array, buffer, stream):
    whole = array if array.flags.c_contiguous else np.empty(array.shape, array.dtype)
    buffer.copy_to_host(_bytes(whole), stream=stream)
    cuda.synchronize()
    if whole is not array:
        array[...] = whole
