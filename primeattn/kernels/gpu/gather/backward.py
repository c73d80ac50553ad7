"""The backward gather kernels: dq, a group of lanes per query; dk and dv, a group per key. No atomics.

P = exp(s - lse);  dP = M * dout·v;  dS = P * (dP - delta), delta = rowsum(dout * out) - dlse
dT = dS * cap'(scale * q·k);  dq = scale * dT k;  dk = scale * dTᵀ q;  dv = (M * P)ᵀ dout

M are the weights of dropout; without it they are 1, and without a cap dT = dS.
"""

from __future__ import annotations

import math
from functools import lru_cache

from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.gather.place import KEYS, QUERIES, make_find_place, route_of
from primeattn.kernels.gpu.gather.rows import make_load_rows, make_rows
from primeattn.kernels.gpu.gather.sums import make_adder
from primeattn.kernels.gpu.gather.terms import Given, make_scores, no_side
from primeattn.kernels.gpu.gather.walk import KEYS_UNROLL, UNROLL, make_walk
from primeattn.kernels.gpu.ptx import entry, row_address
from primeattn.kernels.gpu.tables import FIELDS, address, rows_from

__all__ = ["make_backward_keys", "make_backward_queries"]


def _make_query_fold(lanes_rows, unroll, masked, scores):
    """Device function that adds to dq what some keys give; it leaves dS in ``biases``."""
    dims, number, dot, exp = lanes_rows.dims, lanes_rows.number, lanes_rows.dot, lanes_rows.exp
    load_rows, size = make_load_rows(lanes_rows, unroll, masked), unroll * dims
    with_scores = scores is not None
    if with_scores:
        score, weight = scores.score, scores.weight

    @device_function
    def fold(context, rows, biases, lane):
        query, dout, dq, lse, delta, k, k_stride, v, v_stride, _, side = context
        keys = cuda.local.array(size, number)
        values = cuda.local.array(size, number)
        load_rows(keys, k, k_stride, rows, lane)
        load_rows(values, v, v_stride, rows, lane)
        for u in range(unroll):
            logit, rate = dot(query, keys, u * dims), number(1)
            if with_scores:
                logit, rate = score(side, logit, biases[u], rows[u])
            p = exp(logit - lse)
            dp = dot(dout, values, u * dims)
            if with_scores:
                dp *= weight(side, rows[u])
            ds = p * (dp - delta)
            if with_scores:
                biases[u] = number(0) if masked and rows[u] < 0 else ds
                ds *= rate
            for d in range(dims):
                dq[d] += number(0) if masked and rows[u] < 0 else ds * keys[u * dims + d]

    return fold


def _make_key_fold(lanes_rows, masked, scores):
    """Device function that adds to dk and dv what KEYS_UNROLL queries give."""
    dims, number, dot, exp = lanes_rows.dims, lanes_rows.number, lanes_rows.dot, lanes_rows.exp
    load_number, number_bytes = lanes_rows.load_number, number.bitwidth // 8
    load_rows, size = make_load_rows(lanes_rows, KEYS_UNROLL, masked), KEYS_UNROLL * dims
    with_scores = scores is not None
    if with_scores:
        score, weight = scores.score, scores.weight

    @device_function
    def fold(context, rows, biases, lane):
        key, value, dk, dv, q, q_stride, dout, dout_stride, lse_delta, lse_delta_stride, side = context
        queries = cuda.local.array(size, number)
        douts = cuda.local.array(size, number)
        load_rows(queries, q, q_stride, rows, lane)
        load_rows(douts, dout, dout_stride, rows, lane)
        for u in range(KEYS_UNROLL):
            at = row_address(lse_delta, max(rows[u], 0) if masked else rows[u], lse_delta_stride)
            logit, rate = dot(key, queries, u * dims), number(1)
            if with_scores:
                logit, rate = score(side, logit, biases[u], rows[u])
            p = exp(logit - load_number(at))
            dp = dot(value, douts, u * dims)
            m = number(1)
            if with_scores:
                m = weight(side, rows[u])
                dp *= m
            ds = p * (dp - load_number(at + number_bytes))
            if with_scores:
                ds *= rate
                p *= m
            for d in range(dims):
                dk[d] += number(0) if masked and rows[u] < 0 else ds * queries[u * dims + d]
                dv[d] += number(0) if masked and rows[u] < 0 else p * douts[u * dims + d]

    return fold


def _make_join(lanes_rows, threads):
    """Device function that sums a row over the groups that share it, in the first of them."""
    lanes, dims, number = lanes_rows.lanes, lanes_rows.dims, lanes_rows.number
    size = dims * threads

    @device_function
    def join(row, place):
        thread = place.thread
        shared = cuda.shared.array(size, number)
        for d in range(dims):
            shared[d * threads + thread] = row[d]
        cuda.syncthreads()
        for s in range(1, place.splits if place.split == 0 else 1):
            for d in range(dims):
                row[d] += shared[d * threads + thread + s * lanes]

    return join


