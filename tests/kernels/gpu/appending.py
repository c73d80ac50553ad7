"""A call of the kernel that appends rows to a cache, for every machine that tests run it on."""

import numpy as np

from primeattn.kernels.gpu.append import append
from primeattn.kernels.gpu.memory import DeviceArray


def appended(machine, dtype, rng):
    """A cache to which rows of a batch were appended on a machine, and what it should hold.

    A row is wider than a block, and the first numbers of the new ones, the queries, are left out.
    """
    starts, used, count = np.array([0, -3, -9]), 2, 4
    kept = rng.standard_normal((3, 7, 300)).astype(dtype)
    rows = rng.standard_normal((3, count, 311)).astype(dtype)
    with machine:
        cache, new, first = (DeviceArray(a.shape, a.dtype) for a in (kept, rows, starts))
        for array, host in ((cache, kept), (new, rows), (first, starts)):
            array.upload(host)
        append(cache, new, first, used)
        got = np.empty_like(kept)
        cache.download(got)
    kept[0, 2:6], kept[1, 0:3] = rows[0, :, 11:], rows[1, 1:, 11:]
    return got, kept
