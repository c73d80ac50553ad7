"""What compiled kernels read of terms of the score and of dropout; where gradients of biases are summed."""

from __future__ import annotations

import numpy as np

from primeattn.compiled.addresses import view
from primeattn.compiled.jit import cached_njit
from primeattn.kernels.call import reach
from primeattn.kernels.cpu.drop_keys import drop_keys, drop_limit
from primeattn.kernels.cpu.records import record
from primeattn.kernels.cpu.terms import Terms, room_bytes

__all__ = ["BIAS", "DROP", "SUM", "collect", "make_terms"]

# Of a query head: addresses, 0 for what is not given.
BIAS = record(
    "offset",  # of the bias of the first offset of its route
    "key",  # of the bias of position 0
    "slope",
)

# Of a sequence and query head: which biases its pairs can have, and the sums of their gradients.
SUM = record(
    "begin",  # number of its first offset in its route,
    "first",  # and among all of the pattern
    "offsets",  # so many from there on
    "key",  # position of its first global key
    "globals",  # so many from there on
    "at",  # address of the sums: by offset, then by global key
    "turn",  # address of the number of blocks that have added theirs
)

# Of a sequence and query head: the hash that decides which pairs are dropped.
DROP = record(
    "key",
    "other",
    "limit",  # it drops those below
)
GRADIENTS = ("doffset_bias", "dglobal_bias")


def make_terms(call, plan, scratch_bytes):
    """Terms of a call for one of its plans, and the bytes of a worker's room, which follows its scratch.

    Also the memory of the sums, to be kept as long as the Terms; it comes from the call's workspace.
    """
    dtype, skips = call.computed, _skips(call, plan.tables)
    sums, memory = np.zeros((0, 0), SUM), None
    if any(name in call.arrays for name in GRADIENTS):
        sums, memory = _sums(plan.tables, skips, call.workspace)
    longest = int((sums["offsets"] + sums["globals"]).max(initial=0))
    tiles = call.backward * ((call.softcap is not None) + (call.dropout > 0))
    before_tiles, before_sums, total = room_bytes(plan.block, dtype.itemsize, tiles, longest)
    places = scratch_bytes + np.array([0, before_tiles, before_sums])
    cap, kept = np.array([[call.softcap or 0], [1 / (1 - call.dropout)]], dtype)
    drops = _drops(call, plan.tables.sequences)
    return Terms(_biases(call, skips), sums, cap, drops, kept, places), total, memory


def _drops(call, sequences):
    """DROP records, none without dropout."""
    if call.dropout == 0:
        return np.zeros((0, 0), DROP)
    keys = drop_keys(call.dropout_seed, sequences["number"], len(call.patterns))
    drops = np.zeros(keys.shape[:2], DROP)
    drops["key"], drops["other"] = keys[..., 0], keys[..., 1]
    drops["limit"] = drop_limit(call.dropout)
    return drops


def _biases(call, skips):
    """BIAS records, none if the call has a cap alone."""
    given = {"offset": "offset_bias", "key": "global_bias", "slope": "slopes"}
    given = {field: call.arrays[name] for field, name in given.items() if name in call.arrays}
    biases = np.zeros(len(skips) if given else 0, BIAS)
    for field, array in given.items():
        biases[field] = array.ctypes.data + array.strides[0] * np.arange(biases.size)
    if "offset" in given:
        biases["offset"] += skips * given["offset"].itemsize
    return biases


def _skips(call, tables):
    """By head, how many offsets come before those of its route."""
    if "offset_bias" not in call.arrays:
        return np.zeros(len(call.patterns), np.int64)
    low, _ = reach(tables.sequences)
    return np.array([pattern.offsets(low).size for pattern in call.patterns])


def _sums(tables, skips, workspace):
    """SUM records, and the memory of the sums, which are 0."""
    sequences, routes = tables.sequences, tables.routes
    sums = np.zeros(routes.shape, SUM)
    after = sequences["q_start"] - sequences["k_start"]
    for h, route in enumerate(routes[0]):
        offsets = tables.offsets[route["begin"] : route["end"]]
        begin, end = (
            np.searchsorted(offsets, limit)
            for limit in (after - sequences["n_k"] + 1, after + sequences["n_q"])
        )
        sums["begin"][:, h], sums["offsets"][:, h] = begin, end - begin
    sums["first"] = sums["begin"] + skips
    panels = tables.key_panels[routes["globals"]]
    sums["key"], sums["globals"] = panels["first"], panels["count"]
    numbers = sums["offsets"] + sums["globals"] + 1
    ends = np.cumsum(numbers.reshape(-1)).reshape(numbers.shape)
    count = 8 * int(ends[-1, -1])
    memory = np.empty(count, np.uint8) if workspace is None else workspace.scratch("sums", count)
    memory[:count] = 0
    sums["at"] = memory.ctypes.data + 8 * (ends - numbers)
    sums["turn"] = memory.ctypes.data + 8 * (ends - 1)
    return sums, memory


def collect(call, terms):
    """Add the sums of a plan to the gradients of the call's biases."""
    if terms.sums.size == 0:
        return
    sums, heads = terms.sums, len(call.patterns)
    lengths = (
        (sums["first"] + sums["offsets"]).max(),
        np.where(sums["globals"], sums["key"] + sums["globals"], 0).max(),
    )
    totals = [
        np.zeros((heads, call.arrays[name].shape[1] if name in call.arrays else length))
        for name, length in zip(GRADIENTS, lengths, strict=True)
    ]
    _collect(sums, *totals)
    for name, total in zip(GRADIENTS, totals, strict=True):
        if name in call.arrays:
            call.arrays[name][...] += total.astype(call.arrays[name].dtype)


@cached_njit
def _collect(sums, doffset_bias, dglobal_bias):
    for s in range(sums.shape[0]):
        for h in range(sums.shape[1]):
            place = sums[s, h]
            numbers = view(place.at, place.offsets + place.globals, 1.0)
            for i in range(place.offsets):
                doffset_bias[h, place.first + i] += numbers[i]
            for i in range(place.globals):
                dglobal_bias[h, place.key + i] += numbers[place.offsets + i]
