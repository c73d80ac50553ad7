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
from pathlib import Path

import numpy as np

from primeattn.compiled.simd import GROUP, LINE
from primeattn.kernels.blocks import cut
from primeattn.kernels.call import SEQUENCE
from primeattn.kernels.cpu.records import PANEL, PIECE, ROUTE, TASK, Tables
from primeattn.patterns import Pattern

__all__ = ["Plan", "make_plan", "parts"]


PIECE_ROWS = 1024
LOCAL_ROWS = 64  # most queries and keys of a short sequence
LOCAL_SPACE = 4 * LOCAL_ROWS + GROUP  # packed rows of its two panels, and zeros around the moving one
KEPT_PLANS = 64


@dataclass(frozen=True)
class Plan:
    """Tables and sizes of one call."""

    tables: Tables
    block: int  # most rows of a block
    lines: int  # cache lines of a packed row
    fused: bool  # whether the backward is one pass
    gather: bool  # whether the forward copies what each tile needs instead of packing all keys
    local: bool  # whether tasks pack for themselves
    key_rows: int  # packed rows
    query_rows: int
    work: float  # multiply-adds of one product over all pairs, at most


def _second_level_cache() -> int:
    """Bytes of a core's second-level cache, 512 KiB where the system does not say."""
    try:
        size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text()
        return int(size.strip().removesuffix("K")) * 1024
    except (OSError, ValueError):
        return 512 * 1024


CACHE = _second_level_cache()


def block_rows(n_q: int, reads: int, rows: int) -> int:
    """Rows of a block whose last row reads ``reads`` keys, in a call of ``rows`` (whole groups; measured).

    Every block reads all of its keys again, from beyond the second-level cache where the sequence is long:
    long blocks share that out over more queries, as long as q and out (of 64 float32) fill half of the cache.
    Where offsets are far apart, they also let one offset reuse the rows of the next. Sequences of a few
    blocks waste their ragged ends, and calls of a few blocks leave threads without work.
    """
    most = min(max(n_q // 16, 512), max(CACHE // 1024, 512))
    if 32 * reads < n_q:
        most = max(most, min(n_q // 64, 1024))
    return _whole_groups(min(max(min(n_q // 4, rows // 64), 128), most), n_q)


def fused_block_rows(n_q: int) -> int:
    """Rows of a block of the backward in one pass (measured): long beside the span of a group of slots."""
    return _whole_groups(min(max(n_q // 8, 128), 1024), n_q)


def _whole_groups(rows, n_q):
    return min(rows // GROUP, -(-max(n_q, 1) // GROUP)) * GROUP


def fuses(n_q: int, reads: int, key_heads: int) -> bool:
    """Whether a backward in one pass is faster: keys read densely, and key heads enough to share out.

    It does 5/7 of the work of two passes, less what it loses where offsets are far apart (measured). A worker
    takes a whole key head of a sequence at a time, two passes share out blocks of rows.
    """
    return key_heads >= 8 and 16 * reads >= n_q


def parts(patterns, sequences) -> list[tuple]:
    """What has a plan of its own, as (patterns, sequences): long sequences, short ones, single tokens.

    A token that is a whole sequence sees itself alone. So a run of them is one sequence of queries that see
    offset 0 and no globals.
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


def reach(sequences) -> tuple[int, int]:
    """The least distance of a query to a key at hand, and one more than the largest, over all sequences."""
    after = sequences["q_start"] - sequences["k_start"]
    low = (after - sequences["n_k"] + 1).min(initial=np.iinfo(np.int64).max)
    return max(int(low), 0), max(int((after + sequences["n_q"]).max(initial=0)), 0)


def make_plan(patterns, kv_heads, sequences, head_dim, itemsize, backward=False) -> Plan:
    """Plan for one pattern per query head and a SEQUENCE table; the last plans are kept.

    The tables are shared between calls and are not to be written to.
    """
    return _build(patterns, kv_heads, sequences.tobytes(), head_dim, itemsize, backward)


@lru_cache(KEPT_PLANS)
def _build(patterns, kv_heads, sequences, head_dim, itemsize, backward) -> Plan:
    sequences = np.frombuffer(sequences, SEQUENCE)
    heads, count = len(patterns), len(sequences)
    n_q, n_k = int(sequences["n_q"].max(initial=0)), int(sequences["n_k"].max(initial=0))
    local = max(n_q, n_k) <= LOCAL_ROWS
    if not local:
        # The longest first: the last tasks are short, and neighbouring panels need about as many zero rows.
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
    moving = _panels(owner, edge, last - edge)
    fixed = _panels(owner, np.broadcast_to(first, edge.shape), edge - first)
    query_shape = (count, heads)
    zeros = np.minimum(sequences["n_q"], block)
    if local:
        moving["row"] = zeros[moving["sequence"]]
        fixed["row"] = 2 * moving["row"] + moving["count"]
    if local or gather:  # nothing is packed before
        key_panels, key_pieces, key_rows = np.concatenate([moving, fixed]), np.zeros(0, PIECE), 0
    else:
        key_panels, key_pieces, key_rows = _pack(moving, fixed, zeros)
    query_panels, query_pieces, query_rows = np.zeros(0, PANEL), np.zeros(0, PIECE), 0
    key_tasks = np.zeros(0, TASK)
    if backward and not fused:
        asking = _panels(
            range(heads),
            np.broadcast_to(sequences["q_start"][:, None], query_shape),
            np.broadcast_to(sequences["n_q"][:, None], query_shape),
        )
        zeros = np.minimum(sequences["n_k"], block)
        query_panels, query_pieces, query_rows = _pack(asking, np.zeros(1, PANEL), zeros)
        key_tasks = _tasks(sequences["n_k"], kv_heads, block)

    routes = np.zeros(query_shape, ROUTE)
    routes["begin"] = [ends[w] - runs[w].size for w in which]
    routes["end"] = [ends[w] for w in which]
    routes["keys"] = np.arange(count)[:, None] * len(names) + [names.index(share) for share in shares]
    routes["globals"] = routes["keys"] + moving.size
    routes["queries"] = np.arange(count * heads).reshape(query_shape)

    tables = Tables(
        offsets=np.concatenate([*runs, np.zeros(0, np.int64)]),
        sequences=sequences,
        routes=routes,
        key_panels=key_panels,
        query_panels=query_panels,
        key_pieces=key_pieces,
        query_pieces=query_pieces,
        # Late queries have more keys, early keys have more queries: the long blocks come first.
        query_tasks=_late_first(_tasks(sequences["n_q"], heads, block)),
        key_tasks=key_tasks,
    )
    lines = -(-head_dim * itemsize // LINE)
    return Plan(tables, block, lines, fused, gather, local, key_rows, query_rows, float(pairs * head_dim))


def _panels(heads, first, count):
    """PANEL records, not yet placed, of (sequences, heads) tables of first positions and counts."""
    panels = np.zeros(count.shape, PANEL)
    panels["sequence"] = np.arange(count.shape[0])[:, None]
    panels["head"] = heads
    panels["first"], panels["count"] = first, count
    return panels.reshape(-1)


def _pack(moving, fixed, zeros):
    """Place panels in one space of rows, with zero rows before and after every moving one.

    ``zeros`` says how many, by sequence: as many as the longest block that reads the panel has rows. Two
    panels share those between them; the first panel has the most, which fill up groups of slots.
    Returns the panels, the pieces in which they are packed, and the size of the space.
    """
    panels = np.concatenate([moving, fixed])
    around = np.concatenate([zeros[moving["sequence"]], np.zeros(fixed.size, np.int64)])
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
