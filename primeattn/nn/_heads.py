"""Rows of features, seen by heads: the columns [q | k | v] of a layer, and what its kernel takes of them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple


def by_head(rows, head_dim):
    """(batch, seq, heads * head_dim) seen as (batch, heads, seq, head_dim), without a copy."""
    batch, seq, width = rows.shape
    return rows.reshape(batch, seq, width // head_dim, head_dim).transpose(0, 2, 1, 3)


class _Columns(NamedTuple):
    heads: int
    kv_heads: int
    head_dim: int  # of q and k
    v_dim: int

    @property
    def width(self):
        return self.heads * self.head_dim + self.kept_width

    @property
    def kept_width(self):
        """Columns of k and v."""
        return self.kv_heads * (self.head_dim + self.v_dim)

    def split_kept(self, rows):
        """Views of k and v by head, of rows without q."""
        keys = self.kv_heads * self.head_dim
        return by_head(rows[..., :keys], self.head_dim), by_head(rows[..., keys:], self.v_dim)

    def split(self, rows):
        """Views of q, k and v, each by head."""
        queries = self.heads * self.head_dim
        return by_head(rows[..., :queries], self.head_dim), *self.split_kept(rows[..., queries:])


class Columns(_Columns):
    """Columns of a layer. Kernels take heads of one width: the narrower of q, k and v are filled with zeros.

    ``fit`` makes rows for the kernel, ``unfit`` takes rows from it; they return what they are given if all
    heads have one width.
    """

    @cached_property
    def of_kernel(self):
        wide = max(self.head_dim, self.v_dim)
        return _Columns(self.heads, self.kv_heads, wide, wide)

    def fit(self, rows, memory):
        return rows if self == self.of_kernel else _copy(rows, self, self.of_kernel, memory)

    def unfit(self, rows, memory):
        return rows if self == self.of_kernel else _copy(rows, self.of_kernel, self, memory)

    def fit_out(self, rows, memory):
        """As ``fit``, of (batch, seq, heads * v_dim)."""
        return _resize(rows, self.v_dim, self.of_kernel.v_dim, memory)

    def unfit_out(self, rows, memory):
        return _resize(rows, self.of_kernel.v_dim, self.v_dim, memory)


def _copy(rows, columns, others, memory):
    result = memory.take((*rows.shape[:2], others.width), rows.dtype)
    for part, target in zip(columns.split(rows), others.split(result), strict=True):
        _fill(part, target)
    return result


def _resize(rows, dim, other, memory):
    if dim == other:
        return rows
    result = memory.take((*rows.shape[:2], rows.shape[2] // dim * other), rows.dtype)
    _fill(by_head(rows, dim), by_head(result, other))
    return result


def _fill(part, target):
    common = min(part.shape[3], target.shape[3])
    target[..., :common] = part[..., :common]
    target[..., common:] = 0