@lru_cache
def make_backward_queries(storage, head_dim, aligned, threads, chunk, terms=None, summed=False):
    """Kernel of dq; it also writes lse and delta of each query for the kernel of dk and dv.

    ``kernel[(tiles, heads), threads](dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, scale)``;
    ``lse_delta`` has two numbers per query, lse in units of ``rows.unit`` and delta; ``dlse`` may be 0 for
    none. With terms, those Given are taken too. If gradients of biases are ``summed``, a block has every
    ``slots``-th tile, and sums of its own.
    """
    lanes_rows = make_rows(storage, head_dim, aligned)
    lanes, dims, number = lanes_rows.lanes, lanes_rows.dims, lanes_rows.number
    load, store, dot = lanes_rows.load, lanes_rows.store, lanes_rows.dot
    load_number, store_number = lanes_rows.load_number, lanes_rows.store_number
    scores = None if terms is None else make_scores(lanes_rows, terms, 1)
    adder, unroll = None, UNROLL
    if summed:  # which takes registers, and shared memory
        chunk, unroll = chunk // 2, UNROLL // 2
        adder = make_adder(lanes_rows, threads, chunk, unroll)
    fold, fold_masked = (_make_query_fold(lanes_rows, unroll, masked, scores) for masked in (False, True))
    find_place = make_find_place(lanes, FIELDS.query_tiles, QUERIES, KEYS)
    walk, walk_global_tokens = make_walk(threads, chunk, unroll, fold, fold_masked, 1, scores, adder)
    join = _make_join(lanes_rows, threads)
    unit, number_bytes = lanes_rows.unit, number.bitwidth // 8
    open_sums = adder.open if summed else None
    with_terms, open_side = terms is not None, no_side if terms is None else scores.open

    @device_function
    def block(
        tile, dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, scale, given, sums
    ):  # fmt: skip
        place, head = find_place(plan, 0, tile), cuda.blockIdx.y
        batch, row, lane = place.batch, place.row, place.lane
        route = route_of(plan, head)

        query = cuda.local.array(dims, number)
        dout_row = cuda.local.array(dims, number)
        acc = cuda.local.array(dims, number)
        load(acc, 0, address(plan, out, FIELDS.out, batch, head, row, lane), lane)
        load(dout_row, 0, address(plan, dout, FIELDS.dout, batch, head, row, lane), lane)
        load(query, 0, address(plan, q, FIELDS.q, batch, head, row, lane), lane)
        lse_row = number(unit) * load_number(address(plan, lse, FIELDS.lse, batch, head, row, 0))
        if with_terms and lse_row == number(-math.inf):
            lse_row = number(0)  # biases have closed all pairs, whose weight is 0 then
        delta = dot(dout_row, acc, 0)
        if dlse != 0:
            delta -= load_number(address(plan, dlse, FIELDS.dlse, batch, head, row, 0))
        for d in range(dims):
            query[d] *= scale
            acc[d] = number(0)

        if place.end > place.begin:
            k, k_stride = rows_from(plan, k, FIELDS.k, batch, route.key_head, place.other_row, lane)
            v, v_stride = rows_from(plan, v, FIELDS.v, batch, route.key_head, place.other_row, lane)
            side = open_side(given, head, place)
            context = (query, dout_row, acc, lse_row, delta, k, k_stride, v, v_stride, sums, side)
            walk_global_tokens(context, place, route.global_tokens)
            walk(context, lists, place, route, max(place.begin, route.global_tokens), False)

        if place.splits > 1:
            if summed:
                cuda.syncthreads()  # all have read what was there
            join(acc, place)
        if place.writes:
            factor = scale * number(1 / unit)
            store(address(plan, dq, FIELDS.dq, batch, head, row, lane), acc, factor, lane)
            if lane == 0:
                at = address(plan, lse_delta, FIELDS.lse_delta, batch, head, row, 0)
                store_number(at, lse_row)
                store_number(at + number_bytes, delta)

    if terms is None:

        def backward_queries(dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, scale):
            arrays = dq, lse_delta, dout, q, k, v, out, lse, dlse
            block(cuda.blockIdx.x, *arrays, plan, lists, scale, None, None)

    elif not summed:

        def backward_queries(
            dq, lse_delta, dout, q, k, v, out, lse, dlse, offset_bias, global_bias, slopes, seed, plan, lists,
            scale, limit, kept, cap, inverse, offset_width, global_width,
        ):  # fmt: skip
            given = Given(
                offset_bias, global_bias, slopes, seed, limit, kept, cap, inverse, offset_width, global_width
            )  # fmt: skip
            arrays = dq, lse_delta, dout, q, k, v, out, lse, dlse
            block(cuda.blockIdx.x, *arrays, plan, lists, scale, given, None)

    else:

        def backward_queries(
            dq, lse_delta, dout, q, k, v, out, lse, dlse, offset_bias, global_bias, slopes, seed, offset_sums,
            global_sums, plan, lists, scale, limit, kept, cap, inverse, offset_width, global_width, tiles,
            slots,
        ):  # fmt: skip
            given = Given(
                offset_bias, global_bias, slopes, seed, limit, kept, cap, inverse, offset_width, global_width
            )  # fmt: skip
            sums = open_sums(offset_sums, global_sums, offset_width, global_width, slots)
            arrays = dq, lse_delta, dout, q, k, v, out, lse, dlse
            for tile in range(cuda.blockIdx.x, tiles, slots):
                block(tile, *arrays, plan, lists, scale, given, sums)
                cuda.syncthreads()  # all have read what was there

    return compiled(threads, 1)(backward_queries)


