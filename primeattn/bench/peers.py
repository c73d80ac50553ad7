"""Peers: ways to compute attention, each a function that prepares a call.

``peer(inputs, pattern, backward)`` returns a callable without arguments; that returns ``(out,)``, or ``(out,
dq, dk, dv)`` with ``backward``. A peer that cannot do it raises Unavailable and says why. All peers read the
same arrays.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np

from primeattn.kernels import sparse_index_kernel, sparse_index_kernel_backward
from primeattn.workspace import Workspace

__all__ = [
    "COMPILE_LIMIT",
    "LARGEST",
    "NO_TORCH",
    "PEERS",
    "PER_PATTERN",
    "GivenUp",
    "Inputs",
    "Unavailable",
    "compiled_flex",
    "find_torch",
    "flex_mask",
]

NO_TORCH = "torch is not installed, or does not import (pip install 'primeattn[bench]')"
COMPILE_LIMIT = 120  # seconds


class Unavailable(Exception):
    """A peer cannot compute this call."""


class GivenUp(Unavailable):
    """It cannot compute any other call either."""


@dataclass(frozen=True)
class Inputs:
    """Arrays of shape (batch, heads, n, head_dim) that all peers read, standard normal."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dout: np.ndarray

    @classmethod
    def draw(cls, rng, batch, heads, n, head_dim, dtype):
        shape = (batch, heads, n, head_dim)
        return cls(*(rng.standard_normal(shape, dtype=np.dtype(dtype)) for _ in range(4)))

    @property
    def n(self):
        return self.q.shape[2]

    def first_row(self):
        """Inputs of length 1: a call with them compiles all that is compiled on first use."""
        return Inputs(*(a[:, :, :1].copy() for a in (self.q, self.k, self.v, self.dout)))

    def torch(self, torch, backward):
        """q, k, v as tensors on the same memory, and dout."""
        q, k, v, dout = (torch.from_numpy(a) for a in (self.q, self.k, self.v, self.dout))
        return *(a.requires_grad_(backward) for a in (q, k, v)), dout


def find_torch():
    """Return the module torch, or None if it does not import."""
    try:
        import torch
    except Exception:  # not installed, or libraries that it needs are not
        return None
    return torch


def _torch():
    torch = find_torch()
    if torch is None:
        raise GivenUp(NO_TORCH)
    return torch


def primeattn(inputs, pattern, backward):
    """This library as a training loop uses it: one Workspace, outputs allocated once."""
    q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
    out, lse, workspace = np.empty_like(q), np.empty(q.shape[:3], q.dtype), Workspace()
    grads = tuple(np.empty_like(a) for a in (q, k, v)) if backward else ()

    def call():
        sparse_index_kernel(out, lse, q, k, v, pattern, workspace=workspace)
        if backward:
            sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern, workspace=workspace)
        return out, *grads

    if inputs.n > 1:
        primeattn(inputs.first_row(), pattern, backward)()
    return call


def torch_causal(inputs, pattern, backward):
    """torch's fused kernel over all causal pairs; it ignores the pattern."""
    return _sdpa(inputs, backward, is_causal=True)


def torch_mask(inputs, pattern, backward):
    """torch's fused kernel with the pattern as a boolean (n, n) mask."""
    return _sdpa(inputs, backward, attn_mask=_torch().from_numpy(pattern.to_dense(inputs.n)))


def _sdpa(inputs, backward, **options):
    torch = _torch()
    *qkv, dout = inputs.torch(torch, backward)
    attention = torch.nn.functional.scaled_dot_product_attention

    def call():
        with torch.inference_mode(not backward):
            out = attention(*qkv, **options)
        return (out.detach(), *torch.autograd.grad(out, qkv, dout)) if backward else (out,)

    return call


def flex_attention(inputs, pattern, backward):
    """torch's FlexAttention, compiled for the shape, with a BlockMask of the pattern."""
    if backward:
        raise Unavailable("it has no backward on the CPU")
    torch = _torch()
    from torch.nn.attention.flex_attention import create_block_mask

    *qkv, _ = inputs.torch(torch, backward)
    visible = flex_mask(torch, pattern, inputs.n, "cpu")
    mask = create_block_mask(visible, None, None, inputs.n, inputs.n, device="cpu")
    try:
        compiled = compiled_flex(inputs.q.shape, inputs.q.dtype.str, torch.get_num_threads())

        def call():
            with torch.inference_mode():
                return (compiled(*qkv, block_mask=mask),)

        start = time.perf_counter()
        call()
    except Exception as error:  # a compiler and its tool chain may raise anything
        raise GivenUp(f"torch.compile failed: {str(error).strip().splitlines()[0]}") from error
    seconds = time.perf_counter() - start
    if seconds > COMPILE_LIMIT:
        raise GivenUp(f"it took {seconds:.0f} s to compile")
    return call


