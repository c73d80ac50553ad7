"""The emulated GPU as the host sees it: queues of work, events, memory that is counted and freed.

Work runs at once, unless its stream is busy with what takes long; then it runs when the host waits for the
stream. So results are wrong where work goes to another stream than it should.
"""

import time
import weakref
from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np
from emulator import Buffer, Kernel, Machine

DEFAULT = 0, 1  # two names of one stream


class Gpu(Machine):
    """Twin of ``numba.cuda`` for kernels and their launches."""

    def __init__(self, seed):
        super().__init__(seed)
        self.queues, self.running = defaultdict(deque), False
        self.capture = None  # (stream, launches on it) of a graph that is being captured
        self.manager = Manager()

    def enqueue(self, stream, work, takes_long=False):
        stream = 0 if stream in DEFAULT else stream
        if self.capture is not None and self.capture[0] == stream:
            self.capture[1].append(work)
            return
        self.queues[stream].append(work)
        if len(self.queues[stream]) == 1 and not takes_long:
            self.wait(stream)

    def wait(self, stream):
        queue = self.queues[0 if stream in DEFAULT else stream]
        while queue:
            self.running = True
            try:
                queue.popleft()()
            finally:
                self.running = False

    def synchronize(self):
        for stream in list(self.queues):
            self.wait(stream)

    def kernel(self, function):
        return QueuedKernel(self, function)

    def device_array(self, shape, dtype):
        assert self.capture is None, "memory is allocated while a graph is captured"
        array = np.full(shape, 0xAB, dtype)
        self.manager.memalloc(array.nbytes)
        return self.resident(array)

    def resident(self, array):
        """An array in the memory of the GPU. When nobody holds it, it is freed, once all work is done."""
        buffer = DeviceNDArray(self, self.memory.add(array))
        if array.nbytes:
            weakref.finalize(buffer.owner, self._free, array.ctypes.data).atexit = False
        return buffer

    def _free(self, address):
        if not self.running:
            self.synchronize()
        self.memory.remove(address)


class Manager:
    """Twin of what Numba asks for memory."""

    def memalloc(self, size):
        pass


class QueuedKernel(Kernel):
    def __getitem__(self, shape):
        launch = super().__getitem__(shape)
        return lambda *arguments: self.machine.enqueue(shape[2], lambda: launch(*arguments))


class DeviceNDArray(Buffer):
    """Twin of a Numba device array; like it, with few of NumPy's methods."""

    def __init__(self, machine, array, owner=None):
        super().__init__(array, owner)
        self.machine, self.shape, self.dtype = machine, array.shape, array.dtype

    @property
    def __cuda_array_interface__(self):
        return dict(self.array.__array_interface__, version=3, stream=None)

    def __getitem__(self, span):
        return DeviceNDArray(self.machine, self.array[span], self.owner)

    def copy_to_device(self, source, stream=0):
        source = source.array if isinstance(source, DeviceNDArray) else source.copy()
        self.machine.enqueue(stream, lambda: np.copyto(self.array, source))

    def copy_to_host(self, host=None, stream=0):
        self.machine.wait(stream)
        if host is None:
            return self.array.copy()
        host[:] = self.array


class Event:
    def __init__(self, machine):
        self.machine, self.seconds = machine, None

    def record(self):
        self.machine.enqueue(0, self._stamp)

    def _stamp(self):
        self.seconds = time.perf_counter()


class Host:
    """Twin of ``numba.cuda`` for the benchmarks: arrays that are copied to the GPU, events, the device."""

    def __init__(self, machine):
        self.machine = machine

    def __getattr__(self, name):
        return getattr(self.machine, name)

    def to_device(self, array):
        return self.machine.resident(array.copy())

    def event(self, timing):
        return Event(self.machine)

    def event_elapsed_time(self, before, after):
        return 1e3 * (after.seconds - before.seconds)

    def jit(self, function):
        """A kernel of which one thread runs, a few times of those it is told; then it takes its time."""

        def run(out, iterations):
            self.machine.run_block(function, (out.array, min(iterations, 2)), 1)
            time.sleep(1e-9 * iterations)

        class Launcher:
            def __getitem__(launcher, shape):
                return lambda *arguments: self.machine.enqueue(0, lambda: run(*arguments), takes_long=True)

        return Launcher()

    def current_context(self):
        return SimpleNamespace(
            memory_manager=self.machine.manager, get_memory_info=lambda: (10**9, 2 * 10**9)
        )

    def get_current_device(self):
        return SimpleNamespace(name=b"Emulated GPU", compute_capability=(9, 0), MULTIPROCESSOR_COUNT=2)
