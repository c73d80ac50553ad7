"""Twin of torch on the emulated GPU, as far as the checks use it: tensors, streams and graphs."""

from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np


class Tensor:
    __module__ = "torch"
    device = "cuda:0"

    def __init__(self, torch, array, dtype=None, owner=None):
        self.torch, self.array, self.shape = torch, array, array.shape
        self.owner = owner  # keeps the memory
        self.dtype = dtype or f"torch.{array.dtype.name}"

    @property
    def __cuda_array_interface__(self):
        return dict(self.array.__array_interface__, version=2)  # torch names no stream

    def __getitem__(self, key):
        return Tensor(self.torch, self.array[key], owner=self.owner)

    def view(self, dtype):
        return Tensor(self.torch, self.array, dtype, self.owner)

    def copy_(self, other):
        self.torch.enqueue(lambda: np.copyto(self.array, other.array))

    def __eq__(self, other):
        self.torch.wait()
        return Tensor(self.torch, self.array == other.array)

    __hash__ = object.__hash__

    def all(self):
        return self.array.all()

    # what only takes time
    def __matmul__(self, other):
        self.torch.enqueue(lambda: None, takes_long=True)
        return self

    def __truediv__(self, other):
        return self

    def norm(self):
        return self


class Stream:
    def __init__(self, torch, handle):
        self.torch, self.cuda_stream = torch, handle

    def synchronize(self):
        self.torch.gpu.wait(self.cuda_stream)


class Graph:
    def __init__(self, torch):
        self.torch, self.work = torch, []

    def replay(self):
        for work in self.work:
            self.torch.enqueue(work)


def make_torch(gpu) -> ModuleType:
    """The module; its tensors are in the memory of ``gpu``."""
    torch, current, handles = ModuleType("torch"), [0], iter(range(100, 200))

    def new(array, dtype=None):
        return Tensor(torch, gpu.memory.add(array), dtype)

    def empty_like(tensor, dtype=None):
        number = tensor.array.dtype if dtype is None else np.dtype(dtype.removeprefix("torch."))
        return new(np.full(tensor.shape, 7, number), dtype or tensor.dtype)

    @contextmanager
    def on(stream):
        current.append(stream.cuda_stream)
        try:
            yield
        finally:
            current.pop()

    @contextmanager
    def graph(graph):
        stream = Stream(torch, next(handles))
        gpu.synchronize()
        gpu.capture = stream.cuda_stream, graph.work
        try:
            with on(stream):
                yield
        finally:
            gpu.capture = None

    for name in ("float64", "float32", "float16", "bfloat16"):
        setattr(torch, name, f"torch.{name}")
    torch.gpu = gpu
    torch.enqueue = lambda work, **options: gpu.enqueue(current[-1], work, **options)
    torch.wait = lambda: gpu.wait(current[-1])
    torch.as_tensor = lambda memory, device: Tensor(torch, memory.array, owner=memory)
    torch.empty_like = empty_like
    torch.zeros_like = lambda tensor: new(np.zeros_like(tensor.array), tensor.dtype)
    torch.randn = lambda *shape, device: new(np.zeros(1, np.float32))
    torch.cuda = SimpleNamespace(
        is_available=lambda: True,
        current_stream=lambda device: Stream(torch, current[-1]),
        Stream=lambda: Stream(torch, next(handles)),
        stream=on,
        synchronize=gpu.synchronize,
        CUDAGraph=lambda: Graph(torch),
        graph=graph,
    )
    return torch
