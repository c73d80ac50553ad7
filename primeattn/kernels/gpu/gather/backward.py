"""The backward gather kernels: dq, a group of lanes per query; dk and dv, a group per key. No atomics.

P = exp(s - lse);  dP = dout·v;  dS = P * (dP - delta), delta = rowsum(dout * out) - dlse
dq = scale * dS k;  dk = scale * dSᵀ q;  dv = Pᵀ dout
"""

from __future__ import annotations

from functools import lru_cache

from numba import cuda

from primeattn.kernels.gpu.device import compiled, device_function
from primeattn.kernels.gpu.gather.place import KEYS, QUERIES, make_find_place, route_of
from primeattn.kernels.gpu.gather.rows import make_load_rows, make_rows
from primeattn.kernels.gpu.gather.walk import KEYS_UNROLL, UNROLL, make_walk
from primeattn.kernels.gpu.ptx import entry, row_address
from primeattn.kernels.gpu.tables import FIELDS, address, rows_from

__all__ = ["make_backward_keys", "make_backward_queries"]


def _make_query_fold(lanes_rows, masked):
    """Device function that adds to dq what UNROLL keys give."""
    dims, number, dot, exp = lanes_rows.dims, lanes_rows.number, lanes_rows.dot, lanes_rows.exp
    load_rows, size = make_load_rows(lanes_rows, UNROLL, masked), UNROLL * dims

    @device_function
    def fold(context, rows, lane):
        query, dout, dq, lse, delta, k, k_stride, v, v_stride = context
        keys = cuda.local.array(size, number)
        values = cuda.local.array(size, number)
        load_rows(keys, k, k_stride, rows, lane)
        load_rows(values, v, v_stride, rows, lane)
        for u in range(UNROLL):
            p = exp(dot(query, keys, u * dims) - lse)
            ds = p * (dot(dout, values, u * dims) - delta)
            for d in range(dims):
                dq[d] += number(0) if masked and rows[u] < 0 else ds * keys[u * dims + d]

    return fold


def _make_key_fold(lanes_rows, masked):
    """Device function that adds to dk and dv what KEYS_UNROLL queries give."""
    dims, number, dot, exp = lanes_rows.dims, lanes_rows.number, lanes_rows.dot, lanes_rows.exp
    load_number, number_bytes = lanes_rows.load_number, number.bitwidth // 8
    load_rows, size = make_load_rows(lanes_rows, KEYS_UNROLL, masked), KEYS_UNROLL * dims

    @device_function
    def fold(context, rows, lane):
        key, value, dk, dv, q, q_stride, dout, dout_stride, lse_delta, lse_delta_stride = context
        queries = cuda.local.array(size, number)
        douts = cuda.local.array(size, number)
        load_rows(queries, q, q_stride, rows, lane)
        load_rows(douts, dout, dout_stride, rows, lane)
        for u in range(KEYS_UNROLL):
            at = row_address(lse_delta, max(rows[u], 0) if masked else rows[u], lse_delta_stride)
            p = exp(dot(key, queries, u * dims) - load_number(at))
            ds = p * (dot(value, douts, u * dims) - load_number(at + number_bytes))
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
def make_backward_queries(storage, head_dim, aligned, threads, chunk):
    """Kernel of dq; it also writes lse and delta of each query for the kernel of dk and dv.

    ``kernel[(tiles, heads), threads](dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, scale)``;
    ``lse_delta`` has two numbers per query, lse in units of ``rows.unit`` and delta; ``dlse`` may be 0 for
    none.
    """
    lanes_rows = make_rows(storage, head_dim, aligned)
    lanes, dims, number = lanes_rows.lanes, lanes_rows.dims, lanes_rows.number
    load, store, dot = lanes_rows.load, lanes_rows.store, lanes_rows.dot
    load_number, store_number = lanes_rows.load_number, lanes_rows.store_number
    fold, fold_masked = _make_query_fold(lanes_rows, False), _make_query_fold(lanes_rows, True)
    find_place = make_find_place(lanes, FIELDS.query_tiles, QUERIES, KEYS)
    walk, walk_global_tokens = make_walk(threads, chunk, UNROLL, fold, fold_masked, 1)
    join = _make_join(lanes_rows, threads)
    unit, number_bytes = lanes_rows.unit, number.bitwidth // 8

    def backward_queries(dq, lse_delta, dout, q, k, v, out, lse, dlse, plan, lists, scale):
        place, head = find_place(plan, 0), cuda.blockIdx.y
        batch, row, lane = place.batch, place.row, place.lane
        route = route_of(plan, head)

        query = cuda.local.array(dims, number)
        dout_row = cuda.local.array(dims, number)
        acc = cuda.local.array(dims, number)
        load(acc, 0, address(plan, out, FIELDS.out, batch, head, row, lane), lane)
        load(dout_row, 0, address(plan, dout, FIELDS.dout, batch, head, row, lane), lane)
        load(query, 0, address(plan, q, FIELDS.q, batch, head, row, lane), lane)
        lse_row = number(unit) * load_number(address(plan, lse, FIELDS.lse, batch, head, row, 0))
        delta = dot(dout_row, acc, 0)
        if dlse != 0:
            delta -= load_number(address(plan, dlse, FIELDS.dlse, batch, head, row, 0))
        for d in range(dims):
            query[d] *= scale
            acc[d] = number(0)

        if place.end > place.begin:
            k, k_stride = rows_from(plan, k, FIELDS.k, batch, route.key_head, place.other_row, lane)
            v, v_stride = rows_from(plan, v, FIELDS.v, batch, route.key_head, place.other_row, lane)
            context = (query, dout_row, acc, lse_row, delta, k, k_stride, v, v_stride)
            walk_global_tokens(context, place, route.global_tokens)
            walk(context, lists, place, route, max(place.begin, route.global_tokens), False)

        if place.splits > 1:
            join(acc, place)
        if place.writes:
            factor = scale * number(1 / unit)
            store(address(plan, dq, FIELDS.dq, batch, head, row, lane), acc, factor, lane)
            if lane == 0:
                at = address(plan, lse_delta, FIELDS.lse_delta, batch, head, row, 0)
                store_number(at, lse_row)
                store_number(at + number_bytes, delta)

    return compiled(threads, 1)(backward_queries)


@lru_cache
def make_backward_keys(storage, head_dim, aligned, threads, chunk):
    """Kernel of dk and dv, which sums over the query heads that share a key head.

    ``kernel[(tiles, key heads), threads](dk, dv, lse_delta, dout, q, k, v, plan, lists, scale)``. A tile with
    a key that is a global token for one of the heads has no other key.
    """
    lanes_rows = make_rows(storage, head_dim, aligned)
    lanes, dims, number = lanes_rows.lanes, lanes_rows.dims, lanes_rows.number
    load, store = lanes_rows.load, lanes_rows.store
    fold, fold_masked = _make_key_fold(lanes_rows, False), _make_key_fold(lanes_rows, True)
    find_place = make_find_place(lanes, FIELDS.key_tiles, KEYS, QUERIES)
    walk, _ = make_walk(threads, chunk, KEYS_UNROLL, fold, fold_masked, -1)
    join = _make_join(lanes_rows, threads)
    unit = lanes_rows.unit

    def backward_keys(dk, dv, lse_delta, dout, q, k, v, plan, lists, scale):
        place, key_head = find_place(plan, 0), cuda.blockIdx.y
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
                    key, value, dk_row, dv_row,
                    q_head, q_stride, dout_head, dout_stride, lse_delta_head, lse_delta_stride,
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

    return compiled(threads, 1)(backward_keys)
