"""Plans of GPU launches: the tables the kernels read, on the device, and the shape of the grid.

A plan depends on patterns, lengths and layouts only; these are its key, and calls with the same key share it.
So do forwards that differ in their positions alone, as when decoding: kernels are told how much later than in
the plan their queries are. Offsets are kept apart, and somewhat further than a call needs
(:func:`primeattn.kernels.gpu.tables.roomy`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.kernels import call
from primeattn.kernels.blocks import cut
from primeattn.kernels.gpu import device
from primeattn.kernels.gpu.gather.rows import make_rows
from primeattn.kernels.gpu.gather.walk import KEYS_UNROLL, UNROLL
from primeattn.kernels.gpu.memory import Table, upload
from primeattn.kernels.gpu.tables import (
    KEPT_PLANS,
    MAX_HEAD_DIM,
    MAX_POSITION,
    ROUTE,
    Layout,
    lay_out,
    roomy,
)

__all__ = ["Plan", "make_plan", "threads_of"]

CHUNK = 256  # offsets staged at once
WIDE, NARROW = 512, 256  # threads of a block; WIDE where rows take few registers
SUMMED = 384  # in place of WIDE where gradients of biases are summed, which takes registers
BLOCKS = 264  # two for every multiprocessor of a large GPU; constant, so that all GPUs give the same results


class Plan(NamedTuple):
    """Tables on the device and launch shapes; ``key_tiles`` is 0 for a forward."""

    tables: Table
    lists: Table  # offsets
    later: int  # positions from the queries of the tables to those of the call
    layout: Layout
    threads: int
    query_tiles: int
    key_tiles: int

    @property
    def addresses(self):
        return self.tables.address, self.lists.address


def make_plan(patterns, kv_heads, sequences, strides, layout, keys=None, biased=False, summed=False) -> Plan:
    """Plan for one pattern per query head, a SEQUENCE table and each array's (batch, head, row) strides.

    ``keys``: whether "all" or only "global_tokens" are to get gradients, or None for a forward. ``biased``:
    whether offsets have biases, which go by their number among all. ``summed``: whether gradients of biases
    are summed by the kernel of dq.
    """
    low, high = call.reach(sequences)
    where, span = device.current_device(), roomy(patterns, 0 if biased else low, high)
    sequences, later = (sequences, 0) if keys else _from_origin(sequences)
    shape = patterns, kv_heads, sequences.tobytes(), tuple(strides.items())
    return _build(*shape, layout, keys, summed, span, where)._replace(later=later)


def _from_origin(sequences):
    """Sequences with queries from position 0 on, and how many positions to add.

    Keys after the last query are met by none, so that their number does not matter.
    """
    sequences, used = sequences.copy(), sequences["n_q"] > 0
    k_end = sequences["k_start"] + sequences["n_k"]
    reached = sequences["q_start"] + sequences["n_q"] <= k_end
    sequences["n_k"][reached] = MAX_POSITION - sequences["k_start"][reached]
    sequences[~used] = 0
    later = int(sequences["q_start"][used].min()) if used.any() else 0
    sequences["q_start"][used] -= later
    return sequences, later


@lru_cache(KEPT_PLANS)
def make_lists(patterns, span, where):
    """Offsets of ``patterns`` in a span: on the device, and of each pattern where they begin and how many."""
    runs = [pattern.offsets_between(*span) for pattern in patterns]
    sizes = [run.size for run in runs]
    begins = np.cumsum([0, *sizes])[:-1].tolist()
    return upload(np.concatenate(runs)), dict(zip(patterns, zip(begins, sizes, strict=True), strict=True))


@lru_cache(KEPT_PLANS)
def _build(patterns, kv_heads, sequences, strides, layout, keys, summed, span, where) -> Plan:
    sequences, strides = np.frombuffer(sequences, call.SEQUENCE), dict(strides)
    rows = make_rows(*layout)
    threads = threads_of(layout, summed)
    groups, heads = threads // rows.lanes, len(patterns)

    lists, runs = make_lists(tuple(dict.fromkeys(patterns)), span, where)
    reads = max(count + pattern.global_tokens for pattern, (_, count) in runs.items())

    shift = _splits(sequences["n_q"], heads, groups, reads, UNROLL)
    query_tiles = _tiles(sequences["n_q"], groups >> shift, shift)[::-1]  # late queries have most keys
    key_tiles = np.zeros((0, 4), np.int64)
    if keys is not None:
        group = heads // kv_heads
        # Keys that some head attends from everywhere have a block each, and go first: they have most queries.
        most = _splits(sequences["n_k"] * 0 + 1, 1, groups, np.inf, KEYS_UNROLL)
        global_tokens = max(pattern.global_tokens for pattern in patterns) - sequences["k_start"]
        global_tokens = np.clip(global_tokens, 0, sequences["n_k"])
        shift = _splits(sequences["n_k"], kv_heads, groups, reads * group, KEYS_UNROLL)
        others = _tiles((sequences["n_k"] - global_tokens) * (keys == "all"), groups >> shift, shift)
        others[:, 1] += global_tokens[others[:, 0]]
        key_tiles = np.concatenate([_tiles(global_tokens, 1, most), others])

    routes = np.zeros((heads, len(ROUTE)), np.int64)
    for route, pattern in zip(routes, patterns, strict=True):
        route[: ROUTE.key_head] = *runs[pattern], pattern.global_tokens
    routes[:, ROUTE.key_head] = np.arange(heads) * kv_heads // heads
    tables = lay_out(
        strides,
        heads // kv_heads,
        {
            "sequences": sequences.view(np.int64),
            "routes": routes,
            "query_tiles": query_tiles,
            "key_tiles": key_tiles,
        },
    )
    return Plan(upload(tables), lists, 0, layout, threads, len(query_tiles), len(key_tiles))


def threads_of(layout, summed=False) -> int:
    """Threads of a block, by how many registers a row of ``layout`` takes, and sums of bias gradients."""
    wide = layout.aligned and layout.storage != "float64" and layout.head_dim <= MAX_HEAD_DIM // 2
    return (SUMMED if summed else WIDE) if wide else NARROW


def _splits(lengths, heads, groups, reads, unroll) -> int:
    """Logarithm of how many groups share a row: as few as fill the GPU, each with enough to do."""
    shift = 0
    while (
        2 << shift <= min(groups, CHUNK // unroll, reads / unroll)
        and heads * np.sum(-(-lengths // (groups >> shift))) < BLOCKS
    ):
        shift += 1
    return shift


def _tiles(lengths, size, shift):
    """Blocks of up to ``size`` rows: sequence, first row, number of rows, logarithm of the splits."""
    sequence, first, rows = cut(lengths, size)
    return np.stack([sequence, first, rows, np.full(sequence.size, shift)], axis=1)
