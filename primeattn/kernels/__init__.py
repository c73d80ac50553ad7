"""Sparse causal attention kernels, forward and backward, in place.

On the CPU a call is served by ``kernel="tiles"``. A block of consecutive queries meets keys at the same
offsets, so that rows that are read once serve many queries; vectors compute eight scores at once. On a GPU
"gather" takes any pattern, dtype and width, and "wheel" makes dense tiles for tensor cores
(:mod:`primeattn.wheel`); :func:`explain_kernel` tells which would run and why.

To follow a call, read

1. ``api``: the public functions, and what they promise;
2. ``dispatch``: where the call runs;
3. ``arguments``: the checks, which make a ``call.Call`` of it;
4. ``cpu/launch``: plan, scratch memory, threads (on a GPU ``gpu/launch``);
5. ``cpu/forward``: what a worker does with a block of queries;
6. ``cpu/tiles``: scores, softmax and values of one tile, on vectors of ``compiled/simd``;
7. ``cpu/terms``: scores that are more than q·k.

``cpu/scalar`` says all of it in plain loops, forward beside backward: read it first. It runs as
``kernel="scalar"``, with NUMBA_DISABLE_JIT=1 as Python. ``reference`` is the dense float64 oracle that all
are tested against. Terms:

=======  ==============================================================================================
block    consecutive rows (queries, or keys) that one task computes
task     a block, drawn by whichever worker is free
stage    all work on one key head of a sequence: its keys and values, and the query heads that read them
panel    rows of one sequence and head, packed side by side (as in BLIS and GotoBLAS: Goto and van de
         Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008)
piece    a part of a panel, packed at once
tile     a block against up to 128 slots
slot     the rows that a block meets by one offset, or one global key
group    eight slots, whose scores lie side by side
line     64 bytes of a row; a packed row has whole lines
chunk    up to four lines of a row, which fit the registers
term     of a score, beside q·k: a cap, a bias, a slope times a distance
route    of a query head: its offsets, its global tokens, and where the rows are that they lead to
single   an offset that queries of the wheel kernel meet one by one, in no tile
bitmask  of two classes of the wheel: a bit for each distance, set where it is attended
lists    what GPU kernels read that depends on the patterns alone: offsets, classes and steps
delta    rowsum(dout * out) - dlse, by query
=======  ==============================================================================================
"""

from primeattn.compiled.threads import get_num_threads, set_num_threads
from primeattn.kernels import reference
from primeattn.kernels.api import attention, merge, sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.explain import explain_kernel

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
