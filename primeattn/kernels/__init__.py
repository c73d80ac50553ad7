"""Sparse causal attention kernels, forward and backward, in place.

:func:`sparse_index_kernel` and :func:`sparse_index_kernel_backward` check their arguments and run compiled
code; :func:`attention` allocates the outputs; :func:`merge` joins results over disjoint ranges of keys.
:mod:`primeattn.kernels.reference` is the dense float64 oracle they are tested against.
"""

from primeattn.kernels import reference
from primeattn.kernels.api import attention, merge, sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.choice import explain_kernel
from primeattn.kernels.threads import get_num_threads, set_num_threads

__all__ = [
    "attention",
    "explain_kernel",
    "get_num_threads",
    "merge",
    "reference",
    "set_num_threads",
    "sparse_index_kernel",
    "sparse_index_kernel_backward",
]
