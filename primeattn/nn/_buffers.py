"""Where an attention layer keeps the arrays of its kernel: in host memory or on the GPU."""

from __future__ import annotations

import numpy as np


class HostBuffers:
    """The layer's own arrays, which the kernel uses in place."""

    def __init__(self, memory):
        self.take = memory.take

    def copy_of(self, array):
        """Return the array from which the kernel reads ``array``."""
        return array

    def place_for(self, array):
        """Return the array that the kernel writes and ``fetch`` copies to ``array``."""
        return array

    def views(self, array, split):
        """Split an array by ``split``, into arrays that the kernel takes."""
        return split(array)

    def whole(self, array):
        """Return an array as the kernel takes it."""
        return array

    def options(self, options):
        """Return options of the kernel with arrays that it takes."""
        return options

    def fetch(self, array, source):
        """Copy what the kernel has written to ``array``; here it is there already."""


class DeviceBuffers:
    """Copies on the GPU, kept until the pullback."""

    def __init__(self, memory):
        from primeattn.kernels.gpu import device

        device.require()
        from primeattn.kernels.gpu.memory import DeviceArray, seen

        self._seen = seen
        self.take = lambda shape, dtype: memory.take(shape, dtype, DeviceArray)

    def copy_of(self, array):
        result = self.take(array.shape, array.dtype)
        result.upload(array)
        return result

    def place_for(self, array):
        return self.take(array.shape, array.dtype)

    def views(self, array, split):
        return tuple(map(self._seen, split(array.array)))

    def whole(self, array):
        return self._seen(array.array)

    def options(self, options):
        arrays = {name: value for name, value in options.items() if isinstance(value, np.ndarray)}
        return options | {name: self.whole(self.copy_of(array)) for name, array in arrays.items()}

    def fetch(self, array, source):
        source.download(array)
