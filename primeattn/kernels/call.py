"""What a checked call of the kernels is: what back ends take.

Arrays go by their name in the public functions from here to where a back end takes their addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primeattn.patterns import Pattern
from primeattn.workspace import Workspace

__all__ = ["ARRAYS", "BIASES", "GPU_KERNELS", "KERNELS", "SEQUENCE", "Call", "Target", "lse_dtype", "reach"]

ARRAYS = ("q", "k", "v", "out", "lse", "dout", "dlse", "dq", "dk", "dv")
BIASES = ("offset_bias", "global_bias", "slopes", "doffset_bias", "dglobal_bias")  # arrays, too
KERNELS = {"tiles": "cpu", "scalar": "cpu", "gather": "cuda", "wheel": "cuda"}  # and where each runs
GPU_KERNELS = tuple(name for name, device in KERNELS.items() if device == "cuda")
BFLOAT16 = np.dtype([("bfloat16", "<u2")], align=True)  # NumPy has no such numbers, only their bits
DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
HALF_DTYPES = (np.dtype(np.float16), BFLOAT16)  # of storage; computed in float32

# One sequence of a call: an entry of the batch, or one of those packed by cu_seqlens.
SEQUENCE = np.dtype(
    [
        ("batch", np.int64),  # entry of the batch
        ("q_row", np.int64),  # row of its first query
        ("n_q", np.int64),  # queries
        ("k_row", np.int64),  # row of its first key
        ("n_k", np.int64),  # keys
        ("q_start", np.int64),  # position of its first query
        ("k_start", np.int64),  # position of its first key
        ("number", np.int64),  # of the entry of the batch, or among the packed
    ]
)


@dataclass(frozen=True)
class Target:
    """Where a call runs."""

    gpu: bool | None  # None: where it is faster
    resident: bool = False  # whether the arrays are in the memory of the GPU
    stream: int | None = None  # handle
    kernel: str | None = None  # None: the one that is faster
    wheel: int | None = None  # None: the one that is faster; another only where wheels are compared


@dataclass(frozen=True)
class Call:
    """A call whose arguments have passed all checks."""

    arrays: dict[str, np.ndarray]  # by name of ARRAYS or BIASES, those given; of the GPU's not to be read
    patterns: tuple[Pattern, ...]  # one per query head
    sequences: np.ndarray  # SEQUENCE records
    scale: float
    softcap: float | None
    dropout: float
    dropout_seed: int
    workspace: Workspace | None
    target: Target
    backward: bool

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the score beside q·k that were given, and of dropout."""
        given = tuple(name for name in BIASES if name in self.arrays)
        others = {"softcap": self.softcap is not None, "dropout": self.dropout > 0}
        return *given, *(name for name, is_given in others.items() if is_given)

    @property
    def computed(self) -> np.dtype:
        """The dtype that is computed with."""
        return lse_dtype(self.arrays["q"].dtype)

    @property
    def head_dim(self) -> int:
        return self.arrays["q"].shape[3]

    @property
    def kv_heads(self) -> int:
        return self.arrays["k"].shape[1]

    @property
    def heads_per_key(self) -> int:
        return len(self.patterns) // self.kv_heads


def lse_dtype(dtype) -> np.dtype:
    """Return the dtype of lse for rows of ``dtype``: what is computed with."""
    return DTYPES[0] if dtype in HALF_DTYPES else dtype


def reach(sequences) -> tuple[int, int]:
    """The least distance of a query to a key at hand, and one more than the largest, over all sequences."""
    sequences = sequences[(sequences["n_q"] > 0) & (sequences["n_k"] > 0)]
    if not sequences.size:
        return 0, 0
    after = sequences["q_start"] - sequences["k_start"]
    low = (after - sequences["n_k"] + 1).min(initial=np.iinfo(np.int64).max)
    return max(int(low), 0), max(int((after + sequences["n_q"]).max(initial=0)), 0)
