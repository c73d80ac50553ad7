"""Plans of wheel launches: which calls the wheel kernels serve, and the tables that they read.

What depends on the patterns is kept apart and serves calls of about the same length; sequences and tiles are
a few numbers of each call.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.kernels.call import SEQUENCE
from primeattn.kernels.gpu import device
from primeattn.kernels.gpu.memory import Table, upload
from primeattn.kernels.gpu.tables import KEPT_PLANS, lay_out, roomy, rounded
from primeattn.kernels.gpu.wheel.place import WHEEL_ROUTE
from primeattn.wheel import tables
from primeattn.wheel.cost import HEAD_DIMS, STORAGE, choose_wheel, divide

__all__ = ["WheelPlan", "choose", "make_wheel_plan"]


class WheelPlan(NamedTuple):
    """Tables on the device and launch shapes; ``key_tiles`` is 0 for a forward.

    ``groups`` are of the 16 rows that a warp holds, in a block.
    """

    tables: Table
    lists: WheelLists
    wheel: int
    groups: int
    columns: int
    query_tiles: int
    key_tiles: int

    @property
    def addresses(self):
        return self.tables.address, self.lists.lists.address, self.lists.bitmasks.address


class WheelLists(NamedTuple):
    """What depends on the patterns alone: singles, classes and steps in one array, and bitmasks."""

    lists: Table
    bitmasks: Table
    routes: dict  # of each pattern, a WHEEL_ROUTE whose key head is still open


def choose(call, layout) -> int | None:
    """Return the wheel of a call, or None for the gather kernel; ValueError where "wheel" cannot serve it."""
    if call.target.kernel == "gather":
        return None
    refusal = _refusal(layout, call)
    if refusal is not None:
        if call.target.kernel == "wheel":
            raise ValueError(f"kernel: 'wheel' serves {refusal}")
        return None
    lengths = _reaches(call.sequences)
    if not lengths.size:
        return None
    if call.target.wheel is not None:
        return call.target.wheel
    # One length stands for all: the mean, weighted by length, as most work is in the long ones. Calls that
    # differ in their position alone need not be judged each.
    n_q = call.sequences["n_q"][call.sequences["n_q"] > 0]
    n, queries = (max(round(float(lengths @ part) / float(lengths.sum())), 1) for part in (lengths, n_q))
    n, queries = rounded(call.patterns, n), None if queries >= n else queries
    forced = call.target.kernel == "wheel"
    return choose_wheel(call.patterns, n, layout.head_dim, call.backward, queries, forced)


def _refusal(layout, call) -> str | None:
    """What the wheel kernels serve and what came instead; None where they serve the call."""
    if layout.storage not in STORAGE:
        return f"{' and '.join(STORAGE)}, got {layout.storage}"
    if layout.head_dim not in HEAD_DIMS:
        return f"head_dim {' and '.join(map(str, HEAD_DIMS))}, got {layout.head_dim}"
    if not layout.aligned:
        return "rows that begin at multiples of 16 bytes, got others"
    if call.terms:
        return f"scores of q·k alone and no dropout, got {call.terms[0]}"
    if not call.scale > 0:
        return f"a scale above 0, got {call.scale}"
    s = call.sequences
    late = (s["q_start"] < s["k_start"]) | (s["q_start"] + s["n_q"] > s["k_start"] + s["n_k"])
    if np.any(late & (s["n_q"] > 0)):
        return "queries whose own keys are among the keys, got others (q_start, k_start)"
    return None


def _reaches(sequences):
    """Positions of the sequences with queries, from the first key to the last query."""
    reach = sequences["q_start"] + sequences["n_q"] - sequences["k_start"]
    return reach[sequences["n_q"] > 0]


def make_wheel_plan(patterns, kv_heads, sequences, strides, layout, wheel, with_keys=False) -> WheelPlan:
    """Plan for one pattern per query head, a SEQUENCE table and each array's (batch, head, row) strides."""
    where = device.current_device()
    _, reach = roomy(patterns, 0, int(_reaches(sequences).max()))
    shape = patterns, kv_heads, sequences.tobytes(), tuple(strides.items())
    tiling = tables.tiling(layout.head_dim, backward=with_keys)
    return _build(*shape, layout, wheel, tiling, with_keys, reach, where)


