"""Plans of launches of the wheel kernels: which calls they serve, and the tables that they read."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from primeattn.kernels.call import SEQUENCE
from primeattn.kernels.gpu import device
from primeattn.kernels.gpu.memory import upload
from primeattn.kernels.gpu.tables import KEPT_PLANS, lay_out
from primeattn.kernels.gpu.wheel.place import WHEEL_ROUTE
from primeattn.wheel import tables
from primeattn.wheel.cost import HEAD_DIMS, STORAGE, choose_wheel, divide

__all__ = ["WheelPlan", "choose", "make_wheel_plan"]


class WheelPlan(NamedTuple):
    """Tables on the device and launch shapes; ``key_tiles`` is 0 for a forward.

    ``groups`` are of the 16 rows that a warp holds, in a block.
    """

    tables: object
    strings: object
    wheel: int
    groups: int
    columns: int
    query_tiles: int
    key_tiles: int


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
    # One length stands for all: the mean, weighted by length, as most work is in the long ones.
    typical = round(float(lengths @ lengths) / float(lengths.sum()))
    return choose_wheel(call.patterns, typical, layout.head_dim, forced=call.target.kernel == "wheel")


def _refusal(layout, call) -> str | None:
    """What the wheel kernels serve, and what came in place of it; None where they serve the call."""
    if layout.storage not in STORAGE:
        return f"{' and '.join(STORAGE)}, got {layout.storage}"
    if layout.head_dim not in HEAD_DIMS:
        return f"head_dim {' and '.join(map(str, HEAD_DIMS))}, got {layout.head_dim}"
    if not layout.aligned:
        return "rows that begin at multiples of 16 bytes, got others"
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
    shape = patterns, kv_heads, sequences.tobytes(), tuple(strides.items())
    return _build(*shape, layout, wheel, with_keys, where)


@lru_cache(KEPT_PLANS)
def _build(patterns, kv_heads, sequences, strides, layout, wheel, with_keys, where) -> WheelPlan:
    sequences, strides = np.frombuffer(sequences, SEQUENCE), dict(strides)
    tiling = tables.tiling(layout.head_dim, backward=with_keys)
    reach = int(_reaches(sequences).max())
    words = tables.string_words(reach, wheel, tiling)
    group, distinct = len(patterns) // kv_heads, list(dict.fromkeys(patterns))

    # Of each distinct pattern: offsets that are met one by one, strings, steps of queries and of keys.
    offsets, strings, packed, classes = [], [], [], []
    size = {"offsets": 0, "strings": 0, "steps": 0, "classes": 0}
    heads_of = {}
    for pattern in distinct:
        division = divide(pattern, reach, wheel, layout.head_dim)
        has = tables.attended(division.regrouped, reach, wheel)
        entry = [size["offsets"], division.met.size, pattern.global_tokens, 0, 0, 0]
        for side, of_keys in enumerate((False, True)[: 1 + with_keys]):
            steps = tables.steps(has, words, tiling, of_keys)
            entry[WHEEL_ROUTE.steps + side] = size["classes"]
            classes.append(np.stack([steps.begins + size["steps"], steps.counts], axis=1))
            packed.append(steps.packed + size["strings"] * tables.WORD)
            size["classes"] += classes[-1].size
            size["steps"] += steps.packed.size
        offsets.append(division.met)
        strings.append(tables.strings(has, words).reshape(-1))
        size["offsets"] += division.met.size
        size["strings"] += strings[-1].size
        heads_of[pattern] = entry
    heads = np.array([heads_of[pattern] for pattern in patterns])
    heads[:, WHEEL_ROUTE.key_head] = np.arange(len(patterns)) // group

    leading = max(pattern.global_tokens for pattern in patterns)
    query_tiles, key_tiles = [], []
    for number, s in enumerate(sequences):
        if s["n_q"] == 0:
            continue
        before = s["q_start"] - s["k_start"]
        query_tiles.append(_numbered(number, tables.tiles(before, before + s["n_q"], wheel, tiling.rows)))
        if with_keys:
            begin = min(max(leading - s["k_start"], 0), s["n_k"])
            key_tiles.append(_numbered(number, tables.tiles(begin, s["n_k"], wheel, tiling.rows)))
    query_tiles = _by_work(query_tiles, late_first=True)
    key_tiles = _by_work(key_tiles, late_first=False)

    array, at = lay_out(
        strides,
        group,
        {
            "sequences": sequences.view(np.int64),
            "routes": heads,
            "query_tiles": query_tiles,
            "key_tiles": key_tiles,
            "offsets": np.concatenate(offsets),
            "classes": np.concatenate(classes),
            "steps": np.concatenate(packed),
            "beyond": np.zeros(2, np.int64),  # kernels read steps ahead
        },
    )
    heads = array[at["routes"] :][: heads.size].reshape(heads.shape)
    heads[:, WHEEL_ROUTE.begin] += at["offsets"]
    heads[:, WHEEL_ROUTE.steps :] += at["classes"]
    array[at["classes"] :][: size["classes"] : 2] += at["steps"]
    return WheelPlan(
        upload(array),
        upload(np.concatenate(strings)),
        wheel,
        tiling.rows // 16,
        tiling.columns,
        len(query_tiles),
        len(key_tiles),
    )


def _numbered(sequence, tiles):
    """Entries of the table: sequence, class, first row."""
    return np.concatenate([np.full((len(tiles), 1), sequence), tiles], axis=1)


def _by_work(parts, late_first):
    """One table; blocks with most steps go first: queries late in their sequence, keys early."""
    tiles = np.concatenate([np.zeros((0, 3), np.int64), *parts])
    order = np.argsort(-tiles[:, 2] if late_first else tiles[:, 2], kind="stable")
    return np.ascontiguousarray(tiles[order])
