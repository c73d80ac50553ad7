"""From checked arguments to launches of the GPU kernels: memory, plan, kernels, results.

Arrays in the memory of the GPU are used where they lie, and nothing is waited for. NumPy arrays are copied
there and their results back, which is waited for.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from numba import cuda

from primeattn.kernels.device_arrays import BFLOAT16
from primeattn.kernels.gpu import plan as planning
from primeattn.kernels.gpu import support
from primeattn.kernels.gpu.backward import make_backward_keys, make_backward_queries
from primeattn.kernels.gpu.forward import make_forward
from primeattn.kernels.gpu.memory import scratch
from primeattn.kernels.gpu.ptx import VECTOR_BYTES
from primeattn.kernels.gpu.rows import make_rows
from primeattn.kernels.gpu.wheel_backward import make_wheel_keys, make_wheel_queries
from primeattn.kernels.gpu.wheel_backward_wide import make_wide_keys, make_wide_queries
from primeattn.kernels.gpu.wheel_forward import make_wheel_forward
from primeattn.kernels.gpu.wheel_plan import choose, make_wheel_plan
from primeattn.kernels.wheel import ONE_WARP

__all__ = ["Launch", "backward", "forward"]

ALIGN = 256
FORWARD = ("out", "lse", "q", "k", "v")  # arrays that the kernels take, in order
BACKWARD_QUERIES = ("dq", "stats", "dout", "q", "k", "v", "out", "lse", "dlse")
BACKWARD_KEYS = ("dk", "dv", "stats", "dout", "q", "k", "v")
STORAGE = {np.dtype(name): name for name in ("float64", "float32", "float16")} | {BFLOAT16: "bfloat16"}


class Launch(NamedTuple):
    """The kernels of a call, for arrays of one layout wherever they lie."""

    kernels: tuple  # (configured kernel, names of the arrays whose addresses it takes, the rest), in order
    stats: int  # bytes of scratch memory
    where: tuple  # device, handle of the stream

    def run(self, at):
        """Launch with addresses ``at`` by name; an array that is not there is one that is not given."""
        for kernel, names, rest in self.kernels:
            kernel(*[at.get(name, 0) for name in names], *rest)

    def run_again(self, at, workspace):
        """Launch once more, for arrays in the memory of the GPU; what they need has been checked."""
        if not self.stats:
            return self.run(at)
        with nullcontext() if workspace is None else workspace.guard():
            at["stats"] = _address(_scratch(self.stats, workspace, *self.where))
            self.run(at)


def forward(out, lse, q, k, v, options):
    """Run the forward kernel, see :func:`primeattn.sparse_index_kernel`; return how to repeat."""
    inputs, outputs = {"q": q, "k": k, "v": v}, {"out": out, "lse": lse}
    with _resident(inputs, outputs, 0, options) as (at, strides, stream):
        layout = _layout(q, at, strides)
        scale, wheel = _scale(layout, options), choose(options.kernel, layout, options)
        shape, kernels = (options.patterns, k.shape[1], options.sequences, strides, layout), []
        if wheel is None:
            plan = planning.make_plan(*shape)
            kernel = make_forward(*layout, plan.threads, planning.CHUNK)
            threads, rest = plan.threads, (plan.tables, scale)
        else:
            plan = make_wheel_plan(*shape, wheel)
            kernel = make_wheel_forward(layout.storage, layout.head_dim, plan.groups, plan.columns)
            threads, rest = 32 * plan.groups, (plan.tables, plan.strings, wheel, scale)
        if plan.query_tiles:
            kernel = support.configured(kernel, (plan.query_tiles, q.shape[1]), threads, stream)
            kernels.append((kernel, FORWARD, rest))
        launch = Launch(tuple(kernels), 0, _where(options))
        launch.run(at)
    return launch


def backward(dq, dk, dv, dout, q, k, v, out, lse, dlse, options):
    """Run the backward kernels, see :func:`primeattn.sparse_index_kernel_backward`; return how to repeat."""
    inputs = {"q": q, "k": k, "v": v, "dout": dout, "out": out, "lse": lse, "dlse": dlse}
    outputs = {"dq": dq, "dk": dk, "dv": dv}
    stats = 2 * lse.size * lse.itemsize
    with _resident(inputs, outputs, stats, options) as (at, strides, stream):
        batch_rows, rows, number = lse.shape[1] * lse.shape[2], lse.shape[2], 2 * lse.itemsize
        strides["stats"] = (batch_rows * number, rows * number, number)
        layout = _layout(q, at, strides)
        scale, wheel = _scale(layout, options), choose(options.kernel, layout, options)
        shape, kernels = (options.patterns, k.shape[1], options.sequences, strides, layout), []

        def add(kernel, tiles, heads, threads, names, *rest):
            if tiles:
                kernel = support.configured(kernel, (tiles, heads), threads, stream)
                kernels.append((kernel, names, (*rest, scale)))

        heads, kv_heads = q.shape[1], k.shape[1]
        if wheel is None:
            plan = planning.make_plan(*shape, keys="all")
            kernel = make_backward_queries(*layout, plan.threads, planning.CHUNK)
            add(kernel, plan.query_tiles, heads, plan.threads, BACKWARD_QUERIES, plan.tables)
        else:
            plan = make_wheel_plan(*shape, wheel, with_keys=True)
            rows, threads = (layout.storage, layout.head_dim, plan.groups, plan.columns), 32 * plan.groups
            rest, columns = (plan.tables, plan.strings, wheel), max(p.global_tokens for p in options.patterns)
            make_queries, make_keys = make_wheel_queries, make_wheel_keys
            if layout.head_dim > ONE_WARP:
                make_queries, make_keys, threads = make_wide_queries, make_wide_keys, 2 * threads
            add(make_queries(*rows), plan.query_tiles, heads, threads, BACKWARD_QUERIES, *rest)
            add(make_keys(*rows), plan.key_tiles, kv_heads, threads, BACKWARD_KEYS, *rest, columns)
            plan = planning.make_plan(*shape, keys="columns")  # which all queries meet
        kernel = make_backward_keys(*layout, plan.threads, planning.CHUNK)
        add(kernel, plan.key_tiles, kv_heads, plan.threads, BACKWARD_KEYS, plan.tables)
        launch = Launch(tuple(kernels), stats, _where(options))
        launch.run(at)
    return launch


def _layout(q, at, strides):
    row_bytes = q.shape[3] * q.itemsize
    rows = [name for name in strides if name not in ("lse", "dlse", "stats")]
    aligned = row_bytes % VECTOR_BYTES == 0 and all(
        at[name] % VECTOR_BYTES == 0 and all(stride % VECTOR_BYTES == 0 for stride in strides[name])
        for name in rows
    )
    return planning.Layout(STORAGE[q.dtype], q.shape[3], aligned)


def _scale(layout, options):
    number = np.float64 if layout.storage == "float64" else np.float32
    return number(options.scale * make_rows(*layout).unit)


@contextmanager
def _resident(inputs, outputs, stats, options):
    """Addresses and strides on the device by name, and the stream. ``stats`` bytes are scratch memory.

    Inputs in the memory of the host are copied to the device before, and outputs back after.
    """
    arrays = {name: array for name, array in (inputs | outputs).items() if array is not None}
    planning.check_limits(arrays, options)
    moved = {} if options.resident else arrays
    stream = cuda.external_stream(options.stream) if options.stream else 0
    with nullcontext() if options.workspace is None else options.workspace.guard():
        memory = _memory({name: a.nbytes for name, a in moved.items()} | {"stats": stats}, options)
        strides = {name: _strides(array, dense=name in moved) for name, array in arrays.items()}
        at = {name: array.ctypes.data for name, array in arrays.items()}
        at |= {name: _address(part) for name, part in memory.items()}
        for name in inputs.keys() & moved.keys():
            if moved[name].size:
                memory[name].copy_to_device(_bytes(np.ascontiguousarray(moved[name])), stream=stream)
        yield at, strides, stream
        for name in outputs.keys() & moved.keys():
            if moved[name].size:
                _copy_back(moved[name], memory[name], stream)


def _memory(sizes, options):
    """Device memory of the given sizes, in parts of one buffer; nothing where nothing is needed."""
    spans, total = {}, 0
    for name, size in sizes.items():
        spans[name], total = slice(total, total + size), total + -(-size // ALIGN) * ALIGN
    if total == 0:
        return {}
    if options.resident or options.workspace is not None:
        buffer = _scratch(total, options.workspace, *_where(options))
    else:  # copies of the caller's arrays, of any size, and waited for
        buffer = cuda.device_array(total, np.uint8)
    return {name: buffer[span] for name, span in spans.items() if span.stop > span.start}


def _where(options):
    return support.current_device(), options.stream or 0


def _scratch(nbytes, workspace, device, stream):
    if workspace is None:
        return scratch(nbytes, device, stream)
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
