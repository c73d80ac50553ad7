"""Sparse, number-theoretic causal attention for NumPy, with hand-written gradients."""

from . import kernels, sequences
from .kernels import (
    attention,
    get_num_threads,
    merge,
    set_num_threads,
    sparse_index_kernel,
    sparse_index_kernel_backward,
)
from .patterns import Pattern
from .workspace import Workspace