@lru_cache
def make_backward_keys(storage, head_dim, aligned, threads, chunk, terms=None):
    """Kernel of dk and dv, which sums over the query heads that share a key head.

    ``kernel[(tiles, key heads), threads](dk, dv, lse_delta, dout, q, k, v, plan, lists, scale)``. A tile with
    a key that is a global token for one of the heads has no other key. With terms, those Given are taken too.
    """
    lanes_rows = make_rows(storage, head_dim, aligned)
    lanes, dims, number = lanes_rows.lanes, lanes_rows.dims, lanes_rows.number
    load, store = lanes_rows.load, lanes_rows.store
    scores = None if terms is None else make_scores(lanes_rows, terms, -1)
    fold, fold_masked = (_make_key_fold(lanes_rows, masked, scores) for masked in (False, True))
    find_place = make_find_place(lanes, FIELDS.key_tiles, KEYS, QUERIES)
    walk, _ = make_walk(threads, chunk, KEYS_UNROLL, fold, fold_masked, -1, scores)
    join = _make_join(lanes_rows, threads)
    unit, open_side = lanes_rows.unit, no_side if terms is None else scores.open

    @device_function
    def block(dk, dv, lse_delta, dout, q, k, v, plan, lists, scale, given):
        place, key_head = find_place(plan, 0, cuda.blockIdx.x), cuda.blockIdx.y
        batch, row, q_row, lane = place.batch, place.row, place.other_row, place.lane

        key = cuda.local.array(dims, number)
        value = cuda.local.array(dims, number)
        dk_row = cuda.local.array(dims, number)
        dv_row = cuda.local.array(dims, number)
        load(key, 0, address(plan, k, FIELDS.k, batch, key_head, row, lane), lane)
        load(value, 0, address(plan, v, FIELDS.v, batch, key_head, row, lane), lane)
        for d in range(dims):
            key[d] *= scale
            dk_row[d], dv_row[d] = number(0), number(0)

        if place.end > place.begin:
            group = entry(plan, FIELDS.group)
            for head in range(key_head * group, (key_head + 1) * group):
                route = route_of(plan, head)
                q_head, q_stride = rows_from(plan, q, FIELDS.q, batch, head, q_row, lane)
                dout_head, dout_stride = rows_from(plan, dout, FIELDS.dout, batch, head, q_row, lane)
                lse_delta_head, lse_delta_stride = rows_from(
                    plan, lse_delta, FIELDS.lse_delta, batch, head, q_row, 0
                )
                context = (
                    key, value, dk_row, dv_row, q_head, q_stride, dout_head, dout_stride, lse_delta_head,
                    lse_delta_stride, open_side(given, head, place),
                )  # fmt: skip
                is_global = place.first < route.global_tokens
                walk(context, lists, place, route, place.begin, is_global)

        if place.splits > 1:
            join(dk_row, place)
            cuda.syncthreads()  # all have read what was there
            join(dv_row, place)
        if place.writes:
            factor = scale * number(1 / unit)
            store(address(plan, dk, FIELDS.dk, batch, key_head, row, lane), dk_row, factor, lane)
            store(address(plan, dv, FIELDS.dv, batch, key_head, row, lane), dv_row, number(1), lane)

    if terms is None:

        def backward_keys(dk, dv, lse_delta, dout, q, k, v, plan, lists, scale):
            block(dk, dv, lse_delta, dout, q, k, v, plan, lists, scale, None)

    else:

        def backward_keys(
            dk, dv, lse_delta, dout, q, k, v, offset_bias, global_bias, slopes, seed, plan, lists, scale,
            limit, kept, cap, inverse, offset_width, global_width,
        ):  # fmt: skip
            given = Given(
                offset_bias, global_bias, slopes, seed, limit, kept, cap, inverse, offset_width, global_width
            )  # fmt: skip
            block(dk, dv, lse_delta, dout, q, k, v, plan, lists, scale, given)

    return compiled(threads, 1)(backward_keys)
