"""Patterns as masks of torch."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask

from primeattn.checks import as_int

__all__ = ["to_flex", "to_torch_csr"]


def to_flex(pattern, n, *, wheel=1, block_size=128, device=None):
    """The mask of :meth:`primeattn.Pattern.to_flex`, where all is said."""
    n, size = as_int("n", n, minimum=1), as_int("block_size", block_size, minimum=1)
    order = pattern.wheel_permutation(n, wheel)
    counts = _pairs_of_blocks(pattern, order, size)
    full = counts == size * size
    blocks = [_listed(some, device) for some in ((counts > 0) & ~full, full)]
    attended = torch.zeros(n, dtype=torch.bool, device=device)
    attended[torch.tensor(pattern.offsets(n), device=device)] = True
    order, columns = torch.tensor(order, device=device), pattern.global_tokens

    def mask_mod(batch, head, query, key):
        i, j = order[query], order[key]
        return (i >= j) & (attended[(i - j).clamp(min=0)] | (j < columns))

    lengths = {"BLOCK_SIZE": size, "mask_mod": mask_mod, "seq_lengths": (n, n)}
    return BlockMask.from_kv_blocks(*blocks[0], *blocks[1], **lengths)


def _pairs_of_blocks(pattern, order, size):
    """Attended pairs of each block of queries with each block of keys, in an order of the positions."""
    n = len(order)
    number = np.empty(n, np.int64)
    number[order] = np.arange(n) // size
    blocks = -(-n // size)
    counts = np.empty((blocks, blocks), np.int64)
    for row, begin in zip(counts, range(0, n, size), strict=True):
        keys = np.concatenate([pattern.keys(i) for i in order[begin : begin + size].tolist()])
        row[:] = np.bincount(number[keys], minlength=blocks)
    return counts


def _listed(dense, device):
    """Numbers of the true entries of each row, and these entries before all others."""
    first = np.argsort(~dense, axis=1, kind="stable")
    arrays = dense.sum(axis=1), first
    return [torch.tensor(array, dtype=torch.int32, device=device)[None, None] for array in arrays]


def to_torch_csr(pattern, n, *, device=None):
    """The mask of :meth:`primeattn.Pattern.to_torch_csr`."""
    mask = pattern.to_csr(n)
    rows, columns, data = (torch.from_numpy(part) for part in (mask.indptr, mask.indices, mask.data))
    return torch.sparse_csr_tensor(rows, columns, data, mask.shape, device=device, check_invariants=True)
