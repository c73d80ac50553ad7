"""Attention by two worker processes, forward and backward, against one process.

python examples/cluster.py [TOKENS]

Needs pip install 'primeattn[dask]'. With the address of a scheduler in place of the local cluster, the same
lines run on many machines.
"""

import sys
import time

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import primeattn as pa
from primeattn.typing import Array

PATTERN = pa.Pattern("primes", window=3, global_tokens=2)
HEADS, HEAD_DIM, BLOCKS = 4, 64, 2


def one_process(q: Array, k: Array, v: Array, dout: Array) -> tuple[Array, ...]:
    out, lse = pa.attention(q, k, v, PATTERN)
    dq, dk, dv = (np.empty_like(array) for array in (q, k, v))
    pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, PATTERN)
    return out, lse, dq, dk, dv


def blocks(q: da.Array, k: da.Array, v: da.Array, dout: da.Array) -> tuple[da.Array, ...]:
    """The same of Dask arrays; nothing is computed yet."""
    out, lse = pa.dask.attention(q, k, v, PATTERN)
    return out, lse, *pa.dask.attention_backward(dout, q, k, v, out, lse, PATTERN)


def main(n: int) -> None:
    arrays = np.random.default_rng(0).standard_normal((4, 1, HEADS, n, HEAD_DIM), dtype=np.float32)
    one_process(*arrays[:, :, :, :64])  # compiles the kernels; workers find them on disk
    start = time.perf_counter()
    expected = one_process(*arrays)
    print(f"one process: {time.perf_counter() - start:.2f} s with {pa.get_num_threads()} threads")
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        client.run(one_process, *arrays[:, :, :, :64])
        # Heads share nothing, so they are cut first; the queries of a head by equal numbers of pairs.
        chunks = 1, 1, pa.dask.chunks_of_equal_pairs(PATTERN, n, BLOCKS), HEAD_DIM
        # Blocks are sent to the workers before the clock starts: large data is read there, from files.
        given = client.persist([da.from_array(array, chunks=chunks) for array in arrays])
        start = time.perf_counter()
        results = client.gather(client.compute(blocks(*given)))
        print(f"two workers: {time.perf_counter() - start:.2f} s, results sent here included")
    for name, result, exact in zip(("out", "lse", "dq", "dk", "dv"), results, expected, strict=True):
        error = np.abs(result - exact).max() / np.abs(exact).max()
        print(f"{name}: {'the same bits' if error == 0 else f'relative error {error:.1e}'}")
        assert error <= (2e-6 if name in ("dk", "dv") else 0)


if __name__ == "__main__":  # workers import this file
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 16384)
