"""The BLAS behind NumPy's matrix products: its threads, and its product for compiled code."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, ContextDecorator
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np

from primeattn import forks
from primeattn.compiled import products

__all__ = ["OpenBLAS", "one_blas_thread", "openblas", "openblas_core", "openblas_threads"]


class OpenBLAS(NamedTuple):
    """Functions and state of OpenBLAS; see :mod:`primeattn.compiled.products`.

    Examples
    --------
    >>> from primeattn.compiled.blas import OpenBLAS
    >>> OpenBLAS._fields
    ('core', 'get_threads', 'set_threads', 'gemm', 'gemv', 'integer', 'most', 'numbers', 'address')
    """

    core: str  # the processor that its code was chosen for, such as Haswell
    get_threads: object  # a function, like the next
    set_threads: object
    gemm: dict  # dtype -> address of the matrix product
    gemv: dict  # and of the product of a matrix with a vector
    integer: np.integer  # 0, of the type of its sizes
    most: int  # the largest of that type
    numbers: np.ndarray
    address: int  # of the numbers


@lru_cache
def openblas() -> OpenBLAS | None:
    """Return the functions and state of OpenBLAS, or None if NumPy uses another BLAS.

    Examples
    --------
    >>> from primeattn.compiled.blas import openblas
    >>> openblas() is openblas()
    True
    """
    try:
        library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # finds the libraries it links, too
    except (AttributeError, OSError):
        return None
    for prefix, suffix in (("scipy_", "64_"), ("", "64_"), ("", "")):
        if not hasattr(library, f"{prefix}openblas_set_num_threads{suffix}"):
            continue
        get, set_, config, core = (
            getattr(library, f"{prefix}openblas_{name}{suffix}")
            for name in ("get_num_threads", "set_num_threads", "get_config", "get_corename")
        )
        config.restype = core.restype = ctypes.c_char_p
        integer = np.int64(0) if b"USE64BITINT" in config() else np.int32(0)
        gemm, gemv = (
            {
                np.dtype(dtype): _address(getattr(library, f"{prefix}cblas_{letter}{name}{suffix}"))
                for letter, dtype in (("s", np.float32), ("d", np.float64))
            }
            for name in ("gemm", "gemv")
        )
        numbers = np.zeros(products.BLAS_NUMBERS, np.int64)
        numbers[[products.GET, products.SET]] = _address(get), _address(set_)
        address = numbers.ctypes.data
        products.begin_fork(address)  # compiled now, not at a fork
        products.end_fork(address)
        functions = get, set_, gemm, gemv
        return OpenBLAS(core().decode(), *functions, integer, np.iinfo(integer).max, numbers, address)
    return None


def _address(function):
    return ctypes.cast(function, ctypes.c_void_p).value


def openblas_threads():
    """Return OpenBLAS's functions that get and set its number of threads, or two that do nothing.

    Examples
    --------
    >>> from primeattn.compiled.blas import openblas_threads
    >>> count, set_count = openblas_threads()
    >>> count() >= 0
    True
    """
    known = openblas()
    return ((lambda: 0), (lambda threads: None)) if known is None else (known.get_threads, known.set_threads)


def openblas_core(vector_bytes) -> str | None:
    """Return the processor that OpenBLAS takes this one for; say so if its code has shorter vectors.

    Where it does not know a processor with AVX-512, or OPENBLAS_CORETYPE says so, it takes code for AVX2, in
    which the products of a training step took 1.6 times as long. It reads the environment as NumPy is
    imported.

    Examples
    --------
    >>> from primeattn.compiled import blas
    >>> known = blas.openblas()
    >>> blas.openblas_core(32) == (known and known.core)
    True
    """
    known = openblas()
    if known is None:
        return None
    if vector_bytes == 64 and known.core in ("Haswell", "Zen"):
        return f"{known.core} (AVX2; set OPENBLAS_CORETYPE=SkylakeX to have AVX-512)"
    return known.core


class Block(ContextDecorator, AbstractContextManager[None]):
    """For tools that read types: what a block, or a decorated function, is run within."""


def one_blas_thread() -> Block:
    """Within the block, matrix products run in the calling thread alone (for the whole process).

    The small products of a small model gain little from a second thread, and lose much if its core is busy:
    the first thread waits for the second at the end of each. Rounding then does not depend on the number of
    threads, either. This acts only on OpenBLAS, which NumPy's own wheels contain.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.compiled.blas import one_blas_thread
    >>> with one_blas_thread():
    ...     product = np.eye(2) @ np.ones((2, 2))
    """
    return _one_thread()()


@lru_cache
def _one_thread():
    known = openblas()
    numbers = np.zeros(products.BLAS_NUMBERS, np.int64) if known is None else known.numbers
    address = numbers.ctypes.data
    hold = numba.cfunc("void()")(lambda: products.hold(address))
    release = numba.cfunc("void()")(lambda: products.release(address))
    exception = [ctypes.py_object] * 3

    class OneThread(Block):
        """Entered and left by compiled functions, so that a signal handler cannot raise in between."""

        kept = hold, release, numbers
        __enter__ = ctypes.CFUNCTYPE(None)(hold.address)
        __exit__ = ctypes.CFUNCTYPE(None, *exception)(release.address)  # it ignores them

    return OneThread


_forking = []  # for each fork under way, the OpenBLAS that it locked, or None


def _begin_fork():
    known = openblas() if openblas.cache_info().currsize else None
    _forking.append(known)
    if known is not None:
        products.begin_fork(known.address)


def _end_fork():
    known = _forking.pop()
    if known is not None:
        products.end_fork(known.address)


forks.around(_begin_fork, _end_fork)


@forks.in_child
def _give_back():
    """Restore OpenBLAS's number of threads in the child: calls that held it at one are the parent's."""
    known = _forking.pop()
    _forking.clear()
    if known is None:
        return
    before = int(known.numbers[products.BEFORE])
    if before:
        known.set_threads(before)
    known.numbers[products.BUSY :] = 0
