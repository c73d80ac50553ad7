"""The forward gather kernel: out and lse, a group of lanes per query."""

from __future__ import annotations

import math
from functools import lru_cache

from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.gather.place import KEYS, QUERIES, make_find_place, route_of
from primeattn.kernels.gpu.gather.rows import make_load_rows, make_rows
from primeattn.kernels.gpu.gather.terms import Given, make_scores, no_side
from primeattn.kernels.gpu.gather.walk import UNROLL, make_walk
from primeattn.kernels.gpu.tables import FIELDS, address, rows_from

__all__ = ["make_forward"]


def _make_fold(lanes_rows, masked, scores):
    """Device function that takes UNROLL keys into the running softmax of a query."""
    dims, number, dot, exp = lanes_rows.dims, lanes_rows.number, lanes_rows.dot, lanes_rows.exp
    load_rows, size = make_load_rows(lanes_rows, UNROLL, masked), UNROLL * dims
    with_scores = scores is not None
    if with_scores:
        score, weight_of = scores.score, scores.weight

    @device_function
    def fold(context, rows, biases, lane):
        query, acc, state, k, k_stride, v, v_stride, side = context
        keys = cuda.local.array(size, number)
        values = cuda.local.array(size, number)
        logits = cuda.local.array(UNROLL, number)
        load_rows(keys, k, k_stride, rows, lane)
        load_rows(values, v, v_stride, rows, lane)
        top = state[0]
        for u in range(UNROLL):
            logits[u] = dot(query, keys, u * dims)
            if with_scores:
                logits[u], _ = score(side, logits[u], biases[u], rows[u])
            if masked and rows[u] < 0:
                logits[u] = number(-math.inf)
            top = max(top, logits[u])
        base = top if top > number(-math.inf) else number(0)  # no key so far
        ratio = exp(state[0] - base)
        total = ratio * state[1]
        for d in range(dims):
            acc[d] *= ratio
        for u in range(UNROLL):
            weight = exp(logits[u] - base)
            total += weight
            if with_scores:
                weight *= weight_of(side, rows[u])
            for d in range(dims):
                # A value that is not attended may be NaN, which a weight of 0 would not silence.
                value = number(0) if masked and rows[u] < 0 else values[u * dims + d]
                acc[d] += weight * value
        state[0], state[1] = top, total

    return fold


@lru_cache
def make_forward(storage, head_dim, aligned, threads, chunk, terms=None):
    """Kernel for rows of one kind; see :mod:`primeattn.kernels.gpu.gather.walk` for its shape.

    ``kernel[(tiles, heads), threads](out, lse, q, k, v, plan, lists, later, scale)`` takes addresses of the
    arrays and of the tables, how much later than in the plan the queries are, and the scale in units of
    ``rows.unit``; ``lse`` may be 0 for none. With terms, what is Given of these follows.
    """
    lanes_rows = make_rows(storage, head_dim, aligned)
    lanes, dims, number, exp = lanes_rows.lanes, lanes_rows.dims, lanes_rows.number, lanes_rows.exp
    load, store, store_number = lanes_rows.load, lanes_rows.store, lanes_rows.store_number
    scores = None if terms is None else make_scores(lanes_rows, terms, 1)
    fold, fold_masked = (_make_fold(lanes_rows, masked, scores) for masked in (False, True))
    find_place = make_find_place(lanes, FIELDS.query_tiles, QUERIES, KEYS)
    walk, walk_global_tokens = make_walk(threads, chunk, UNROLL, fold, fold_masked, 1, scores)
    open_side = no_side if terms is None else scores.open
    natural = 1 / lanes_rows.unit
    shared_size = (dims + 2) * threads

    @device_function
    def block(out, lse, q, k, v, plan, lists, later, scale, given):
        place, head = find_place(plan, later, cuda.blockIdx.x), cuda.blockIdx.y
        batch, row, lane = place.batch, place.row, place.lane
        route = route_of(plan, head)

        query = cuda.local.array(dims, number)
        acc = cuda.local.array(dims, number)
        state = cuda.local.array(2, number)  # largest score and sum of weights so far
        load(query, 0, address(plan, q, FIELDS.q, batch, head, row, lane), lane)
        for d in range(dims):
            query[d] *= scale
            acc[d] = number(0)
        state[0], state[1] = number(-math.inf), number(0)

        if place.end > place.begin:
            # All keys before ``global_tokens`` are attended; offsets lead to the others.
            k, k_stride = rows_from(plan, k, FIELDS.k, batch, route.key_head, place.other_row, lane)
            v, v_stride = rows_from(plan, v, FIELDS.v, batch, route.key_head, place.other_row, lane)
            side = open_side(given, head, place)
            context = (query, acc, state, k, k_stride, v, v_stride, side)
            walk_global_tokens(context, place, route.global_tokens)
            walk(context, lists, place, route, max(place.begin, route.global_tokens), False)

        if place.splits > 1:
            thread = place.thread
            shared = cuda.shared.array(shared_size, number)
            for d in range(dims):
                shared[d * threads + thread] = acc[d]
            shared[dims * threads + thread] = state[0]
            shared[(dims + 1) * threads + thread] = state[1]
            cuda.syncthreads()
            for s in range(1, place.splits if place.split == 0 else 1):
                other = thread + s * lanes
                top = max(state[0], shared[dims * threads + other])
                base = top if top > number(-math.inf) else number(0)
                mine, theirs = exp(state[0] - base), exp(shared[dims * threads + other] - base)
                for d in range(dims):
                    acc[d] = mine * acc[d] + theirs * shared[d * threads + other]
                state[1] = mine * state[1] + theirs * shared[(dims + 1) * threads + other]
                state[0] = top

        if place.writes:
            empty = state[1] == number(0)
            factor = number(1) if empty else number(1) / state[1]
            store(address(plan, out, FIELDS.out, batch, head, row, lane), acc, factor, lane)
            if lse != 0 and lane == 0:
                value = number(-math.inf) if empty else state[0] * number(natural) + math.log(state[1])
                store_number(address(plan, lse, FIELDS.lse, batch, head, row, 0), value)

    if terms is None:

        def forward(out, lse, q, k, v, plan, lists, later, scale):
            block(out, lse, q, k, v, plan, lists, later, scale, None)

    else:

        def forward(
            out, lse, q, k, v, offset_bias, global_bias, slopes, seed, plan, lists, later, scale, limit, kept,
            cap, inverse, offset_width, global_width,
        ):  # fmt: skip
            given = Given(
                offset_bias, global_bias, slopes, seed, limit, kept, cap, inverse, offset_width, global_width
            )  # fmt: skip
            block(out, lse, q, k, v, plan, lists, later, scale, given)

    return compiled(threads, 1)(forward)
