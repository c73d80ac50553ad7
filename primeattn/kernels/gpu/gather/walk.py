"""The walk of the gather kernels from a row to the rows that it meets.

Groups of neighbouring rows walk along the offsets in step, so that what one of them has read is still in the
first-level cache when another needs it. Each block stages the list in shared memory, part by part.
"""

from __future__ import annotations

import numba
from numba import cuda

from primeattn.kernels.gpu.device import device_function
from primeattn.kernels.gpu.ptx import entry
from primeattn.kernels.gpu.tables import lower_bound

__all__ = ["KEYS_UNROLL", "UNROLL", "make_walk"]

UNROLL = 4  # keys whose rows a group has on their way from memory at once
KEYS_UNROLL = 2  # queries, where keys meet them: a group has more rows in registers then

FAR = 2**31 - 1  # in place of offsets beyond the end of the list: leads nowhere


def make_walk(threads, chunk, unroll, fold, fold_masked, sign, scores=None, adder=None):
    """Device functions ``walk`` and ``walk_global_tokens``: give ``fold`` a row's pairs, ``unroll`` at once.

    ``fold(context, rows, biases, lane)`` gets the numbers of the rows that are met. In ``fold_masked`` a
    negative number stands for none. ``sign`` is 1 where queries meet keys, at i - d, and -1 where keys meet
    queries: positions are negated then, and j + d becomes -j - d.

    With ``scores`` of terms, ``biases`` are those of the pairs, and the last of the context is a Side. With
    an ``adder``, ``fold`` leaves in them the gradients of the scores, and the last but one is its Sums.
    """
    with_scores, biased, summed = scores is not None, scores is not None and scores.biased, adder is not None
    number = scores.number if with_scores else numba.int32
    if with_scores:
        offset_bias, global_bias = scores.offset_bias, scores.global_bias
    if summed:
        clear, add, flush = adder.clear, adder.add, adder.flush

    @device_function
    def stage(staged, staged_biases, context, lists, begin, at, count, stop, is_global):
        cuda.syncthreads()  # all have read what was there
        if summed:
            clear(context[-2])
        for i in range(cuda.threadIdx.x, chunk, threads):
            if at + i >= count:
                staged[i] = numba.int32(FAR)
            elif is_global:
                staged[i] = numba.int32(at + i)
            else:
                staged[i] = numba.int32(entry(lists, begin + at + i))
            if biased:
                bias = number(0)
                side = context[-1]
                if staged[i] <= stop:  # beyond, there may be none
                    bias = global_bias(side, side.here) if is_global else offset_bias(side, at + i)
                staged_biases[i] = bias
        cuda.syncthreads()

    @device_function
    def walk(context, lists, place, route, low, is_global):
        """Meet the rows from position ``low`` on by the offsets of a route.

        A key that ``is_global`` is met by all offsets.
        """
        staged = cuda.shared.array(chunk, numba.int32)
        staged_biases = None
        if biased:
            staged_biases = cuda.shared.array(chunk, number)
        rows = cuda.local.array(unroll, numba.int32)
        biases = cuda.local.array(unroll, number)
        here, first, last, end = place.here, place.first, place.last, place.end
        if sign < 0:
            here, first, last, low, end = -here, -last, -first, 1 - end, 1 - low
        begin, count = route.begin, route.count
        row, stop = numba.int32(sign * here - place.begin), numba.int32(last - low)
        nearest, farthest = numba.int32(here - end), numba.int32(here - low)  # of the offsets of this row
        at = max(first - end + 1, 0)
        if is_global:
            count = last - low + 1
        elif at > 0:
            at = lower_bound(lists, begin, count, at)
        going = True
        while going and at < count:
            stage(staged, staged_biases, context, lists, begin, at, count, stop, is_global)
            for step in range(0, chunk, unroll * place.splits):
                round_ = numba.uint32(step)
                going = staged[round_] <= stop
                if not going:
                    break
                mine = numba.uint32(step + unroll * place.split)
                round_end = numba.uint32(step + unroll * place.splits - 1)
                if biased:
                    for u in range(unroll):
                        biases[u] = staged_biases[mine + numba.uint32(u)]
                if staged[round_] > last - end and staged[round_end] <= first - low:
                    for u in range(unroll):
                        rows[u] = numba.int32(row - sign * staged[mine + numba.uint32(u)])
                    fold(context, rows, biases, place.lane)
                else:
                    for u in range(unroll):
                        offset = staged[mine + numba.uint32(u)]
                        reached = offset > nearest and offset <= farthest
                        rows[u] = numba.int32(row - sign * offset) if reached else numba.int32(-1)
                    fold_masked(context, rows, biases, place.lane)
                if summed:
                    add(context[-2], biases, mine, place)
            if summed:
                sums = context[-2]
                flush(sums, sums.offsets, sums.offset_width, at)
            at += chunk

    @device_function
    def walk_global_tokens(context, place, global_tokens):
        """Meet the keys that are global tokens and not after the query."""
        rows = cuda.local.array(unroll, numba.int32)
        biases = cuda.local.array(unroll, number)
        end = min(global_tokens, min(place.end, place.last + 1))
        for step in range(place.begin, end, unroll * place.splits):
            mine = step + unroll * place.split
            if summed:
                slot = (step - place.begin) & (chunk - 1)
                if slot == 0:
                    cuda.syncthreads()  # all have read what was there
                    clear(context[-2])
                    cuda.syncthreads()
            for u in range(unroll):
                key = mine + u
                rows[u] = numba.int32(key - place.begin if key < end and key <= place.here else -1)
            if biased:
                for u in range(unroll):
                    biases[u] = global_bias(context[-1], mine + u) if rows[u] >= 0 else number(0)
            fold_masked(context, rows, biases, place.lane)
            if summed:
                sums, ahead = context[-2], unroll * place.splits
                add(sums, biases, slot + unroll * place.split, place)
                if slot + ahead == chunk or step + ahead >= end:
                    flush(sums, sums.globals, sums.global_width, step - slot)

    return walk, walk_global_tokens