def flex_mask(torch, pattern, n, device):
    """Return the pattern as a function for FlexAttention: whether a query position sees a key position."""
    in_offsets = torch.zeros(n, dtype=torch.bool)
    in_offsets[torch.from_numpy(pattern.offsets(n).copy())] = True
    in_offsets = in_offsets.to(device)

    def visible(batch, head, query, key):
        distance = query - key
        return (distance >= 0) & (in_offsets[distance.clamp(min=0)] | (key < pattern.global_tokens))

    return visible


@lru_cache(maxsize=1)
def compiled_flex(shape, dtype, threads):
    """One compiled function for all patterns of a shape; its code depends on the number of threads."""
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()
    return torch.compile(flex_attention, dynamic=False)


def dense_numpy(inputs, pattern, backward):
    """Masked softmax attention by matrix products over all pairs of positions."""
    q, k, v, dout = inputs.q, inputs.k, inputs.v, inputs.dout
    scale = q.dtype.type(1 / math.sqrt(q.shape[3]))
    bias = np.where(pattern.to_dense(inputs.n), q.dtype.type(0), q.dtype.type(-np.inf))

    def call():
        p = (q * scale) @ k.swapaxes(2, 3)
        p += bias
        p -= p.max(axis=3, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=3, keepdims=True)
        out = p @ v
        if not backward:
            return (out,)
        dv = p.swapaxes(2, 3) @ dout
        ds = dout @ v.swapaxes(2, 3)
        ds -= (dout * out).sum(axis=3, keepdims=True)
        ds *= p
        ds *= scale
        return out, ds @ k, ds.swapaxes(2, 3) @ q, dv

    return call


def scalar_loop(inputs, pattern, backward):
    """The loop of PrimeAttention.jl: one query at a time, one key at a time, one thread, forward only."""
    if backward:
        raise Unavailable("it is forward only")
    q, k, v = inputs.q, inputs.k, inputs.v
    out, offsets = np.empty_like(q), pattern.offsets(inputs.n)
    scale = q.dtype.type(1 / math.sqrt(q.shape[3]))

    def call():
        _scalar_loop(out, q, k, v, offsets, pattern.window, pattern.global_tokens, scale)
        return (out,)

    if inputs.n > 1:
        scalar_loop(inputs.first_row(), pattern, backward)()
    return call


@numba.njit
def _scalar_loop(out, q, k, v, offsets, window, global_tokens, scale):
    batch, heads, n, head_dim = q.shape
    keys = np.empty(n, np.int64)
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                count = _keys(keys, i, offsets, window, global_tokens)
                largest = q.dtype.type(-np.inf)
                for j in keys[:count]:
                    largest = max(largest, scale * _dot(q[b, h, i], k[b, h, j]))
                total = q.dtype.type(0)
                out[b, h, i] = 0
                for j in keys[:count]:  # as there, every score is computed twice
                    weight = math.exp(scale * _dot(q[b, h, i], k[b, h, j]) - largest)
                    total += weight
                    for c in range(head_dim):
                        out[b, h, i, c] += weight * v[b, h, j, c]
                for c in range(head_dim):
                    out[b, h, i, c] /= total


@numba.njit
def _keys(keys, i, offsets, window, global_tokens):
    """Write the keys of query i, each once: the leading ones, the window, the offsets beyond both."""
    count, near = 0, max(0, i - window)
    for j in range(min(global_tokens, near)):
        keys[count] = j
        count += 1
    for j in range(near, i + 1):
        keys[count] = j
        count += 1
    for offset in offsets:
        j = i - offset
        if j < global_tokens:
            break
        if j < near:
            keys[count] = j
            count += 1
    return count


@numba.njit
def _dot(a, b):
    total = a.dtype.type(0)
    for c in range(a.size):
        total += a[c] * b[c]
    return total


PEERS = {
    "primeattn": primeattn,
    "torch causal": torch_causal,
    "torch mask": torch_mask,
    "FlexAttention": flex_attention,
    "dense NumPy": dense_numpy,
    "scalar loop": scalar_loop,
}
LARGEST = {"torch mask": 8192, "FlexAttention": 8192, "dense NumPy": 4096, "scalar loop": 8192}  # n
PER_PATTERN = ("primeattn", "FlexAttention", "scalar loop")  # the others always work on all pairs
