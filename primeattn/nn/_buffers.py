"""Where the arrays of an attention kernel are while a layer computes: here, or on the GPU."""

from __future__ import annotations


class HostBuffers:
    """The layer's own arrays."""

    def __init__(self, memory):
        self.take = memory.take

    def copy_of(self, array):
        """What the kernel reads ``array`` from."""
        return array

    def place_for(self, array):
        """Where the kernel writes what will be in ``array`` after ``fetch``."""
        return array

    def views(self, array, split):
        """The arrays that ``split`` cuts out of one, as the kernel takes them."""
        return split(array)

    def fetch(self, array, source):
        """Bring what the kernel has written."""


class DeviceBuffers:
    """Copies on the GPU, which are kept until the pullback."""

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

    def fetch(self, array, source):
        source.download(array)
