"""Plans: from patterns and lengths to tables of sequences, panels, pieces and tasks.

A plan says what is packed where and which blocks of rows are computed; it holds no data and no addresses, so
calls of one shape share it. Table rows are records; the kernels read them by field.

A *stage* is all work on one key head of a sequence. Its rows are packed as *panels*, runs of consecutive rows
of one head, into one space per side (keys, queries), with zero rows around each, so that a block may read
past either end. Keys that an offset can reach (j >= G) and global keys (j < G) are panels of their own: the
first move along with the query, the second do not. Query heads that share a key head share its panels, as
long as they agree on G.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from primeattn.compiled.caches import cache_sizes
from primeattn.compiled.simd import GROUP, LINE, VECTOR
from primeattn.kernels.blocks import cut
from primeattn.kernels.call import SEQUENCE, reach
from primeattn.kernels.cpu.records import PANEL, PIECE, ROUTE, STAGE, TASK, Tables
from primeattn.patterns import Pattern

__all__ = ["Plan", "make_plan", "make_plans", "parts"]

PIECE_ROWS = 1024
SHORT_ROWS = 64  # most queries and keys of a short sequence
KEPT_PLANS = 64
EVEN = 0.9  # part of the time that workers must be busy, or they share each stage


@dataclass(frozen=True)
class Plan:
    """Tables and sizes of one call."""

    tables: Tables
    together: int  # query heads that the forward computes at once
    block: int  # most rows in a block, of all these heads
    lines: int  # cache lines of a packed row
    fused: bool  # whether the backward is one pass
    gather: bool  # whether the forward takes the rows that each tile needs instead of packing all keys
    single: bool  # whether every sequence has one query
    rows_at_once: tuple[int, int]  # packed rows of all keys, and of all queries
    rows_of_stage: tuple[int, int]  # the most of a stage
    even: float  # number of stages, if all were as long as the longest
    work: float  # upper bound of the multiply-adds of one product over all pairs

    def whole(self, workers: int) -> bool:
        """Whether workers take whole stages: where these divide evenly between them."""
        return not self.gather and EVEN * workers * math.ceil(self.even / workers) <= self.even


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


def heads_together(patterns, heads_per_key: int) -> int:
    """Number of query heads that the forward computes at once: two, if all pairs share key head and pattern.

    Each row of k and v is then loaded once for both. That takes twice the registers; only AVX-512 has them.
    """
    pairs = zip(patterns[::2], patterns[1::2], strict=False)
    return 2 if VECTOR == 64 and heads_per_key % 2 == 0 and all(a == b for a, b in pairs) else 1


def parts(patterns, sequences, join=True) -> list[tuple]:
    """Split a call into (patterns, sequences) with a plan each: long sequences, short ones, single tokens.

    A sequence of one token sees only itself. So with ``join`` a run of them is treated as one sequence with
    offset 0 alone and no globals. That is wrong where a bias depends on the position.
    """
    single = join & (sequences["n_q"] == 1) & (sequences["n_k"] == 1)
    single &= sequences["q_start"] == sequences["k_start"]
    tokens, rest = sequences[single], sequences[~single]
    begins = np.ones(tokens.size, bool)
    begins[1:] = (np.diff(tokens["q_row"]) != 1) | (np.diff(tokens["batch"]) != 0)
    runs = tokens[begins]
    runs["n_q"] = runs["n_k"] = np.diff(np.flatnonzero(np.append(begins, True)))
    runs["q_start"] = runs["k_start"] = 0

    result = []
    for kinds, table in ((patterns, rest), ((Pattern(None),) * len(patterns), runs)):
        short = np.maximum(table["n_q"], table["n_k"]) <= SHORT_ROWS
        result += [(kinds, part) for part in (table[~short], table[short]) if part.size]
    return result


def make_plans(
    patterns, kv_heads, sequences, head_dim, itemsize, backward=False, join=True
) -> tuple[Plan, ...]:
    """Plans of the ``parts`` of a call; recent ones are cached.

    Calls share the tables and must not write to them.
    """
    table, row = sequences.tobytes(), (join, head_dim, itemsize, backward)
    plans = None if backward else _plans_of_step(patterns, kv_heads, table, *row)
    return plans or _make_plans(patterns, kv_heads, table, *row)


@lru_cache(4)  # a step is soon over: it must not drive out plans that are needed again
def _plans_of_step(patterns, kv_heads, table, *row) -> tuple[Plan, ...]:
    """Plans of a step of decoding that takes each tile's rows; none for other calls.

    But for positions, such a plan is that of a step at the next power of two, which earlier steps have made.
    """
    sequences = np.frombuffer(table, SEQUENCE)
    last, n_k = sequences["q_start"], sequences["n_k"]
    alike = (sequences["n_q"] == 1) & (sequences["k_start"] == 0) & (n_k > np.maximum(last, SHORT_ROWS))
    if not alike.all():
        return ()
    later = sequences.copy()
    later["n_k"] = 1 << int(n_k.max(initial=1) - 1).bit_length()
    later["q_start"] = later["n_k"] - 1
    plans = _make_plans(patterns, kv_heads, later.tobytes(), *row)
    if not all(plan.gather for plan in plans):
        return ()
    panels = np.concatenate(_key_panels(patterns, kv_heads, sequences))
    sequences = sequences.copy()
    return tuple(
        replace(plan, tables=plan.tables._replace(sequences=sequences, key_panels=panels)) for plan in plans
    )


@lru_cache(KEPT_PLANS)
def _make_plans(patterns, kv_heads, sequences, join, *row) -> tuple[Plan, ...]:
    table = np.frombuffer(sequences, SEQUENCE)
    return tuple(make_plan(kinds, kv_heads, part, *row) for kinds, part in parts(patterns, table, join))


def make_plan(patterns, kv_heads, sequences, head_dim, itemsize, backward=False) -> Plan:
    """Plan for one pattern per query head and a SEQUENCE table that can be written to.

    Numba takes a read-only table for another type, and compiles once more.
    """
    heads, count = len(patterns), len(sequences)
    n_q, n_k = int(sequences["n_q"].max(initial=0)), int(sequences["n_k"].max(initial=0))
    # Longest first: the last tasks are short.
    sequences = sequences[np.argsort(-sequences["n_q"], kind="stable")]
    distinct = list(dict.fromkeys(patterns))
    runs = [pattern.offsets_between(*reach(sequences)) for pattern in distinct]
    ends = np.cumsum([run.size for run in runs])
    which = [distinct.index(pattern) for pattern in patterns]
    reads = [runs[w].size + pattern.global_tokens for w, pattern in zip(which, patterns, strict=True)]
    short = max(n_q, n_k) <= SHORT_ROWS
    fused = backward and (short or fuses(n_q, max(reads), count * kv_heads))
    pairs = (
        sequences["n_q"][:, None] * np.minimum(sequences["n_k"][:, None], float(1) * np.array(reads))
    ).sum()
    gather = not (short or backward) and bool(2 * pairs < kv_heads * sequences["n_k"].sum())
    rows = heads * int(sequences["n_q"].sum())
    block = fused_block_rows(n_q) if fused else block_rows(n_q, max(reads), rows)

    stages = np.zeros((count, kv_heads), STAGE)
    stages["sequence"], stages["head"] = np.arange(count)[:, None], np.arange(kv_heads)
    stages = stages.reshape(-1)
    heads_per_key = heads // kv_heads
    shares = _shares(patterns, heads_per_key)
    names = list(dict.fromkeys(shares))
    keys, global_keys = _key_panels(patterns, kv_heads, sequences)
    if gather:  # nothing is packed
        key_panels, key_pieces = np.concatenate([keys, global_keys]), np.zeros(0, PIECE)
    else:
        key_panels, key_pieces = _pack(stages, "key", keys, global_keys, np.minimum(sequences["n_q"], block))
    query_panels, query_pieces = np.zeros(0, PANEL), np.zeros(0, PIECE)
    together = 1 if backward else heads_together(patterns, heads_per_key)
    tasks = _late_first(_tasks(sequences["n_q"], heads // together, kv_heads, block))
    tasks["head"] *= together
    if backward and not fused:
        key_tasks = _tasks(sequences["n_k"], kv_heads, kv_heads, block)
        key_tasks["keys"] = 1
        tasks = np.concatenate([key_tasks, tasks])
        tasks = tasks[np.argsort(tasks["stage"], kind="stable")]
        start, all_heads = sequences["q_start"][:, None], np.arange(heads)
        counts = np.repeat(sequences["n_q"][:, None], heads, axis=1)
        queries = _panels(all_heads // heads_per_key, all_heads, kv_heads, start, counts)
        stage_heads = np.arange(kv_heads)  # a panel without rows for each, for the zeros after the others
        end = _panels(stage_heads, stage_heads, kv_heads, start, np.zeros((count, kv_heads), np.int64))
        zeros = np.minimum(sequences["n_k"], block)
        query_panels, query_pieces = _pack(stages, "query", queries, end, zeros)
    stages["task"], stages["tasks"] = _runs(tasks["stage"], stages.size)

    routes = np.zeros((count, heads), ROUTE)
    routes["begin"] = [ends[w] - runs[w].size for w in which]
    routes["end"] = [ends[w] for w in which]
    routes["keys"] = np.arange(count)[:, None] * len(names) + [names.index(share) for share in shares]
    routes["globals"] = routes["keys"] + keys.size
    routes["queries"] = np.arange(count * heads).reshape(count, heads)

    tables = Tables(
        offsets=np.concatenate([*runs, np.zeros(0, np.int64)]),
        sequences=sequences,
        stages=stages,
        routes=routes,
        key_panels=key_panels,
        query_panels=query_panels,
        key_pieces=key_pieces,
        query_pieces=query_pieces,
        tasks=tasks,
    )
    lengths = sequences["n_q"] + sequences["n_k"]
    even = kv_heads * float(lengths.sum()) / max(int(lengths.max(initial=0)), 1)
    lines = -(-head_dim * itemsize // LINE)
    rows = [stages[f"{side}_rows"] for side in ("key", "query")]
    at_once, of_stage = (tuple(int(f(r, initial=0)) for r in rows) for f in (np.sum, np.max))
    work = float(pairs * head_dim)
    numbers = together, together * block, lines, fused, gather, n_q == 1
    return Plan(tables, *numbers, at_once, of_stage, even, work)


def _shares(patterns, heads_per_key):
    """Key head and G of each query head: heads that agree on both share two panels of keys."""
    return [(h // heads_per_key, pattern.global_tokens) for h, pattern in enumerate(patterns)]


def _key_panels(patterns, kv_heads, sequences):
    """The panels of the keys from G on, and of those before, of each sequence and pair of ``_shares``."""
    owner, globals_ = zip(*dict.fromkeys(_shares(patterns, len(patterns) // kv_heads)), strict=True)
    first, last = sequences["k_start"][:, None], (sequences["k_start"] + sequences["n_k"])[:, None]
    edge = np.clip([globals_], first, last)
    keys = _panels(owner, owner, kv_heads, edge, last - edge)
    return keys, _panels(owner, owner, kv_heads, first, edge - first)


def _panels(owner, heads, kv_heads, first, count):
    """PANEL records, not yet placed, of ``heads`` that belong to the key heads ``owner``.

    Tables of first positions and counts are (sequences, heads).
    """
    panels = np.zeros(count.shape, PANEL)
    panels["stage"] = np.arange(count.shape[0])[:, None] * kv_heads + owner
    panels["head"] = heads
    panels["first"], panels["count"] = first, count
    return panels.reshape(-1)


def _pack(stages, side, padded, plain, zeros):
    """Place the panels of each stage in a space of rows, with zero rows before and after the padded ones.

    ``zeros`` gives their number by sequence: the rows of the longest block that reads the panel. Neighbours
    share the zero rows between them; a space begins with zero rows, which unused slots read. Tells the stages
    their rows and pieces on that ``side``, and returns the panels and the pieces in which they are packed.
    """
    panels = np.concatenate([padded, plain])
    order = np.argsort(panels["stage"], kind="stable")
    stage, count = panels["stage"][order], panels["count"][order]
    around = np.where(order < padded.size, zeros[stages["sequence"][stage]], 0)
    begins = np.diff(stage, prepend=-1) > 0
    before = np.maximum(around, np.where(begins, 0, np.append(0, around[:-1])))
    ends = np.cumsum(before + count)
    start = (ends - count - before)[begins]
    panels["row"][order] = ends - count - start[stage]
    rows = np.diff(np.append(start, ends[-1])) + GROUP  # eights of numbers may be read past the last row
    stages[f"{side}_row"], stages[f"{side}_rows"] = np.cumsum(rows) - rows, rows

    run, first, length = cut(count, PIECE_ROWS, at_least=1)
    pieces = np.zeros(run.size, PIECE)
    pieces["panel"], pieces["start"], pieces["count"] = order[run], first, length
    pieces["zeros"] = np.where(first == 0, before[run], 0)
    stages[f"{side}_piece"], stages[f"{side}_pieces"] = _runs(stage[run], stages.size)
    return panels, pieces


def _runs(numbers, count):
    """Where the runs of 0 .. count - 1 in sorted ``numbers`` begin, and their lengths."""
    lengths = np.bincount(numbers, minlength=count)
    return np.cumsum(lengths) - lengths, lengths


def _tasks(lengths, heads, kv_heads, block):
    """Blocks of rows of every sequence and head, as TASK records."""
    run, start, length = cut(np.repeat(lengths, heads), block)
    tasks = np.zeros(run.size, TASK)
    tasks["sequence"], tasks["head"] = np.divmod(run, heads)
    tasks["stage"] = run // (heads // kv_heads)
    tasks["first"], tasks["count"] = start, length
    return tasks


def _late_first(tasks):
    """The blocks of every sequence and head from the last to the first: late queries have more keys."""
    return tasks[np.lexsort((-tasks["first"], tasks["head"], tasks["sequence"]))]
