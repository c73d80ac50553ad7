"""Matrix products on the threads of the kernels: each calls OpenBLAS, which is held to one thread.

OpenBLAS's own threads would go on spinning for some ten milliseconds and take half a core each from the next
kernels (a training step: 375 ms instead of 292). Its number of threads is shared by the whole process, so
calls that hold it at one are counted, and the last restores the earlier number. All of this is compiled, so
that a signal handler cannot raise in between.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.compiled.addresses import atomic_add, atomic_swap, view
from primeattn.compiled.handover import ONE, ZERO, call, enter, leave, pause
from primeattn.compiled.jit import cached_njit, part_njit

# The state of OpenBLAS as int64 numbers: addresses of its functions that get and set its number of threads (0
# if there are none), whether a thread is changing the rest, how many calls hold it at one, and its earlier
# number.
GET, SET, BUSY, HOLDERS, BEFORE, BLAS_NUMBERS = range(6)
ROW_MAJOR, AS_IT_LIES, TRANSPOSED = np.int32(101), np.int32(111), np.int32(112)  # cblas.h
INT = np.int32(0)  # a C int, as OpenBLAS's numbers of threads are


class Product(NamedTuple):
    """``out = a @ b`` by blocks of rows, as numbers."""

    blas: int  # address of the state of OpenBLAS
    gemm: int  # address of its matrix product
    gemv: int  # and of its product with a vector
    m: int  # out is m × n, contiguous
    n: int
    k: int  # the inner size
    step: int  # rows of a block
    a: int  # addresses
    b: int
    out: int
    a_row: int  # bytes from one row to the next
    out_row: int
    a_stride: int  # numbers from one row to the next; where transposed, from one column to the next
    b_stride: int
    a_transposed: bool
    b_transposed: bool


@part_njit
def hold(blas):
    """Hold OpenBLAS to one thread until the matching ``release``."""
    known = view(blas, BLAS_NUMBERS, ZERO)
    if known[SET] == 0:
        return
    _begin(blas)
    if known[HOLDERS] == 0:
        known[BEFORE] = call(known[GET], INT, ())
        call(known[SET], INT, (np.int32(1),))
    known[HOLDERS] += 1
    _end(blas)


@part_njit
def release(blas):
    known = view(blas, BLAS_NUMBERS, ZERO)
    if known[SET] == 0:
        return
    _begin(blas)
    known[HOLDERS] -= 1
    if known[HOLDERS] == 0:
        call(known[SET], INT, (np.int32(known[BEFORE]),))
        known[BEFORE] = 0
    _end(blas)


@part_njit
def _begin(blas):
    turn = ZERO
    while atomic_swap(blas + 8 * BUSY, ONE) != 0:
        turn = pause(turn)


@part_njit
def _end(blas):
    atomic_swap(blas + 8 * BUSY, ZERO)


@cached_njit
def begin_fork(blas):
    """Let no thread change OpenBLAS's number of threads until ``end_fork``.

    OpenBLAS takes a lock for that; a child forked meanwhile would find it locked for ever.
    """
    _begin(blas)


@cached_njit
def end_fork(blas):
    _end(blas)


@part_njit
def _multiply_row(one, integer, product):
    """``out = a @ b`` for one row; gemm would copy b to its liking first."""
    p, as_size = product, type(integer)
    call(
        p.gemv,
        INT,
        (
            ROW_MAJOR,
            AS_IT_LIES if p.b_transposed else TRANSPOSED,
            as_size(p.n if p.b_transposed else p.k),
            as_size(p.k if p.b_transposed else p.n),
            one,
            p.b,
            as_size(p.b_stride),
            p.a,
            as_size(p.a_stride if p.a_transposed else 1),
            one - one,
            p.out,
            as_size(1),
        ),
    )


@cached_njit
def multiply(one, integer, product, word, helps):
    """Compute the product; ``one`` is 1 in its dtype, ``integer`` has the type of OpenBLAS's sizes."""
    p, as_size = product, type(integer)
    if not helps:
        hold(p.blas)
    if p.m == 1:
        _multiply_row(one, integer, p)
        release(p.blas)
        return
    if enter(word, helps):
        while True:
            first = atomic_add(word + 8, ONE) * p.step
            if first >= p.m:
                break
            call(
                p.gemm,
                INT,
                (
                    ROW_MAJOR,
                    TRANSPOSED if p.a_transposed else AS_IT_LIES,
                    TRANSPOSED if p.b_transposed else AS_IT_LIES,
                    as_size(min(p.step, p.m - first)),
                    as_size(p.n),
                    as_size(p.k),
                    one,
                    p.a + first * p.a_row,
                    as_size(p.a_stride),
                    p.b,
                    as_size(p.b_stride),
                    one - one,
                    p.out + first * p.out_row,
                    as_size(p.n),
                ),
            )
        leave(word, helps)
    if not helps:
        release(p.blas)
