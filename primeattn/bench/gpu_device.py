"""Tools of the GPU benchmarks: arrays of any storage, times by events, and measured ceilings."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numba import float32

from primeattn.bench.peers import find_torch
from primeattn.kernels import arguments, dispatch
from primeattn.kernels.call import BFLOAT16
from primeattn.kernels.device_arrays import address_view
from primeattn.kernels.gpu.device import cuda  # None if it cannot be imported
from primeattn.kernels.halves import rounded, widened

__all__ = [
    "CHAINS", "TURN", "Array", "Device", "EventTurn", "ceilings", "fma_chains", "numbers", "stored",
    "torch_on_gpu",
]  # fmt: skip

TURN = 0.01  # seconds of GPU work in a turn
MOST_CALLS = 50  # in a turn; a few hundred launches fill the queue
FIRST_HOLD = 2e-3  # seconds for the host to launch the first call, whose time is unknown
CHAINS = 8  # of dependent multiply-adds per thread, which hide each other's latency
COPIES = {"memory": 2**30, "cache": 2**23}  # bytes: beyond every cache, and well within that of the whole GPU
MATRIX = 8192


def stored(array, storage) -> np.ndarray:
    """Return float32 or float64 numbers rounded to ``storage``, a name; bfloat16 as bits.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.bench.gpu_device import numbers, stored
    >>> numbers(stored(np.array([1 + 2**-9, 3.0]), "bfloat16"))
    array([1., 3.])
    """
    dtype = BFLOAT16 if storage == "bfloat16" else np.dtype(storage)
    return np.ascontiguousarray(rounded(np.asarray(array), dtype))


def numbers(array) -> np.ndarray:
    """Return the numbers of a stored array, in float64."""
    return widened(array).astype(np.float64)


class Array:
    """Array in the memory of a GPU: the Numba device array that owns it, the visible part of it, and the
    name of its storage if Numba lacks the dtype (bfloat16)."""

    def __init__(self, memory, dtype, part=None):
        self.memory, self.dtype = memory, dtype
        whole = memory.__cuda_array_interface__
        # The part has the address, shape and strides of what is visible, and is never read.
        self.part = part if part is not None else address_view(
            whole["data"][0], memory.shape, memory.dtype.str, memory
        )  # fmt: skip
        self.shape = self.part.shape

    @classmethod
    def of(cls, host):
        """A copy of a NumPy array as :func:`stored` returns it."""
        if host.dtype == BFLOAT16:
            return cls(cuda.to_device(host.view(np.int16)), "bfloat16")
        return cls(cuda.to_device(host), host.dtype)

    def empty_like(self):
        return Array(cuda.device_array(self.shape, self.memory.dtype), self.dtype)

    def seen(self, view):
        """The view that the function ``view`` makes of the array, such as a slice, on the same memory."""
        return Array(self.memory, self.dtype, view(self.part))

    @property
    def __cuda_array_interface__(self):
        return self.part.__array_interface__

    def torch(self, torch):
        """A tensor on the same memory."""
        tensor = torch.as_tensor(self.memory, device="cuda")
        return tensor.view(torch.bfloat16) if self.dtype == "bfloat16" else tensor

    def download(self) -> np.ndarray:
        """A copy of all the memory."""
        host = self.memory.copy_to_host()
        return host.view(BFLOAT16) if self.dtype == "bfloat16" else host


class Device:
    """The GPU: events on its default stream, and a kernel that keeps it busy."""

    def __init__(self):
        self._sink, self._chains = cuda.device_array(1024, np.float32), cuda.jit(fma_chains)
        for iterations in (1, 200_000):  # the first compiles
            marks = self.marked(lambda n=iterations: self.chains(1, 32, n))
            self.synchronize()
            self._iterations_per_s = iterations / self.elapsed(*marks)

    def describe(self) -> dict:
        gpu = cuda.get_current_device()
        name = gpu.name.decode() if isinstance(gpu.name, bytes) else gpu.name
        return {
            "name": name,
            "capability": ".".join(map(str, gpu.compute_capability)),
            "processors": self.processors,
            "memory_gb": cuda.current_context().get_memory_info()[1] / 1e9,
        }

    @property
    def processors(self) -> int:
        return cuda.get_current_device().MULTIPROCESSOR_COUNT

    def chains(self, blocks, threads, iterations):
        """Enqueue chains of multiply-adds."""
        self._chains[blocks, threads](self._sink, iterations)

    def marked(self, call):
        """Enqueue ``call`` between two new events and return them."""
        before, after = cuda.event(timing=True), cuda.event(timing=True)
        before.record()
        call()
        after.record()
        return before, after

    def elapsed(self, before, after) -> float:
        """Seconds between two past events."""
        return 1e-3 * cuda.event_elapsed_time(before, after)

    def hold(self, seconds):
        """Keep the GPU busy for about that long, so that the host can get ahead of it."""
        self.chains(1, 32, max(int(seconds * self._iterations_per_s), 1))

    def synchronize(self):
        cuda.synchronize()

    def clock(self) -> float:
        """Time of the host once the GPU has finished all its work."""
        self.synchronize()
        return time.perf_counter()


class EventTurn:
    """Makes the calls of a turn, see :func:`primeattn.bench.timing.interleave`, and times them by events.

    The GPU is kept busy until all calls of the turn are enqueued. So the time between the events of a call
    is that of its kernels alone, however long the host takes to launch them. The first call does not count:
    it tells how many calls fill a turn.
    """

    def __init__(self, device, wall=time.perf_counter):
        self.device, self.wall = device, wall

    def __call__(self, call, clock=None) -> list[float]:
        start = self.wall()
        self.device.hold(FIRST_HOLD)
        marks = self.device.marked(call)
        host = self.wall() - start
        self.device.synchronize()
        first = self.device.elapsed(*marks)
        count = min(max(int(TURN / max(first, 1e-9)), 1), MOST_CALLS)
        self.device.hold(1.5 * count * host)
        marks = [self.device.marked(call) for _ in range(count)]
        self.device.synchronize()
        return [self.device.elapsed(*pair) for pair in marks]


def fma_chains(out, iterations):
    """Kernel: CHAINS multiply-adds of float32 in each of ``iterations`` and each thread."""
    chains = cuda.local.array(CHAINS, float32)
    for i in range(CHAINS):
        chains[i] = float32(cuda.threadIdx.x + i)
    factor, term = float32(0.999), float32(0.001)
    for _ in range(iterations):
        for i in range(CHAINS):
            chains[i] = chains[i] * factor + term
    total = float32(0)
    for i in range(CHAINS):
        total += chains[i]
    out[cuda.threadIdx.x] = total


def ceilings(device, turn) -> dict:
    """Measure the most that the device can do, in GB/s and GFLOP/s; None for what cannot be measured.

    Copies count bytes read plus bytes written. Multiply-adds count twice.
    """
    found = {}
    for name, nbytes in COPIES.items():
        source, target = (cuda.device_array(nbytes, np.uint8) for _ in range(2))
        seconds = float(np.median(turn(lambda a=source, b=target: b.copy_to_device(a))))
        found[f"copy_{name}_gb_per_s"] = 2e-9 * nbytes / seconds
    blocks, threads, iterations = 32 * device.processors, 256, 2000
    seconds = float(np.median(turn(lambda: device.chains(blocks, threads, iterations))))
    found["float32_gflops"] = 2e-9 * CHAINS * iterations * blocks * threads / seconds
    torch = torch_on_gpu()
    for name in ("float16", "bfloat16"):
        found[f"{name}_matmul_gflops"] = None
        if torch is not None:
            a, b = torch.randn(2, MATRIX, MATRIX, device="cuda", dtype=getattr(torch, name))
            seconds = float(np.median(turn(lambda a=a, b=b: torch.matmul(a, b))))
            found[f"{name}_matmul_gflops"] = 2e-9 * MATRIX**3 / seconds
    return found


def torch_on_gpu():
    """Return the module torch, or None unless it is installed and finds a GPU."""
    torch = find_torch()
    return torch if torch is not None and torch.cuda.is_available() else None


def relauncher(arrays, pattern, kernel, workspace, wheel=None, backward=False):
    """Run a call with ``arrays`` by name, checked; return a function that launches it again, unchecked."""
    target, views = dispatch.locate(arrays, None, None, kernel)
    check = arguments.check_backward if backward else arguments.check_forward
    launch = dispatch.run(check(replace(target, wheel=wheel), views, {"pattern": pattern}, workspace))
    at = {name: view.ctypes.data for name, view in views.items()}

    def again():
        launch.run_again(at, workspace)

    again.arrays = arrays  # whose memory it uses
    return again
