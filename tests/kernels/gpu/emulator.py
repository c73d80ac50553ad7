"""Runs the GPU kernels as Python: a greenlet per thread, warps and barriers as on the device.

``with emulated() as machine:`` puts Python twins in the place of Numba's CUDA and of the PTX intrinsics, so
that the public functions run with ``device="cuda"`` and without a GPU. Memory of the device is NumPy memory;
every access is checked to lie in a buffer that was registered, and to be aligned. The order in which threads
run between two barriers is shuffled by a seed, so that a missing barrier shows.
"""

import itertools
import math
import pkgutil
import random
import sys
import weakref
from bisect import bisect_right
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet
from tensor_twins import Tensor

import primeattn.kernels.gpu
from primeattn.kernels.gpu import device, launch, launch_cache, memory, ptx
from primeattn.kernels.gpu.gather import plan
from primeattn.kernels.gpu.wheel import (
    plan as wheel_plan,
)
from primeattn.wheel import cost, tables

WARP = 32
NUMPY = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "word": "<u4",
    "entry": "<i8",
    "bytes": "u1",
}
SIZES = {storage: np.dtype(name).itemsize for storage, name in NUMPY.items()}


class Memory:
    """Buffers by address, and checked access to them."""

    def __init__(self):
        self.starts, self.buffers = [], []

    def add(self, array):
        """Register a C-ordered array; it is kept alive."""
        if array.nbytes:
            at = bisect_right(self.starts, array.ctypes.data)
            self.starts.insert(at, array.ctypes.data)
            self.buffers.insert(at, array.reshape(-1).view(np.uint8))
        return array

    def remove(self, address):
        at = self.starts.index(address)
        del self.starts[at], self.buffers[at]

    def words(self, address, storage, count):
        """``count`` elements at ``address``, as a view."""
        size = SIZES[storage]
        return self.span(address, count * size).view(NUMPY[storage])

    def span(self, address, nbytes):
        """``nbytes`` bytes at ``address``, a multiple of them, as a view."""
        at = bisect_right(self.starts, address) - 1
        start = address - self.starts[at] if at >= 0 else -1
        if not 0 <= start <= self.buffers[at].size - nbytes:
            raise IndexError(f"access to {nbytes} bytes outside of any buffer")
        if address % nbytes:
            raise IndexError(f"access to {nbytes} bytes that is not aligned")
        return self.buffers[at][start : start + nbytes]


def wrapped(bits, signed=0):
    """Twin of a conversion to an integer."""
    half = signed << bits - 1
    return lambda value: (int(value) + half & (1 << bits) - 1) - half


def decoded(storage, words):
    if storage == "bfloat16":
        words = (words.astype(np.uint32) << 16).view(np.float32)
    return tuple(words.tolist())


def encoded(storage, values):
    if storage != "bfloat16":
        return values
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(np.asarray(values, np.float32)), 0x7FFF, rounded).astype(np.uint16)


