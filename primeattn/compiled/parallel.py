"""Arrays as rows; loops over blocks of rows, and matrix products, shared by the kernels' threads."""

from __future__ import annotations

import math

import numpy as np

from primeattn.compiled import loops, products, threads
from primeattn.compiled.blas import openblas

BLOCK = 1 << 16  # entries in a block: enough work to outweigh its hand-over to a thread
FEWEST = 4  # blocks that are handed to threads; fewer are done before a thread wakes
PRODUCT = 1 << 23  # multiply-adds per block of a product
INNER = 1 << 13  # terms that BLAS sums at once in ``sum_products``
SMALL, FEW = 1 << 7, 1 << 8  # for outputs this small OpenBLAS may sum in one chain: fewer terms at once


def as_rows(array):
    """``array`` as contiguous (rows, last axis): a view if it is contiguous, else a copy."""
    return np.ascontiguousarray(array).reshape(math.prod(array.shape[:-1]), array.shape[-1])


def row_blocks(rows, row_size):
    """Slices that cover ``rows`` rows of ``row_size`` entries in blocks of about BLOCK entries."""
    return _blocks(rows, max(1, BLOCK // max(1, row_size)))


def _blocks(rows, step):
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def share(blocks, work):
    """Call ``work(i, block)`` for the i-th of ``blocks``, each in whichever thread is free.

    No two calls may write to the same memory, so that the result does not depend on the threads.
    """
    waiting = iter(list(enumerate(blocks)))  # threads may share the iterator of a list

    def worker():
        for i, block in waiting:
            work(i, block)

    workers = min(threads.get_num_threads(), len(blocks))
    if workers > 1 and len(blocks) >= FEWEST:
        threads.delegate(worker, workers)
    worker()  # everything, or what the helpers left


def product(a, b, out):
    """``out = a @ b`` of matrices, by blocks of rows; ``out`` is contiguous.

    Any BLAS but OpenBLAS gets the whole product, since it cannot be held to one thread.
    """
    known = openblas()
    if known is None or not (a.size and b.size) or max(a.size, b.size) > known.most:
        np.matmul(a, b, out=out)
        return
    (a, *of_a), (b, *of_b) = _as_blas(a), _as_blas(b)
    (m, n), k, step = out.shape, len(b), max(64, PRODUCT // b.size)
    numbers = products.Product(
        *(known.address, known.gemm[out.dtype], known.gemv[out.dtype], m, n, k, step),
        *(a.ctypes.data, b.ctypes.data, out.ctypes.data, a.strides[0], out.strides[0]),
        *(stride for stride, _ in (of_a, of_b)),
        *(transposed for _, transposed in (of_a, of_b)),
    )
    one = out.dtype.type(1)
    workers = min(threads.get_num_threads(), -(-m // step))
    threads.run(lambda *way: products.multiply(one, known.integer, numbers, *way), workers)


def _as_blas(matrix):
    """The matrix, or a copy, as BLAS takes it; the stride of its rows or columns; whether transposed."""
    for array, transposed in ((matrix, False), (matrix.T, True)):
        rows, columns = array.shape
        stride, odd = divmod(array.strides[0], array.itemsize)
        if (columns == 1 or array.strides[1] == array.itemsize) and (
            rows == 1 or (stride >= columns and not odd)
        ):
            return matrix, stride if rows > 1 else columns, transposed
    return np.ascontiguousarray(matrix), matrix.shape[1], False


def sum_rows(rows, out, memory):
    """``out = rows.sum(axis=0)``, in float64: a long chain of float32 additions would lose digits."""
    blocks = row_blocks(*rows.shape)
    sums = memory.take((len(blocks), out.size), np.float64)
    share(blocks, lambda i, block: loops.sum_rows(rows[block], sums[i]))
    out[...] = sums.sum(axis=0)


def sum_products(a, b, out, memory):
    """``out = a.T @ b``, summed over blocks of rows in float64."""
    blocks = _blocks(len(a), INNER if out.size > SMALL else FEW)
    if len(blocks) <= 1:
        product(a.T, b, out)
        return
    part, total = memory.take(out.shape, out.dtype), memory.take(out.shape, np.float64)
    total.fill(0)
    for rows in blocks:
        product(a[rows].T, b[rows], part)
        loops.add_rows(part, total)
    out[...] = total
