"""Peers on a GPU, as in :mod:`primeattn.bench.peers`: calls that only enqueue their kernels.

The peers of torch read the same memory as this library's kernels.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from primeattn.bench.gpu_device import Array, stored
from primeattn.bench.peers import (
    COMPILE_LIMIT,
    NO_TORCH,
    GivenUp,
    Unavailable,
    compiled_flex,
    find_torch,
    flex_mask,
)
from primeattn.kernels import sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.call import GPU_KERNELS
from primeattn.kernels.gpu.device import cuda
from primeattn.workspace import Workspace

__all__ = ["FLEX", "GPU_PEERS", "OURS", "SDPA", "GpuInputs", "flex_blocks"]

FLEX = "FlexAttention"
FLEX_BLOCK = 128
BACKENDS = {"flash": "FLASH_ATTENTION", "cuDNN": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}


@dataclass(frozen=True)
class GpuInputs:
    """Arrays of shape (batch, heads, n, head_dim) in the memory of the GPU that all peers read."""

    q: Array
    k: Array
    v: Array
    dout: Array

    @classmethod
    def draw(cls, batch, heads, n, head_dim, dtype):
        return cls(*(Array.of(stored(a, dtype)) for a in _normal(batch, heads, n, head_dim)))

    @property
    def n(self):
        return self.q.shape[2]

    @cached_property
    def tensors(self):
        """q, k, v and dout as tensors; GivenUp unless torch reaches the GPU."""
        torch = find_torch()
        if torch is None:
            raise GivenUp(NO_TORCH)
        if not torch.cuda.is_available():
            raise GivenUp(f"torch {torch.__version__} finds no GPU")
        return [a.torch(torch) for a in (self.q, self.k, self.v, self.dout)]


@lru_cache(maxsize=1)
def _normal(batch, heads, n, head_dim):
    """Standard normal numbers, cached for all dtypes of a shape, as they take a second to draw."""
    return np.random.default_rng(0).standard_normal((4, batch, heads, n, head_dim), dtype=np.float32)


def ours(kernel):
    """Return the peer that is this library with one kernel, used as in a training loop."""

    def peer(inputs, pattern, backward):
        q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
        out, *grads = (q.empty_like() for _ in range(4 if backward else 1))
        lse = Array.of(np.empty(q.shape[:3], np.float32))
        options = {"workspace": Workspace(), "kernel": kernel}

        def call():
            sparse_index_kernel(out, lse, q, k, v, pattern, **options)
            if backward:
                sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern, **options)
            return out, *grads

        return _tried(call)

    return peer


def sdpa(backend):
    """Return the peer that is torch's fused attention over all causal pairs, with one backend."""

    def peer(inputs, pattern, backward):
        *qkv, dout = inputs.tensors
        torch = find_torch()
        from torch.nn.attention import SDPBackend, sdpa_kernel

        attention, chosen = torch.nn.functional.scaled_dot_product_attention, getattr(SDPBackend, backend)
        qkv = [a.detach().requires_grad_(backward) for a in qkv]

        def call():
            with torch.inference_mode(not backward), sdpa_kernel([chosen]):
                out = attention(*qkv, is_causal=True)
            return (out.detach(), *torch.autograd.grad(out, qkv, dout)) if backward else (out,)

        return _tried(call)

    return peer


def flex(inputs, pattern, backward):
    """torch's FlexAttention, compiled for the shape, with the BlockMask of the pattern."""
    *qkv, dout = inputs.tensors
    torch = find_torch()
    from torch.nn.attention.flex_attention import BlockMask

    n, qkv = inputs.n, [a.detach().requires_grad_(backward) for a in qkv]
    blocks = [torch.from_numpy(a).to("cuda") for a in flex_blocks(pattern, n)]
    visible = flex_mask(torch, pattern, n, "cuda")
    mask = BlockMask.from_kv_blocks(*blocks, FLEX_BLOCK, visible, seq_lengths=(n, n))
    compiled = compiled_flex(inputs.q.shape, (str(inputs.q.dtype), backward), 0)

    def call():
        with torch.inference_mode(not backward):
            out = compiled(*qkv, block_mask=mask)
        return (out.detach(), *torch.autograd.grad(out, qkv, dout)) if backward else (out,)

    start = time.perf_counter()
    call = _tried(call)
    seconds = time.perf_counter() - start
    if seconds > COMPILE_LIMIT:
        raise GivenUp(f"it took {seconds:.0f} s to compile")
    return call


def flex_blocks(pattern, n, block=FLEX_BLOCK):
    """Blocks of the pattern's (n, n) mask in the form of a BlockMask.

    Returns
    -------
    partial_counts, partial_columns, full_counts, full_columns : int32 arrays
        Of shape (1, 1, rows) and (1, 1, rows, rows): for each row of blocks, the number of columns with some
        but not all of their pairs, and the columns, those first; then the same for columns with all pairs.
    """
    rows = -(-n // block)
    cumulated = np.zeros(n + block + 1, np.int64)  # number of offsets below each distance
    cumulated[1:] = np.cumsum(np.bincount(pattern.offsets(n), minlength=n + block)[: n + block])
    near = block * np.arange(rows)  # distance from the first query of a block to the first key of another
    low, high = np.maximum(near - block + 1, 0), near + block
    count = cumulated[high] - cumulated[low]
    some, all_ = count > 0, count == 2 * block - 1
    delta = np.arange(rows)[:, None] - np.arange(rows)
    live = (delta >= 0) & some[np.maximum(delta, 0)]
    full = (delta > 0) & all_[np.maximum(delta, 0)]
    start = block * np.arange(rows)
    live |= (delta >= 0) & (start < pattern.global_tokens)
    full |= (delta > 0) & (start + block <= pattern.global_tokens)
    if n % block:
        full[-1] = False  # its last rows are beyond the end
    parts = []
    for blocks in (live & ~full, full):
        columns = np.argsort(~blocks, axis=1, kind="stable")
        parts += [blocks.sum(axis=1).astype(np.int32)[None, None], columns.astype(np.int32)[None, None]]
    return tuple(parts)


def _tried(call):
    """Return ``call`` after one run to its end; Unavailable if that fails."""
    try:
        call()
        _synchronize()
    except Exception as error:  # a compiler, a library or the allocator may raise anything
        message = (str(error).strip() or "no message").splitlines()[0]
        raise Unavailable(f"{type(error).__name__}: {message}") from error
    return call


def _synchronize():
    cuda.synchronize()


OURS = {f"primeattn {name}": ours(name) for name in GPU_KERNELS}
SDPA = {f"SDPA {name}": sdpa(backend) for name, backend in BACKENDS.items()}
GPU_PEERS = {**OURS, **SDPA, FLEX: flex}
