"""Stages of :mod:`primeattn.bench.gpu_check` about launches: their stream, their seconds, their memory."""

from __future__ import annotations

import time

import numpy as np

from primeattn.bench.gpu_cases import PATTERN, SERVES_ALL, Case, compute, finding
from primeattn.bench.gpu_device import Array, relauncher, torch_on_gpu
from primeattn.kernels import attention, sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.gpu import device
from primeattn.workspace import Workspace

__all__ = ["allocation", "launch", "streams"]

HOST_LIMIT = 100e-6  # seconds of the host for a forward
ROUNDS, CALLS = 30, 20  # in which that is measured


def streams(kernel):
    """torch tensors: work follows the current stream, and can be captured in a graph."""
    torch = torch_on_gpu()
    if torch is None:
        yield finding("torch", note="it is not installed, or finds no GPU")
        return
    storage = _main_storage(kernel)
    case = Case(2, 2, 3000, 3000, 64)
    arrays = case.draw(storage)
    expected = compute(kernel, case, *arrays)
    q, k, v, dout = (Array.of(a).torch(torch) for a in arrays[:4])
    side, workspace = torch.cuda.Stream(), Workspace()
    a = torch.randn(4096, 4096, device="cuda")

    def same(got, wanted):
        return bool((Array.of(wanted).torch(torch) == got).all())

    with torch.cuda.stream(side):
        late = torch.zeros_like(q)
        for _ in range(20):
            a = a @ a / a.norm()  # work before q is copied for the kernel
        late.copy_(q)
        out, _ = attention(late, k, v, PATTERN, kernel=kernel, workspace=workspace)
    side.synchronize()
    yield finding("work of a side stream comes first", ok=same(out, expected[0]))

    static, graph = torch.zeros_like(q), torch.cuda.CUDAGraph()
    out, lse = attention(static, k, v, PATTERN, kernel=kernel, workspace=workspace)
    dq, dk, dv = (torch.empty_like(a) for a in (q, k, v))

    def both():
        options = {"kernel": kernel, "workspace": workspace}
        sparse_index_kernel(out, lse, static, k, v, PATTERN, **options)
        sparse_index_kernel_backward(dq, dk, dv, dout, static, k, v, out, lse, PATTERN, **options)

    both()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        both()
    static.copy_(q)
    graph.replay()
    torch.cuda.synchronize()
    ok = all(map(same, (out, lse, dq, dk, dv), expected))
    yield finding("a graph of torch replays forward and backward", ok=ok)


def launch(kernel):
    """Seconds that the host spends on a call at n = 256, with arrays in the memory of the GPU."""
    storage = _main_storage(kernel)
    arrays, forward, backward = _calls(kernel, storage, _of_numba)
    yield finding("forward, Numba device arrays", _host_seconds(forward), HOST_LIMIT, unit="s")
    yield finding("backward, Numba device arrays", _host_seconds(backward), unit="s")
    yield finding("of a forward, the launch alone", _host_seconds(_bare(arrays, kernel)), unit="s")
    seconds = _host_seconds(lambda: [array.__cuda_array_interface__ for array in arrays])
    yield finding("of a forward, the interfaces of its arrays", seconds, unit="s")
    torch = torch_on_gpu()
    if torch is None:
        yield finding("forward, torch tensors", note="torch is not installed, or finds no GPU")
    else:
        _, forward, backward = _calls(kernel, storage, lambda array: array.torch(torch))
        yield finding("forward, torch tensors", _host_seconds(forward), unit="s")
        yield finding("backward, torch tensors", _host_seconds(backward), unit="s")
    try:
        import cupy
    except Exception as error:  # not installed, or not fit for this CUDA
        yield finding("forward, CuPy arrays", note=f"cupy does not import ({type(error).__name__})")
        return
    _, forward, _ = _calls("gather", "float32", lambda array: cupy.asarray(array.memory))
    yield finding("forward, CuPy arrays", _host_seconds(forward), unit="s")


def _main_storage(kernel):
    return "float32" if kernel == SERVES_ALL else "bfloat16"


def _of_numba(array):
    return array if array.dtype == "bfloat16" else array.memory


def _calls(kernel, storage, adapt):
    """Arrays at n = 256, and a forward and a backward with them."""
    case = Case(16, 16, 256, 256, 64)
    q, k, v, dout, _ = (array if array is None else Array.of(array) for array in case.draw(storage))
    lse = adapt(Array.of(np.zeros(q.shape[:3], np.float32)))
    out, dq, dk, dv = (adapt(q.empty_like()) for _ in range(4))
    q, k, v, dout = map(adapt, (q, k, v, dout))
    options = {"kernel": kernel, "workspace": Workspace()}

    def forward():
        sparse_index_kernel(out, lse, q, k, v, PATTERN, **options)

    def backward():
        sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, PATTERN, **options)

    forward()
    return (out, lse, q, k, v), forward, backward


def _bare(arrays, kernel):
    """Only the launch of a forward, with its addresses ready."""
    given = dict(zip(("out", "lse", "q", "k", "v"), arrays, strict=True))
    return relauncher(given, PATTERN, kernel, Workspace())


def _host_seconds(call):
    """Median over rounds of the time per call, without waiting for the GPU."""
    call()
    times = []
    for _ in range(ROUNDS):
        device.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - start) / CALLS)
    device.cuda.synchronize()
    return float(np.median(times))


def allocation(kernel):
    """Number of GPU allocations by repeated calls with a workspace; one that is made must be counted."""
    manager, made = device.cuda.current_context().memory_manager, []
    memalloc = manager.memalloc

    def counting(size):
        made.append(size)
        return memalloc(size)

    storage = _main_storage(kernel)
    _, forward, backward = _calls(kernel, storage, _of_numba)
    case, workspace = Case(2, 2, 300, 300, 64), Workspace()
    arrays = case.draw(storage)

    def host():
        compute(kernel, case, *arrays, workspace=workspace)

    def count(call):
        manager.memalloc = counting
        made.clear()
        for _ in range(3):
            call()
        del manager.memalloc
        return len(made)

    for name, call in {"forward": forward, "backward": backward, "NumPy arrays, both": host}.items():
        call()
        yield finding(f"{name}: allocations in three calls", count(call), 0)
    yield finding("allocations are counted", ok=count(lambda: device.cuda.device_array(1, np.uint8)) == 3)