@lru_cache(KEPT_PLANS)
def make_wheel_lists(patterns, reach, head_dim, wheel, tiling, with_keys, where) -> WheelLists:
    """Lists for distances below ``reach``."""
    words = tables.bitmask_words(reach, wheel, tiling)
    offsets, bitmasks, packed, classes = [], [], [], []
    size = {"offsets": 0, "bitmasks": 0, "steps": 0, "classes": 0}
    routes = {}
    for pattern in patterns:
        division = divide(pattern, reach, wheel, head_dim, backward=with_keys)
        has = tables.attended(division.regrouped, reach, wheel)
        route = [size["offsets"], division.singles.size, pattern.global_tokens, 0, 0, 0]
        for side, of_keys in enumerate((False, True)[: 1 + with_keys]):
            steps = tables.steps(has, words, tiling, of_keys)
            route[WHEEL_ROUTE.steps + side] = size["classes"]
            classes.append(np.stack([steps.begins + size["steps"], steps.counts], axis=1))
            packed.append(steps.packed + size["bitmasks"] * tables.WORD)
            size["classes"] += classes[-1].size
            size["steps"] += steps.packed.size
        offsets.append(division.singles)
        bitmasks.append(tables.bitmasks(has, words).reshape(-1))
        size["offsets"] += division.singles.size
        size["bitmasks"] += bitmasks[-1].size
        routes[pattern] = route

    # One array: singles, classes, steps, and two entries more, as kernels read steps ahead.
    classes = np.concatenate(classes)
    classes[:, 0] += size["offsets"] + classes.size
    for route in routes.values():
        for side in range(WHEEL_ROUTE.steps, len(WHEEL_ROUTE)):
            route[side] += size["offsets"]
    parts = *offsets, classes.reshape(-1), *packed, np.zeros(2, np.int64)
    return WheelLists(upload(np.concatenate(parts)), upload(np.concatenate(bitmasks)), routes)


@lru_cache(KEPT_PLANS)
def _build(
    patterns, kv_heads, sequences, strides, layout, wheel, tiling, with_keys, reach, where
) -> WheelPlan:
    sequences, strides = np.frombuffer(sequences, SEQUENCE), dict(strides)
    group = len(patterns) // kv_heads
    distinct, head_dim = tuple(dict.fromkeys(patterns)), layout.head_dim
    lists = make_wheel_lists(distinct, reach, head_dim, wheel, tiling, with_keys, where)
    routes = np.array([lists.routes[pattern] for pattern in patterns])
    routes[:, WHEEL_ROUTE.key_head] = np.arange(len(patterns)) // group

    global_tokens = max(pattern.global_tokens for pattern in patterns)
    query_tiles, key_tiles = [], []
    for number, s in enumerate(sequences):
        before = s["q_start"] - s["k_start"]
        if s["n_q"]:
            query_tiles.append(_numbered(number, tables.tiles(before, before + s["n_q"], wheel, tiling.rows)))
        if with_keys:
            begin = min(max(global_tokens - s["k_start"], 0), s["n_k"])
            key_tiles.append(_numbered(number, tables.tiles(begin, s["n_k"], wheel, tiling.rows)))
    query_tiles = _by_work(query_tiles, late_first=True)
    key_tiles = _by_work(key_tiles, late_first=False)

    array = lay_out(
        strides,
        group,
        {
            "sequences": sequences.view(np.int64),
            "routes": routes,
            "query_tiles": query_tiles,
            "key_tiles": key_tiles,
        },
    )
    return WheelPlan(
        tables=upload(array),
        lists=lists,
        wheel=wheel,
        groups=tiling.rows // 16,
        columns=tiling.columns,
        query_tiles=len(query_tiles),
        key_tiles=len(key_tiles),
    )


def _numbered(sequence, tiles):
    """Entries of the table: sequence, class, first row."""
    return np.concatenate([np.full((len(tiles), 1), sequence), tiles], axis=1)


def _by_work(parts, late_first):
    """One table; blocks with most steps go first: queries late in their sequence, keys early."""
    tiles = np.concatenate([np.zeros((0, 3), np.int64), *parts])
    order = np.argsort(-tiles[:, 2] if late_first else tiles[:, 2], kind="stable")
    return np.ascontiguousarray(tiles[order])
