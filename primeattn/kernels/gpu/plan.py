"""Plans of GPU launches: the tables the kernels read, in one array on the device, and the shape of the grid.

All that a plan depends on is its key (patterns, lengths, layouts), so calls that repeat share it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from primeattn.kernels.gpu import backward, forward, support
from primeattn.kernels.gpu.memory import upload
from primeattn.kernels.gpu.rows import MAX_HEAD_DIM, make_rows
from primeattn.kernels.gpu.walk import ARRAYS, FIELDS, HEAD

__all__ = ["KEPT_PLANS", "Layout", "Plan", "check_limits", "lay_out", "make_plan", "threads_of"]

CHUNK = 256  # offsets staged at once
WIDE, NARROW = 512, 256  # threads of a block: where rows take few registers, and elsewhere
BLOCKS = 264  # two for every processor of a large GPU; a constant, so that all GPUs give the same results
MAX_POSITION = 2**31 - 2
MAX_HEADS = 65535  # of a grid
KEPT_PLANS = 64


class Layout(NamedTuple):
    """Rows of the arrays of a call: what kernels are compiled for."""

    storage: str
    head_dim: int
    aligned: bool


class Plan(NamedTuple):
    """Tables on the device and launch shapes; ``key_tiles`` is 0 for a forward."""

    tables: object
    layout: Layout
    threads: int
    query_tiles: int
    key_tiles: int


def check_limits(arrays, options):
    """Raise where a launch of ``arrays`` (by name) would not fit its registers, grid or 32-bit numbers."""
    _, heads, _, head_dim = arrays["q"].shape
    if head_dim > MAX_HEAD_DIM:
        raise ValueError(f"q: expected head_dim up to {MAX_HEAD_DIM} on the GPU, got {head_dim}")
    if heads > MAX_HEADS:
        raise ValueError(f"q: expected up to {MAX_HEADS} heads on the GPU, got {heads}")
    for start, count in (("q_start", "n_q"), ("k_start", "n_k")):
        end = int((options.sequences[start] + options.sequences[count]).max(initial=0))
        if end > MAX_POSITION:
            raise ValueError(f"{start}: expected positions up to {MAX_POSITION} on the GPU, got {end}")
    for name, array in arrays.items():
        if array.ndim == 4 and array.shape[2] > 1 and abs(array.strides[2]) >= 2**31:
            raise ValueError(
                f"{name}: expected rows less than 2**31 bytes apart on the GPU, got {array.strides[2]}"
            )


_plans: OrderedDict = OrderedDict()


def make_plan(patterns, kv_heads, sequences, strides, layout, keys=None) -> Plan:
    """Plan for one pattern per query head, a SEQUENCE table and each array's (batch, head, row) strides.

    ``keys``: whether "all" or only the leading "columns" are to get gradients, or None for a forward.
    """
    device = support.current_device()
    key = (patterns, kv_heads, sequences.tobytes(), tuple(strides.items()), layout, keys, device)
    plan = _plans.get(key)
    if plan is None:
        plan = _plans[key] = _build(patterns, kv_heads, sequences, strides, layout, keys)
        while len(_plans) > KEPT_PLANS:
            _plans.popitem(last=False)
    return plan


def _build(patterns, kv_heads, sequences, strides, layout, keys) -> Plan:
    rows = make_rows(*layout)
    threads = threads_of(layout)
    groups, heads = threads // rows.lanes, len(patterns)

    reach = int((sequences["q_start"] + sequences["n_q"]).max(initial=0))
    distinct = list(dict.fromkeys(patterns))
    runs = [pattern.offsets(reach) for pattern in distinct]
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
    entries = [
        (*item, pattern.global_tokens) for *item, pattern in zip(begins, sizes, distinct, strict=False)
    ]
    entries = np.array([entries[distinct.index(pattern)] for pattern in patterns])
    entries = np.column_stack([entries, np.arange(heads) * kv_heads // heads])
    tables, at = lay_out(
        strides,
        heads // kv_heads,
        {
            "sequences": sequences.view(np.int64),
            "heads": entries,
            "query_tiles": query_tiles,
            "key_tiles": key_tiles,
            "offsets": np.concatenate(runs),
        },
    )
    tables[at["heads"] :][: entries.size : len(HEAD)] += at["offsets"]
    return Plan(upload(tables), layout, threads, len(query_tiles), len(key_tiles))


def lay_out(strides, group, parts) -> tuple[np.ndarray, dict[str, int]]:
    """One array of FIELDS and then the tables in ``parts``, and where each of these begins.

    ``group`` is the number of query heads of a key head.
    """
    header = np.zeros(max(FIELDS) + 3, np.int64)
    header[FIELDS.group] = group
    for name, field in zip(ARRAYS, FIELDS[-len(ARRAYS) :], strict=True):
        header[field : field + 3] = strides.get(name, 0)
    ends = header.size + np.cumsum([part.size for part in parts.values()])
    at = {name: int(end) - part.size for (name, part), end in zip(parts.items(), ends, strict=True)}
    for name in parts.keys() & set(FIELDS._fields):
        header[getattr(FIELDS, name)] = at[name]
    return np.concatenate([header, *(part.reshape(-1) for part in parts.values())]), at


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