class Intrinsics:
    """Twins of :mod:`primeattn.kernels.gpu.ptx`."""

    VECTOR_BYTES = ptx.VECTOR_BYTES

    def __init__(self, memory):
        self.memory = memory

    def exp2(self, x):
        return 2.0**x if x < 128 else math.inf if x == x else x

    def add_to(self, address, value):
        self.memory.words(address, "float64", 1)[0] += value

    def entry(self, table, i):
        return int(self.memory.words(table + ptx.ENTRY_BYTES * i, "entry", 1)[0])

    def row_address(self, base, row, stride):
        return base + row * stride

    def vector_access(self, storage):
        return self._access(storage, self.VECTOR_BYTES // np.dtype(NUMPY[storage]).itemsize)

    def scalar_access(self, storage):
        load, store = self._access(storage, 1)
        return lambda address: load(address)[0], lambda address, value: store(address, (value,))

    def _access(self, storage, count):
        def load(address):
            return decoded(storage, self.memory.words(address, storage, count))

        def store(address, values):
            with np.errstate(over="ignore"):
                self.memory.words(address, storage, count)[:] = encoded(storage, values)

        return load, store


class Number:
    """Twin of a Numba type: called on a number, and a dtype for arrays."""

    def __init__(self, convert, bitwidth):
        self.convert, self.bitwidth = convert, bitwidth

    def __call__(self, value):
        return self.convert(value)


TYPES = SimpleNamespace(
    int32=Number(wrapped(32, signed=1), 32),
    uint32=Number(wrapped(32), 32),
    uint64=Number(wrapped(64), 64),
    int64=Number(int, 64),
    float32=Number(float, 32),
    float64=Number(float, 64),
)


def caller():
    """File and line of the kernel that calls a method of the machine."""
    frame = sys._getframe(2)
    return frame.f_code.co_filename, frame.f_lineno


class Thread:
    def __init__(self, function, arguments, index, hub):
        self.index, self.waits, self.sends, self.receives = index, None, None, None
        self.greenlet = greenlet(lambda: function(*arguments), hub)

    def meet(self, what, value=None, together=None):
        """Wait until all others of the block (or of the warp) come to the same point; what each has sent.

        With ``together``, a function that makes of what the threads of a warp have sent what each gets.
        """
        self.waits, self.sends, self.together = what, value, together
        self.greenlet.parent.switch()
        return self.receives


class Host:
    """Twin of what the host calls of ``numba.cuda``."""

    def __init__(self, seed):
        self.memory, self.random, self.launches, self.uploads = Memory(), random.Random(seed), [], []

    def external_stream(self, handle):
        return handle

    def device_array(self, size, dtype):
        array = self.memory.add(np.full(size, 0xAB, dtype))
        buffer = Buffer(array)
        if array.nbytes:  # freed at once, where Numba waits a little
            weakref.finalize(buffer.owner, self.memory.remove, array.ctypes.data)
        return buffer

    def stream(self):
        return SimpleNamespace(synchronize=self.synchronize)

    def to_device(self, array, stream=0):
        buffer = self.device_array(array.nbytes, np.uint8)
        buffer.copy_to_device(array.reshape(-1).view(np.uint8))
        self.uploads.append(array.nbytes)
        return buffer

    def synchronize(self):
        pass


class Machine(Host):
    """Twin of ``numba.cuda`` in kernels and on the host, one block at a time."""

    def __init__(self, seed):
        super().__init__(seed)
        self.shared = SimpleNamespace(array=self._shared_array)
        self.local = SimpleNamespace(array=lambda size, number: [math.nan] * size)
        self.tensor = Tensor(self)

    # what kernels call
    @property
    def threadIdx(self):
        return SimpleNamespace(x=self.thread.index)

    def syncthreads(self):
        self.thread.meet("block")

    def shfl_xor_sync(self, mask, value, other):
        assert mask == 0xFFFFFFFF
        return self.thread.meet("warp", value)[self.thread.index ^ other]

    def _shared_array(self, size, number):
        return self.arrays.setdefault(caller(), [math.nan] * size)

    def kernel(self, function):
        return Kernel(self, function)

    def run_block(self, function, arguments, threads):
        self.arrays = {}
        self.paces = [self.random.choice((1, 0.1)) for _ in range(-(-threads // WARP))]  # warps run apart
        self.tensor.start_block()
        hub = getcurrent()
        live = [Thread(function, arguments, index, hub) for index in range(threads)]
        ready = list(live)
        while live:
            going, ready = self._part(ready)
            for thread in going:
                self.thread = thread
                thread.greenlet.switch()
            live = [thread for thread in live if not thread.greenlet.dead]
            ready += [thread for group in self._meetings(live, threads) for thread in group]
            if live and not ready:
                raise RuntimeError(f"threads wait for each other at {sorted({t.waits for t in live})}")

    def _part(self, ready):
        """Threads that go on now, in any order, and those of slower warps."""
        warps = {thread.index // WARP for thread in ready}
        warps = {warp for warp in sorted(warps) if self.random.random() < self.paces[warp]} or warps
        going = [thread for thread in ready if thread.index // WARP in warps]
        self.random.shuffle(going)
        return going, [thread for thread in ready if thread.index // WARP not in warps]

    def _meetings(self, live, threads):
        """Groups of threads of which all have come to one point; each gets what the others sent."""
        if live and all(thread.waits == "block" for thread in live):
            assert len(live) == threads, "some threads have left before a barrier"
            for thread in live:
                thread.waits = None
            yield live
        for _, warp in itertools.groupby(live, key=lambda thread: thread.index // WARP):
            warp = list(warp)
            if len(warp) < min(WARP, threads) or any(thread.waits != "warp" for thread in warp):
                continue
            assert len({thread.together for thread in warp}) == 1, "a warp meets in different instructions"
            if warp[0].together is None:
                received = [{thread.index: thread.sends for thread in warp}] * len(warp)
            else:
                received = warp[0].together([thread.sends for thread in warp])
            for thread, mine in zip(warp, received, strict=True):
                thread.receives, thread.waits = mine, None
            yield warp


class Owner:
    """What keeps memory of the device from being freed."""


class Buffer:
    """Twin of a Numba device array of bytes."""

    def __init__(self, array, owner=None):
        self.array, self.nbytes, self.owner = array, array.nbytes, owner or Owner()
        self.device_ctypes_pointer = SimpleNamespace(value=array.ctypes.data)

    def __getitem__(self, span):
        return Buffer(self.array[span], self.owner)

    def copy_to_device(self, host, stream=0):
        self.array[:] = host.array if isinstance(host, Buffer) else host

    def copy_to_host(self, host, stream=0):
        host[:] = self.array


class Kernel:
    def __init__(self, machine, function):
        self.machine, self.function = machine, function

    def __getitem__(self, shape):
        def launch(*arguments):
            (width, height), threads, stream = shape
            self.machine.launches.append((self.function.__name__, width, height, threads, stream))
            blocks = list(itertools.product(range(width), range(height)))
            self.machine.random.shuffle(blocks)
            for x, y in blocks:
                self.machine.blockIdx = SimpleNamespace(x=x, y=y)
                self.machine.run_block(self.function, arguments, threads)

        return launch


class DeviceArray:
    """Memory of the emulated device, as another library hands it out."""

    def __init__(self, machine, array, stream=None):
        self.array = array
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if owner.ctypes.data not in machine.memory.starts:
            machine.memory.add(owner)
        self.__cuda_array_interface__ = dict(array.__array_interface__, version=3, stream=stream)
        self.dtype, self.shape = array.dtype, array.shape


@contextmanager
def emulated(
    monkeypatch, *, wide=64, narrow=64, chunk=32, blocks=4, tiling=(32, 32), one_warp=tables.ONE_WARP,
    step=20, wheels=(1,), seed=0, kind=Machine,
):  # fmt: skip
    """Emulate a GPU with blocks so small that tiny inputs span several.

    Of the wheel kernels, ``tiling`` is their own where it is None, rows wider than ``one_warp`` are shared by
    two warps in the backward, and ``step`` is what a tile is said to cost: so little that tiny inputs are
    regrouped, for one of ``wheels``. ``kind`` is the Machine, or a subclass of it.
    """
    machine = kind(seed)
    intrinsics = Intrinsics(machine.memory)
    twins = {
        "cuda": machine,
        "numba": TYPES,
        "ptx": intrinsics,
        "tensor": machine.tensor,
        "exp2": intrinsics.exp2,
        "row_address": intrinsics.row_address,
        "entry": intrinsics.entry,
        "add_to": intrinsics.add_to,
        "scalar_access": intrinsics.scalar_access,
        "device_function": lambda function: function,
        "compiled": lambda threads, blocks: machine.kernel,
    }
    with monkeypatch.context() as patch:
        for module in kernel_modules():
            for name, value in vars(module).copy().items():
                if name in twins:
                    patch.setattr(module, name, twins[name])
                elif hasattr(value, "py_func"):  # a device function that was made at import
                    patch.setattr(module, name, value.py_func)
        patch.setattr(device, "problem", lambda: None)
        patch.setattr(device, "current_device", lambda: 0)
        sizes = {"WIDE": wide, "SUMMED": wide, "NARROW": narrow, "CHUNK": chunk, "BLOCKS": blocks}
        for name, value in sizes.items():
            patch.setattr(plan, name, value)
        if tiling is not None:
            patch.setattr(tables, "tiling", lambda head_dim, backward=False: tables.Tiling(*tiling))
        patch.setattr(launch, "ONE_WARP", one_warp)
        for name, value in (
            ("WHEELS", wheels), ("HEAD_DIMS", (32, 64, 128)),
            ("COSTS", {
                (width, backward): cost.Costs(step, 17 * width / 64, 500)
                for width in (32, 64, 128) for backward in (False, True)
            }),
            ("PAIR", {False: 16, True: 16}),
        ):  # fmt: skip
            patch.setattr(cost, name, value)
        patch.setattr(wheel_plan, "HEAD_DIMS", cost.HEAD_DIMS)
        forget()
        try:
            yield machine
        finally:
            forget()


def kernel_modules():
    """Every module of the GPU kernels that has kernels, or launches them: none escapes the twins."""
    package = primeattn.kernels.gpu
    names = [info.name for info in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return [import_module(name) for name in names if import_module(name) not in (device, ptx)]


def forget(kernels=True):
    """Drop all that was made for a real device, or for an emulated one: plans and, unless said, kernels."""
    for module in [*kernel_modules(), cost]:
        if kernels or module in (plan, wheel_plan, cost):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
    launch_cache._known.clear()
    vars(memory._kept).clear()
