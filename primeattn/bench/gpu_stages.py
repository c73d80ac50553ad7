"""Stages of :mod:`primeattn.bench.gpu_check`, each run in a process of its own.

A stage yields findings: dicts with a ``check``, and ``ok``: True, False, or None if there is nothing to fail;
``value`` is what was measured, and ``limit`` what it must not exceed. As a program, ``python -m
primeattn.bench.gpu_stages STAGE ARGUMENT ...`` writes each at once as a line of JSON.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np

from primeattn.bench.gpu_cases import (
    CASES,
    LIMITS,
    PATTERN,
    RESULTS,
    STORAGE,
    STRIDED,
    Case,
    dense_mask,
    errors,
    finding,
    number_of,
)
from primeattn.bench.gpu_costs import auto, tilings, wheels
from primeattn.bench.gpu_device import Array, numbers, relauncher, stored
from primeattn.bench.peers import find_torch
from primeattn.kernels import attention, sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.gpu import device
from primeattn.patterns import Pattern
from primeattn.workspace import Workspace

__all__ = ["STAGES", "main"]

SERVES_ALL = "gather"  # the kernel that must accept every call
BACKWARDS = 30  # memory freed too early would be reused after about ten
LONG = 65536
HOST_LIMIT = 100e-6  # seconds of the host for a forward
PACKAGES = ("primeattn", "numpy", "numba", "numba-cuda", "llvmlite", "cuda-bindings", "torch", "cupy-cuda13x")


class Refused(Exception):
    """A kernel does not support a call, and says so."""


@contextmanager
def refusals(kernel):
    try:
        yield
    except ValueError as error:
        if kernel == SERVES_ALL or not str(error).startswith("kernel:"):
            raise
        raise Refused(str(error)) from error


def guarded(check, findings):
    """Yield the findings of a check, or that the kernel refuses it."""
    try:
        yield from findings
    except Refused as reason:
        yield finding(check, note=f"refused: {reason}")


def compute(kernel, case, q, k, v, dout, dlse, **options):
    """RESULTS of NumPy arrays, computed on the GPU."""
    options = {"device": "cuda", "kernel": kernel, **case.options, **options}
    with refusals(kernel):
        out, lse = attention(q, k, v, case.pattern, **options)
        grads = [stored(np.full(a.shape, np.nan), STORAGE[a.dtype]) for a in (q, k, v)]
        sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, case.pattern, dlse=dlse, **options)
    return out, lse, *grads


def versions():
    """Versions of packages, tools and driver, and whether a GPU can be used."""
    for name in PACKAGES:
        try:
            yield finding(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield finding(name, None)
    yield finding("python", sys.version.split()[0])
    for name, command in {
        "nvidia-smi": ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        "nvcc": ["nvcc", "--version"],
    }.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
            yield finding(name, done.stdout.strip().splitlines()[-1])
        except (OSError, subprocess.SubprocessError, IndexError):
            yield finding(name, None)
    yield finding("cuda.implementation", getattr(device.cuda, "implementation", None))
    try:
        yield finding("driver", ".".join(map(str, device.cuda.cudadrv.driver.driver.get_version())))
    except Exception as error:  # absent, or elsewhere in this version
        yield finding("driver", None, note=str(error).splitlines()[0] if str(error) else "")
    torch = find_torch()
    if torch is not None:
        yield finding("torch reaches the GPU", torch.cuda.is_available(), note=str(torch.version.cuda))
    described, reason = device.describe(), device.problem()
    yield finding("CUDA target", described["target"])
    yield finding("GPU", described["device"], ok=reason is None)


def accuracy(kernel, storage):
    """Every option against the float64 reference."""
    for name, case in CASES.items():
        yield from guarded(name, _accuracy(kernel, storage, name, case))
    yield from guarded("strided", _strided(kernel, storage))
    yield from guarded("NaN", _nan(kernel, storage))


def _accuracy(kernel, storage, name, case):
    arrays = case.draw(storage)
    got, expected = compute(kernel, case, *arrays), case.expected(*arrays)
    limits = dict.fromkeys(RESULTS, LIMITS[storage]) | {"lse": LIMITS[number_of(storage)]}
    against = {"against": "bound"}
    torch = _torch_on_gpu()
    empty_rows = not np.isfinite(expected[1]).all() or expected[0].size == 0
    if storage in ("float16", "bfloat16") and torch is not None and not empty_rows and not case.dlse:
        of_torch = _errors_of_torch(torch, case, arrays, expected)
        least = LIMITS[storage] / 16  # a quarter of a rounding, for when torch happens to be exact
        limits |= {result: max(2 * error, least) for result, error in of_torch.items()}
        against = {"against": "twice torch's error"}
    for result, error in errors(got, expected).items():
        yield finding(f"{name}: {result}", error, limits[result], **against)


def _torch_on_gpu():
    torch = find_torch()
    return torch if torch is not None and torch.cuda.is_available() else None


def _errors_of_torch(torch, case, arrays, expected):
    """Errors of SDPA with the mask and dtype of the case, without lse, which it does not return."""
    *qkv, dout = (Array.of(a).torch(torch) for a in arrays[:4])
    q, k, v = (a.requires_grad_(True) for a in qkv)
    group = q.shape[1] // k.shape[1]
    mask = torch.from_numpy(dense_mask(case)).to("cuda")
    wide = (a.repeat_interleave(group, 1) for a in (k, v))
    out = torch.nn.functional.scaled_dot_product_attention(
        q, *wide, attn_mask=mask, scale=case.options.get("scale")
    )
    results = (out, None, *torch.autograd.grad(out, (q, k, v), dout))
    results = [e if a is None else a.detach().float().cpu().numpy()
               for a, e in zip(results, expected, strict=True)]  # fmt: skip
    found = errors(results, expected)
    del found["lse"]
    return found


def _strided(kernel, storage):
    """q, k and v as slices of one buffer in GPU memory, with rows that are not aligned to vectors."""
    (batch, heads, n, d), _ = STRIDED.shapes

    def view(which):
        return lambda a: a[:, :, :, which, 1 : d + 1].transpose(0, 2, 1, 3)

    host = stored(np.random.default_rng(1).standard_normal((batch, n, heads, 3, d + 3)), storage)
    dout = stored(np.random.default_rng(2).standard_normal(STRIDED.shapes[0]), storage)
    buffer, grads = Array.of(host), Array.of(host)
    q, k, v = (buffer.seen(view(i)) for i in range(3))
    dq, dk, dv = (grads.seen(view(i)) for i in range(3))
    out, lse = Array.of(dout), Array.of(np.zeros(dout.shape[:3], number_of(storage)))
    with refusals(kernel):
        sparse_index_kernel(out, lse, q, k, v, PATTERN, kernel=kernel)
        sparse_index_kernel_backward(dq, dk, dv, Array.of(dout), q, k, v, out, lse, PATTERN, kernel=kernel)
    inputs = *(np.ascontiguousarray(view(i)(host)) for i in range(3)), dout, None
    after = grads.download()
    got = out.download(), lse.download(), *(view(i)(after) for i in range(3))
    for result, error in errors([np.ascontiguousarray(a) for a in got], STRIDED.expected(*inputs)).items():
        kind = number_of(storage) if result == "lse" else storage
        yield finding(f"strided: {result}", error, LIMITS[kind])
    untouched = np.array_equal(
        *(numbers(np.ascontiguousarray(a[..., [0, d + 1, d + 2]])) for a in (after, host))
    )
    untouched &= np.array_equal(numbers(buffer.download()), numbers(host))
    yield finding("strided: nothing else is written", ok=bool(untouched))


def _nan(kernel, storage):
    """NaN reaches the rows that attend it and, unless a kernel works on whole tiles, no others."""
    case = CASES["gradient of lse"]
    q, k, v, dout, dlse = case.draw(storage)
    for array, part in ((k, 0.2), (v, 0.1), (q, 0.5)):
        array[0, 0, int(part * array.shape[2])] = stored(np.full(1, np.nan), storage)
    got = compute(kernel, case, q, k, v, dout, dlse)
    with np.errstate(invalid="ignore"):
        expected = case.expected(q, k, v, dout, dlse)
    ok = np.equal if kernel == SERVES_ALL else np.greater_equal
    pairs = zip(got, expected, strict=True)
    yield finding("NaN", ok=all(ok(np.isnan(numbers(a)), np.isnan(b)).all() for a, b in pairs))


def repeats(kernel, storage):
    """Two runs give the same bits; so do many backwards in a row, without a workspace."""
    yield from guarded(storage, _repeats(kernel, storage))


def _repeats(kernel, storage):
    case = Case(4, 2, 2000, 2000, 64)
    arrays = case.draw(storage)
    one, two = (compute(kernel, case, *arrays) for _ in range(2))
    yield finding(storage, ok=all(a.tobytes() == b.tobytes() for a, b in zip(one, two, strict=True)))
    q, k, v, dout, _ = (a if a is None else Array.of(a) for a in arrays)
    out, lse, *grads = (Array.of(a) for a in one)
    for _ in range(BACKWARDS):
        sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, case.pattern, kernel=kernel)
    same = [a.download().tobytes() == b.tobytes() for a, b in zip(grads, one[2:], strict=True)]
    yield finding(f"{storage}, {BACKWARDS} backwards without a workspace", ok=all(same))


def small(kernel, storage, *names):
    """A few small calls to run under compute-sanitizer."""
    for name in names:
        yield from guarded(f"{storage}, {name}", _small(kernel, storage, name))


def _small(kernel, storage, name):
    compute(kernel, CASES[name], *CASES[name].draw(storage))
    yield finding(f"{storage}, {name}", ok=True)


def long(kernel, storage):
    """Some rows at a length for which the full reference does not fit in memory."""
    for name in ("primes", "squares"):
        pattern = Pattern(name, window=3, global_tokens=2)
        yield from guarded(name, _long(kernel, storage, name, Case(2, 1, LONG, LONG, 64, pattern=pattern)))


def _long(kernel, storage, name, case):
    arrays = case.draw(storage)
    got = compute(kernel, case, *arrays)
    q, k, v, dout = (numbers(a)[0] for a in arrays[:4])
    out, lse, dq, dk, dv = (numbers(a)[0] for a in got)
    offsets, leading, scale = case.pattern.offsets(LONG), case.pattern.global_tokens, 64**-0.5
    chosen = [0, 1, 2, 3, 4, LONG // 3, LONG // 2 + 1, LONG - 2, LONG - 1]
    worst = dict.fromkeys(RESULTS, 0.0)

    def note(result, row, expected):
        error = float(np.abs(row - expected).max() / max(np.abs(expected).max(), 0.1))
        worst[result] = max(worst[result], error)

    for h, i in itertools.product(range(2), chosen):
        keys = np.union1d(np.arange(min(leading, i + 1)), i - offsets[offsets <= i])
        s = scale * (k[0, keys] @ q[h, i])
        p = np.exp(s - s.max())
        p /= p.sum()
        note("out", out[h, i], p @ v[0, keys])
        note("lse", lse[h, i], s.max() + np.log(np.exp(s - s.max()).sum()))
        ds = p * (v[0, keys] @ dout[h, i] - dout[h, i] @ out[h, i])
        note("dq", dq[h, i], scale * ds @ k[0, keys])
    for j in chosen:
        queries = np.arange(j, LONG) if j < leading else j + offsets[offsets < LONG - j]
        dk_j, dv_j = np.zeros((2, 64))
        for h in range(2):
            p = np.exp(scale * (q[h, queries] @ k[0, j]) - lse[h, queries])
            ds = p * (dout[h, queries] @ v[0, j] - (dout[h, queries] * out[h, queries]).sum(axis=1))
            dk_j += scale * ds @ q[h, queries]
            dv_j += p @ dout[h, queries]
        note("dk", dk[0, j], dk_j)
        note("dv", dv[0, j], dv_j)
    for result, error in worst.items():
        kind = number_of(storage) if result == "lse" else storage
        yield finding(f"{name}, n = {LONG}: {result}", error, LIMITS[kind])


def streams(kernel):
    """torch tensors: work follows the current stream, and can be captured in a graph."""
    torch = _torch_on_gpu()
    if torch is None:
        yield finding("torch", note="not installed, or finds no GPU")
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
    torch = _torch_on_gpu()
    if torch is not None:
        _, forward, backward = _calls(kernel, storage, lambda array: array.torch(torch))
        yield finding("forward, torch tensors", _host_seconds(forward), unit="s")
        yield finding("backward, torch tensors", _host_seconds(backward), unit="s")
    try:
        import cupy
    except ImportError:
        yield finding("forward, CuPy arrays", note="cupy is not installed")
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


def _host_seconds(call, rounds=30, calls=20):
    """Median over rounds of the time per call, without waiting for the GPU."""
    call()
    times = []
    for _ in range(rounds):
        device.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    device.cuda.synchronize()
    return float(np.median(times))


def allocation(kernel):
    """Number of GPU allocations by repeated calls with a workspace."""
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

    for name, call in {"forward": forward, "backward": backward, "NumPy arrays, both": host}.items():
        call()
        manager.memalloc = counting
        made.clear()
        for _ in range(3):
            call()
        del manager.memalloc
        yield finding(f"{name}: allocations in three calls", len(made), 0)


STAGES = {
    "versions": versions, "accuracy": accuracy, "repeats": repeats, "long": long, "streams": streams,
    "small": small, "launch": launch, "allocation": allocation, "auto": auto, "wheels": wheels,
    "tilings": tilings,
}  # fmt: skip


def main(argv) -> int:
    """Run a stage; return exit status 1 if it raises."""
    name, *arguments = argv
    try:
        for found in STAGES[name](*arguments):
            print(json.dumps(found), flush=True)
    except Exception as error:  # a stage may fail in any way; earlier findings count
        message = (str(error).strip() or "no message").splitlines()[0]
        print(json.dumps(finding(f"{type(error).__name__}: {message}", ok=False)), flush=True)
        import traceback

        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
