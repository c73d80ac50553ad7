"""Plans: from patterns and lengths to tables of sequences, panels, pieces and tasks.

A plan says what is packed where and which blocks of rows are computed; it holds no data and no addresses, so
calls of one shape share it. Table rows are records; the kernels read them by field.

A *panel* is a run of consecutive rows of one sequence and head, packed into one space of rows per side (keys,
queries) with zero rows around it, so that a block may read past either end. Keys that an offset can reach
(j >= G) and global keys (j < G) are panels of their own: the first move along with the query, the second do
not. Query heads that share a key head share its panels, as long as they agree on G.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from primeattn.compiled.caches import cache_sizes
from primeattn.compiled.simd import GROUP, LINE
from primeattn.kernels.blocks import cut
from primeattn.kernels.call import SEQUENCE, reach
from primeattn.kernels.cpu.records import PANEL, PIECE, ROUTE, TASK, Tables
from primeattn.patterns import Pattern

__all__ = ["Plan", "make_plan", "make_plans", "parts"]

PIECE_ROWS = 1024
LOCAL_ROWS = 64  # most queries and keys of a short sequence
LOCAL_SPACE = 4 * LOCAL_ROWS + GROUP  # packed rows of its two panels, and zeros around the keys
KEPT_PLANS = 64


@dataclass(frozen=True)
class Plan:
    """Tables and sizes of one call."""

    tables: Tables
    block: int  # most rows in a block
    lines: int  # cache lines of a packed row
    fused: bool  # whether the backward is one pass
    gather: bool  # whether the forward copies the rows of each tile instead of packing all keys
    local: bool  # whether each task packs its own rows
    key_rows: int  # packed rows
    query_rows: int
    work: float  # upper bound of the multiply-adds of one product over all pairs


CACHE = cache_sizes().get("L2", 512 * 1024)  # the second-level cache of a core


def block_rows(n_q: int, reads: int, rows: int) -> int:
    """Rows of a block (whole groups; measured) whose last query reads ``reads`` keys, in a call of ``rows``.

    Every block reads all its keys again, from beyond the second-level cache if the sequence is long. Long
    blocks spread that cost over more queries, as long as q and out (64 float32 each) fit half of the cache.
    If offsets are far apart, long blocks also let one offset reuse the rows of the next. But sequences of few
    blocks waste their ragged ends, and calls of few blocks leave threads idle.
    """
    most = min(max(n_q // 16, 512), max(CACHE // 1024, 512))
    if 32 * reads < n_q:
        most = max(most, min(n_q // 64, 1024))
    return _whole_groups(min(max(min(n_q // 4, rows // 64), 128), most), n_q)


def fused_block_rows(n_q: int) -> int:
    """Rows of a block in the one-pass backward: many more than a group of slots spans; measured."""
    return _whole_groups(min(max(n_q // 8, 128), 1024), n_q)


def _whole_groups(rows, n_q):
    return min(rows // GROUP, -(-max(n_q, 1) // GROUP)) * GROUP


def fuses(n_q: int, reads: int, key_heads: int) -> bool:
    """Whether a backward in one pass is faster: for dense patterns with enough key heads for all workers.

    It does 5/7 of the work of two passes, but loses time where offsets are far apart (measured). A worker
    takes a whole key head of a sequence at a time; two passes divide the work by blocks of rows.
    """
    return key_heads >= 8 and 16 * reads >= n_q


def parts(patterns, sequences) -> list[tuple]:
    """Split a call into (patterns, sequences) with a plan each: long sequences, short ones, single tokens.

    A sequence of one token sees only itself. So a run of them is treated as one sequence with offset 0 alone
    and no globals.
    """
    single = (sequences["n_q"] == 1) & (sequences["n_k"] == 1)
    single &= sequences["q_start"] == sequences["k_start"]
    tokens, rest = sequences[single], sequences[~single]
    begins = np.ones(tokens.size, bool)
    begins[1:] = (np.diff(tokens["q_row"]) != 1) | (np.diff(tokens["batch"]) != 0)
    runs = tokens[begins]
    runs["n_q"] = runs["n_k"] = np.diff(np.flatnonzero(np.append(begins, True)))
    runs["q_start"] = runs["k_start"] = 0

    result = []
    for kinds, table in ((patterns, rest), ((Pattern(None),) * len(patterns), runs)):
        short = np.maximum(table["n_q"], table["n_k"]) <= LOCAL_ROWS
        result += [(kinds, part) for part in (table[~short], table[short]) if part.size]
    return result


def make_plans(patterns, kv_heads, sequences, head_dim, itemsize, backward=False) -> tuple[Plan, ...]:
    """Plans of the ``parts`` of a call; recent ones are cached.

    Calls share the tables and must not write to them.
    """
    return _make_plans(patterns, kv_heads, sequences.tobytes(), head_dim, itemsize, backward)


@lru_cache(KEPT_PLANS)
def _make_plans(patterns, kv_heads, sequences, *row) -> tuple[Plan, ...]:
    table = np.frombuffer(sequences, SEQUENCE)
    return tuple(make_plan(kinds, kv_heads, part, *row) for kinds, part in parts(patterns, table))


def make_plan(patterns, kv_heads, sequences, head_dim, itemsize, backward=False) -> Plan:
    """Plan for one pattern per query head and a SEQUENCE table that can be written to.

    Numba takes a read-only table for another type, and compiles once more.
    """
    heads, count = len(patterns), len(sequences)
    n_q, n_k = int(sequences["n_q"].max(initial=0)), int(sequences["n_k"].max(initial=0))
    local = max(n_q, n_k) <= LOCAL_ROWS
    if not local:
        # Longest first: the last tasks are short, and neighbouring panels need similar numbers of zero rows.
        sequences = sequences[np.argsort(-sequences["n_q"], kind="stable")]
    distinct = list(dict.fromkeys(patterns))
    runs = [pattern.offsets_between(*reach(sequences)) for pattern in distinct]
    ends = np.cumsum([run.size for run in runs])
    which = [distinct.index(pattern) for pattern in patterns]
    reads = [runs[w].size + pattern.global_tokens for w, pattern in zip(which, patterns, strict=True)]
    fused = backward and (local or fuses(n_q, max(reads), count * kv_heads))
    pairs = (
        sequences["n_q"][:, None] * np.minimum(sequences["n_k"][:, None], float(1) * np.array(reads))
    ).sum()
    gather = not (local or backward) and bool(2 * pairs < kv_heads * sequences["n_k"].sum())
    rows = heads * int(sequences["n_q"].sum())
    block = fused_block_rows(n_q) if fused else block_rows(n_q, max(reads), rows)

    # Heads that share a key head and agree on G share two panels: the keys from G on, and those before.
    shares = [(h // (heads // kv_heads), pattern.global_tokens) for h, pattern in enumerate(patterns)]
    names = list(dict.fromkeys(shares))
    first, last = sequences["k_start"][:, None], (sequences["k_start"] + sequences["n_k"])[:, None]
    edge = np.clip([[g for _, g in names]], first, last)
    owner = [h for h, _ in names]
    keys = _panels(owner, edge, last - edge)
    global_keys = _panels(owner, np.broadcast_to(first, edge.shape), edge - first)
    query_shape = (count, heads)
    zeros = np.minimum(sequences["n_q"], block)
    if local:
        keys["row"] = zeros[keys["sequence"]]
        global_keys["row"] = 2 * keys["row"] + keys["count"]
    if local or gather:  # nothing is packed ahead
        key_panels, key_pieces, key_rows = np.concatenate([keys, global_keys]), np.zeros(0, PIECE), 0
    else:
        key_panels, key_pieces, key_rows = _pack(keys, global_keys, zeros)
    query_panels, query_pieces, query_rows = np.zeros(0, PANEL), np.zeros(0, PIECE), 0
    key_tasks = np.zeros(0, TASK)
    if backward and not fused:
        queries = _panels(
            range(heads),
            np.broadcast_to(sequences["q_start"][:, None], query_shape),
            np.broadcast_to(sequences["n_q"][:, None], query_shape),
        )
        zeros = np.minimum(sequences["n_k"], block)
        query_panels, query_pieces, query_rows = _pack(queries, np.zeros(1, PANEL), zeros)
        key_tasks = _tasks(sequences["n_k"], kv_heads, block)

    routes = np.zeros(query_shape, ROUTE)
    routes["begin"] = [ends[w] - runs[w].size for w in which]
    routes["end"] = [ends[w] for w in which]
    routes["keys"] = np.arange(count)[:, None] * len(names) + [names.index(share) for share in shares]
    routes["globals"] = routes["keys"] + keys.size
    routes["queries"] = np.arange(count * heads).reshape(query_shape)

    tables = Tables(
        offsets=np.concatenate([*runs, np.zeros(0, np.int64)]),
        sequences=sequences,
        routes=routes,
        key_panels=key_panels,
        query_panels=query_panels,
        key_pieces=key_pieces,
        query_pieces=query_pieces,
        # The most work first: late queries have more keys, early keys have more queries.
        query_tasks=_late_first(_tasks(sequences["n_q"], heads, block)),
        key_tasks=key_tasks,
    )
    lines = -(-head_dim * itemsize // LINE)
    return Plan(tables, block, lines, fused, gather, local, key_rows, query_rows, float(pairs * head_dim))


def _panels(heads, first, count):
    """PANEL records, not yet placed, from (sequences, heads) tables of first positions and counts."""
    panels = np.zeros(count.shape, PANEL)
    panels["sequence"] = np.arange(count.shape[0])[:, None]
    panels["head"] = heads
    panels["first"], panels["count"] = first, count
    return panels.reshape(-1)


def _pack(padded, plain, zeros):
    """Place panels in one space of rows, with zero rows before and after the padded ones.

    ``zeros`` gives their number by sequence: the rows of the longest block that reads the panel. Neighbours
    share the zero rows between them. The first panel has the most before it; unused slots read those.
    Returns the panels, the pieces in which they are packed, and the size of the space.
    """
    panels = np.concatenate([padded, plain])
    around = np.concatenate([zeros[padded["sequence"]], np.zeros(plain.size, np.int64)])
    before = np.maximum(around, np.concatenate([[zeros.max()], around[:-1]]))
    ends = np.cumsum(before + panels["count"])
    panels["row"] = ends - panels["count"]
    run, start, length = cut(panels["count"], PIECE_ROWS, at_least=1)
    pieces = np.zeros(run.size, PIECE)
    pieces["panel"], pieces["start"], pieces["count"] = run, start, length
    pieces["zeros"] = np.where(start == 0, before[run], 0)
    return panels, pieces, int(ends[-1]) + GROUP


def _tasks(lengths, heads, block):
    """Blocks of rows of every sequence and head, as TASK records."""
    run, start, length = cut(np.repeat(lengths, heads), block)
    tasks = np.zeros(run.size, TASK)
    tasks["sequence"], tasks["head"] = np.divmod(run, heads)
    tasks["first"], tasks["count"] = start, length
    return tasks


def _late_first(tasks):
    """The blocks of every sequence and head from the last to the first."""
    return tasks[np.lexsort((-tasks["first"], tasks["head"], tasks["sequence"]))]
