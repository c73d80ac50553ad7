"""What workers run: calls of the kernels on blocks, which are NumPy arrays there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primeattn import kernels
from primeattn.patterns import Pattern

BIASES = ("offset_bias", "global_bias")  # which have gradients


@dataclass(frozen=True)
class Part:
    """A call of the kernels: a block of queries, and chunks of keys."""

    patterns: tuple[Pattern, ...]
    q_start: int
    k_start: int
    chunks: tuple[int, ...]  # numbers of the chunks of keys
    rows: tuple[tuple[int, int], ...]  # where these begin and end, counted from the first one's beginning
    options: dict  # those that are the same for all heads

    def keys(self, chunks):
        """One array of all chunks, and zeros where one in between is not there: no query attends these."""
        if len(chunks) == 1:
            return packed(chunks[0])
        batch, heads, _, head_dim = chunks[0].shape
        whole = np.zeros((batch, heads, self.rows[-1][1], head_dim), chunks[0].dtype)
        for (begin, end), chunk in zip(self.rows, chunks, strict=True):
            whole[:, :, begin:end] = chunk
        return whole

    def call(self, by_head):
        """Options of the kernels; global_bias is as long as the global tokens of these heads are many."""
        if "global_bias" in by_head:
            by_head = {**by_head, "global_bias": by_head["global_bias"][:, : self.global_tokens]}
        options = {"pattern": self.patterns, "q_start": self.q_start, "k_start": self.k_start}
        return options | self.options | {name: packed(array) for name, array in by_head.items()}

    @property
    def global_tokens(self):
        return max(pattern.global_tokens for pattern in self.patterns)


def forward(part, q, k, v, by_head):
    return kernels.attention(packed(q), part.keys(k), part.keys(v), **part.call(by_head))


def merge_two(one, other):
    return kernels.merge(*([*map(packed, pair)] for pair in zip(one, other, strict=True)))


def backward(part, names, rows, q, k, v, by_head):
    """[dq, dk of each chunk, dv of each chunk, gradients of biases]."""
    options = part.call(by_head)
    inputs = {"q": packed(q), "k": part.keys(k), "v": part.keys(v)}
    dq, dk, dv = (np.empty_like(array) for array in inputs.values())
    dbiases = {f"d{name}": np.empty_like(options[name]) for name in BIASES if name in by_head}
    inputs |= dict(zip(names, map(packed, rows), strict=True))
    kernels.sparse_index_kernel_backward(dq, dk, dv, **inputs, **options, **dbiases)
    if "dglobal_bias" in dbiases:
        beyond = by_head["global_bias"].shape[1] - part.global_tokens
        dbiases["dglobal_bias"] = np.pad(dbiases["dglobal_bias"], ((0, 0), (0, beyond)))
    chunks = [array[:, :, begin:end] for array in (dk, dv) for begin, end in part.rows]
    return [dq, *chunks, *dbiases.values()]


def packed(array):
    """The array as kernels take it; copied if it is not: arrays that Dask receives have any address."""
    return np.require(array, requirements="CA")
