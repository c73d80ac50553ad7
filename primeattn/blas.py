"""Threads of the BLAS behind NumPy's matrix products."""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

__all__ = ["one_blas_thread", "openblas_threads"]


_lock = threading.Lock()
_within, _before = 0, 0  # open blocks of one thread, and the number of threads before them


@contextmanager
def one_blas_thread():
    """Within the block, matrix products run in the calling thread alone (for the whole process).

    The small products of a small model gain little from a second thread, and lose much where its core is
    busy: the first waits for the second at the end of each. Besides, the rounding of a product then depends
    on no number of threads. Acts on OpenBLAS, which NumPy's own wheels contain; others are left as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from primeattn.blas import one_blas_thread
    >>> with one_blas_thread():
    ...     product = np.eye(2) @ np.ones((2, 2))
    """
    global _within, _before
    get, set_ = openblas_threads()
    with _lock:
        if _within == 0:
            _before = get()
            set_(1)
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if _within == 0:
                set_(_before)


@lru_cache
def openblas_threads():
    """Return OpenBLAS's functions that tell and set its number of threads, or two that do nothing.

    Examples
    --------
    >>> from primeattn.blas import openblas_threads
    >>> count, set_count = openblas_threads()
    >>> count() >= 0
    True
    """
    try:
        library = ctypes.CDLL(np.linalg._umath_linalg.__file__)  # symbols are looked up in what it links, too
    except (AttributeError, OSError):
        library = None
    for name in ("scipy_openblas_{}_num_threads64_", "openblas_{}_num_threads64_", "openblas_{}_num_threads"):
        if hasattr(library, name.format("set")):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return (lambda: 0), (lambda threads: None)
