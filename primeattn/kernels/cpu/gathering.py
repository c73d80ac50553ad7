"""Few queries against many keys: the rows that a tile reads are copied, or read where they are.

That is less work than packing every key. ``job.gather`` says which of the two: COPIED or IN_PLACE.
"""

from __future__ import annotations

from primeattn.compiled.addresses import prefetch
from primeattn.compiled.jit import part_njit
from primeattn.compiled.simd import CHUNK, GROUP, LINE
from primeattn.kernels.cpu.tiles import AHEAD, ZERO, Packed, copy_row, row_address, zero_rows

COPIED, IN_PLACE = 1, 2


def lie_well(k, v, lines) -> bool:
    """Whether a query can read the rows of k and v in place: they are chunks of one width, evenly spaced."""
    unit = min(lines, CHUNK) * LINE
    whole = k.shape[3] * k.itemsize == lines * LINE and (lines % CHUNK == 0 or lines in (1, 2))
    return whole and k.strides[2] == v.strides[2] and k.strides[2] % unit == 0


@part_njit
def _source(job, tables, sequence, route, moves):
    """The caller's row of packed row 0 of a panel: of the keys that offsets reach, or of the globals."""
    panel = tables.key_panels[route.keys if moves else route.globals]
    return sequence.k_row + panel.first - sequence.k_start - panel.row


@part_njit
def copy_tile(one, job, tables, sequence, route, slots, groups, moving, head, n, keys, values):
    """Copy the rows that a tile needs, and point its slots to the copies, n rows for each slot."""
    k = row_address(job.k, sequence.batch, head // job.heads_per_key, ZERO)
    v = row_address(job.v, sequence.batch, head // job.heads_per_key, ZERO)
    for u in range(groups * GROUP):
        moves = u < moving * GROUP
        first = _source(job, tables, sequence, route, moves)
        far = u + AHEAD  # rows of one slot lie side by side, those of the next may not be in any cache
        later = slots.rows[far] - slots.rows[u] if far < (moving if moves else groups) * GROUP else ZERO
        for r in range(n if moves else 1):
            row = u * n + r
            if slots.low[u] <= r < slots.high[u] or (not moves and slots.low[u] < slots.high[u]):
                source = first + slots.rows[u] + r
                copy_row(one, job, k + source * job.k.row, later * job.k.row, keys, row, one)
                copy_row(one, job, v + source * job.v.row, later * job.v.row, values, row, one)
            else:
                zero_rows(one, job, keys, row, ZERO + 1)
                zero_rows(one, job, values, row, ZERO + 1)
        slots.rows[u] = u * n


@part_njit
def rows_in_place(job, array, sequence, head):
    """The rows of a key head as packed ones: a row is several chunks, which are numbered one by one."""
    return Packed(row_address(array, sequence.batch, head // job.heads_per_key, ZERO), ZERO + 1)


@part_njit
def find_tile(job, tables, sequence, route, slots, groups, moving, keys, values):
    """Point the slots of one query to the caller's rows, and ask memory for all of these."""
    step, row_bytes = job.k.row // (min(job.lines, CHUNK) * LINE), job.lines * LINE
    for u in range(groups * GROUP):
        if slots.low[u] < slots.high[u]:
            row = slots.rows[u] + _source(job, tables, sequence, route, u < moving * GROUP)
            for base in (keys.address, values.address):
                source = base + row * job.k.row
                for line in range(source // LINE * LINE, source + row_bytes, LINE):
                    prefetch(line)
            slots.rows[u] = row * step


@part_njit
def fill_unused(one, job, slots, groups, packed, zeros):
    """Let the unused slots of a tile read zeros; there is room for them at the address ``zeros``."""
    unit = min(job.lines, CHUNK) * LINE
    row = (zeros - packed.address + unit - 1) // unit
    zero_rows(one, job, packed, row, ZERO + 1)
    for u in range(groups * GROUP):
        if slots.low[u] >= slots.high[u]:
            slots.rows[u] = row
