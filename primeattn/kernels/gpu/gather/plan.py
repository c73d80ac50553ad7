"""Plans of GPU launches: the tables the kernels read, in one array on the device, and the shape of the grid.

All that a plan depends on is its key (patterns, lengths, layouts), so calls that repeat share it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.kernels import call
from primeattn.kernels.gpu import device
from primeattn.kernels.gpu.gather import backward, forward
from primeattn.kernels.gpu.gather.rows import make_rows
from primeattn.kernels.gpu.memory import upload
from primeattn.kernels.gpu.tables import KEPT_PLANS, MAX_HEAD_DIM, ROUTE, Layout, lay_out

__all__ = ["Plan", "make_plan", "threads_of"]

CHUNK = 256  # offsets staged at once
WIDE, NARROW = 512, 256  # threads of a block: where rows take few registers, and elsewhere
BLOCKS = 264  # two for every processor of a large GPU; a constant, so that all GPUs give the same results


class Plan(NamedTuple):
    """Tables on the device and launch shapes; ``key_tiles`` is 0 for a forward."""

    tables: object
    layout: Layout
    threads: int
    query_tiles: int
    key_tiles: int


def make_plan(patterns, kv_heads, sequences, strides, layout, keys=None) -> Plan:
    """Plan for one pattern per query head, a SEQUENCE table and each array's (batch, head, row) strides.

    ``keys``: whether "all" or only the leading "columns" are to get gradients, or None for a forward.
    """
    where = device.current_device()
    return _build(patterns, kv_heads, sequences.tobytes(), tuple(strides.items()), layout, keys, where)


@lru_cache(KEPT_PLANS)
def _build(patterns, kv_heads, sequences, strides, layout, keys, where) -> Plan:
    sequences, strides = np.frombuffer(sequences, call.SEQUENCE), dict(strides)
    rows = make_rows(*layout)
    threads = threads_of(layout)
    groups, heads = threads // rows.lanes, len(patterns)

    distinct = list(dict.fromkeys(patterns))
    runs = [pattern.offsets_between(*call.reach(sequences)) for pattern in distinct]
    reads = max(run.size + pattern.global_tokens for run, pattern in zip(runs, distinct, strict=True))

    shift = _splits(sequences["n_q"], heads, groups, reads, forward.UNROLL)
    query_tiles = _tiles(sequences["n_q"], groups >> shift, shift)[::-1]  # late queries have most keys
    key_tiles = np.zeros((0, 4), np.int64)
    if keys is not None:
        group = heads // kv_heads
        # Keys that some head attends from everywhere have a block each, and go first: they have most queries.
        most = _splits(sequences["n_k"] * 0 + 1, 1, groups, np.inf, backward.KEYS_UNROLL)
        columns = max(pattern.global_tokens for pattern in patterns) - sequences["k_start"]
        columns = np.clip(columns, 0, sequences["n_k"])
        shift = _splits(sequences["n_k"], kv_heads, groups, reads * group, backward.KEYS_UNROLL)
        others = _tiles((sequences["n_k"] - columns) * (keys == "all"), groups >> shift, shift)
        others[:, 1] += columns[others[:, 0]]
        key_tiles = np.concatenate([_tiles(columns, 1, most), others])

    sizes = [run.size for run in runs]
    begins = np.cumsum([0, *sizes])
    routes = np.zeros((heads, len(ROUTE)), np.int64)
    for route, pattern in zip(routes, patterns, strict=True):
        which = distinct.index(pattern)
        route[:3] = begins[which], sizes[which], pattern.global_tokens
    routes[:, ROUTE.key_head] = np.arange(heads) * kv_heads // heads
    tables, at = lay_out(
        strides,
        heads // kv_heads,
        {
            "sequences": sequences.view(np.int64),
            "routes": routes,
            "query_tiles": query_tiles,
            "key_tiles": key_tiles,
            "offsets": np.concatenate(runs),
        },
    )
    tables[at["routes"] :][: routes.size : len(ROUTE)] += at["offsets"]
    return Plan(upload(tables), layout, threads, len(query_tiles), len(key_tiles))


def threads_of(layout) -> int:
    """Threads of a block: a row of ``layout`` takes few registers, or not."""
    wide = layout.aligned and layout.storage != "float64" and layout.head_dim <= MAX_HEAD_DIM // 2
    return WIDE if wide else NARROW


def _splits(lengths, heads, groups, reads, unroll) -> int:
    """Logarithm of the number of groups that share a row: as few as fill the GPU, each with enough to do."""
    shift = 0
    while (
        2 << shift <= min(groups, CHUNK // unroll, reads / unroll)
        and heads * np.sum(-(-lengths // (groups >> shift))) < BLOCKS
    ):
        shift += 1
    return shift


def _tiles(lengths, size, shift):
    """Blocks of up to ``size`` rows: sequence, first row, number of rows, logarithm of the splits."""
    counts = -(-lengths // size)
    sequence = np.repeat(np.arange(lengths.size), counts)
    first = (np.arange(sequence.size) - np.repeat(np.cumsum(counts) - counts, counts)) * size
    rows = np.minimum(lengths[sequence] - first, size)
    return np.stack([sequence, first, rows, np.full(sequence.size, shift)], axis=1)
