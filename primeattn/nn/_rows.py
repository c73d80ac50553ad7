"""Arrays seen as rows; passes over blocks of rows, and products, that the threads of the kernels share."""

from __future__ import annotations

import math

import numpy as np

from primeattn.blas import one_blas_thread, openblas_threads
from primeattn.kernels import threads
from primeattn.nn import _loops

BLOCK = 1 << 16  # entries of a block: enough work for the hand-over to a thread not to count
PRODUCT = 1 << 24  # multiply-adds of a block of a product
INNER = 1 << 13  # terms of a sum of products that BLAS takes at once


def as_rows(array):
    """``array`` as contiguous (rows, last axis): a view where it is contiguous, a copy where it is not."""
    return np.ascontiguousarray(array).reshape(math.prod(array.shape[:-1]), array.shape[-1])


def row_blocks(rows, row_size):
    """Slices that cover ``rows`` rows of ``row_size`` entries in blocks of about BLOCK entries."""
    return _blocks(rows, max(1, BLOCK // max(1, row_size)))


def _blocks(rows, step):
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def share(blocks, work):
    """Call ``work(i, block)`` for the i-th of all ``blocks``, each call in whichever thread is free.

    Which thread that is must not show in the result: each call writes what no other does.
    """
    waiting = iter(list(enumerate(blocks)))  # of a list, since threads may share that iterator

    def worker():
        for i, block in waiting:
            work(i, block)

    threads.run(worker, min(threads.get_num_threads(), len(blocks)))


def product(a, b, out):
    """``out = a @ b`` of matrices, by blocks of rows.

    OpenBLAS would do it by threads of its own, but these go on spinning for some ten milliseconds and take
    half a core each from the kernels that come next (a training step: 375 ms in place of 292). Another BLAS,
    which cannot be held to one thread, gets the whole.
    """
    step = max(64, PRODUCT // max(1, b.size)) if openblas_threads()[0]() else max(1, len(out))
    with one_blas_thread():
        share(_blocks(len(out), step), lambda _, rows: np.matmul(a[rows], b, out=out[rows]))


def sum_rows(rows, out, memory):
    """``out = rows.sum(axis=0)``, in float64: a long chain of float32 additions would lose digits."""
    blocks = row_blocks(*rows.shape)
    sums = memory.take((len(blocks), out.size), np.float64)
    share(blocks, lambda i, block: _loops.sum_rows(rows[block], sums[i]))
    out[...] = sums.sum(axis=0)


def sum_products(a, b, out, memory):
    """``out = a.T @ b``, summed over blocks of rows in float64."""
    blocks = _blocks(len(a), INNER)
    if len(blocks) <= 1:
        product(a.T, b, out)
        return
    part, total = memory.take(out.shape, out.dtype), memory.take(out.shape, np.float64)
    total.fill(0)
    for rows in blocks:
        product(a[rows].T, b[rows], part)
        _loops.add_rows(part, total)
    out[...] = total
