"""Where an attention layer keeps the arrays of its kernel: in host memory or on the GPU."""

from __future__ import annotations

import numpy as np

from primeattn.compiled.addresses import zeros_on_lines


class HostBuffers:
    """The layer's own arrays, which the kernel uses in place."""

    in_cache = "keys"  # an entry that caches of the other class have not

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

    @staticmethod
    def cache_rows(columns, start, capacity, dtype):
        """Return what a cache needs to keep keys and values, by name; see `primeattn.nn.cache.begin`."""
        shape = len(start), columns.kv_heads, capacity, columns.head_dim
        return {name: zeros_on_lines(shape, dtype) for name in ("keys", "values")}

    def append(self, cache, source, columns, positions):
        """Append the keys and values among the rows of ``source`` at their positions, but none below 0."""
        if not positions.size:
            return
        for rows, kept in zip(columns.split(source)[1:], (cache["keys"], cache["values"]), strict=True):
            for b, (first, last) in enumerate(positions[:, [0, -1]].tolist()):
                if last >= 0:
                    kept[b, :, max(first, 0) : last + 1] = rows[b, :, max(-first, 0) :]

    def kept(self, cache, columns, end):
        """Return the keys and values of a cache at positions below ``end``, which the kernel takes."""
        return cache["keys"][:, :, :end], cache["values"][:, :, :end]


class DeviceBuffers:
    """Copies on the GPU, kept until the pullback."""

    in_cache = "rows"

    def __init__(self, memory):
        DeviceArray, self._seen = _on_device("DeviceArray", "seen")
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

    @staticmethod
    def cache_rows(columns, start, capacity, dtype):
        """``rows`` has the keys and values of a position side by side, as ``source`` has."""
        (DeviceArray,) = _on_device("DeviceArray")
        device_start = DeviceArray(start.shape, np.int64)
        device_start.upload(start.astype(np.int64))
        rows = DeviceArray((len(start), capacity, columns.kept_width), dtype)
        return {"device_start": device_start, "rows": rows}

    def append(self, cache, source, columns, positions):
        from primeattn.kernels.gpu.append import append

        append(cache["rows"], source, cache["device_start"], int(cache["used"]) - positions.shape[1])

    def kept(self, cache, columns, end):
        return self.views(cache["rows"], lambda rows: columns.split_kept(rows[:, :end]))


def _on_device(*names):
    """What is asked for of the memory of the GPU, which there must be."""
    from primeattn.kernels.gpu import device

    device.require()
    from primeattn.kernels.gpu import memory

    return [getattr(memory, name) for name in names]
