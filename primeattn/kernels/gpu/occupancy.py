"""How many blocks and warps of a kernel a multiprocessor holds at once.

Rules and numbers are those of the CUDA C++ Programming Guide ("Compute Capabilities") and of NVIDIA's
occupancy calculator. A block whose warps wait at a barrier leaves the multiprocessor idle unless there is
another one. So blocks are as small as they can be without less warps in all; but each block copies all tiles
that it meets, so that halving its rows doubles what is copied.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LIMITS", "Limits", "Resident", "launch_bounds", "resident"]

REGISTERS = 65536  # of a multiprocessor
REGISTER_UNIT = 256  # a warp gets a multiple of this
WARP_UNIT = 4  # as many schedulers share the registers
SHARED_UNIT = 128  # bytes
SYSTEM_SHARED = 1024  # bytes that each block has besides its own


class Limits(NamedTuple):
    """Most of each that a multiprocessor holds."""

    warps: int
    blocks: int
    shared: int  # bytes


LIMITS = {  # by compute capability
    (8, 0): Limits(64, 32, 164 * 1024),
    (8, 6): Limits(48, 16, 100 * 1024),
    (8, 9): Limits(48, 24, 100 * 1024),
    (9, 0): Limits(64, 32, 228 * 1024),
}


class Resident(NamedTuple):
    """What a multiprocessor holds at once."""

    blocks: int
    warps: int


def resident(registers, warps, shared, capability=(9, 0)) -> Resident:
    """Blocks of ``warps`` with so many registers a thread and bytes of shared memory a block.

    Examples
    --------
    >>> [resident(168, warps, 36880) for warps in (8, 6, 4)]  # 12 warps have the registers, if blocks fit
    [Resident(blocks=1, warps=8), Resident(blocks=2, warps=12), Resident(blocks=3, warps=12)]
    """
    limits = LIMITS[capability]
    of_warp = _multiple(32 * registers, REGISTER_UNIT)
    by_registers = REGISTERS // of_warp // WARP_UNIT * WARP_UNIT // warps
    by_shared = limits.shared // _multiple(shared + SYSTEM_SHARED, SHARED_UNIT)
    blocks = min(by_registers, by_shared, limits.warps // warps, limits.blocks)
    return Resident(blocks, blocks * warps)


def launch_bounds(warps, most) -> tuple[int, int]:
    """Threads and blocks to compile for, so that ``most`` warps in blocks of ``warps`` have the registers.

    A kernel whose blocks do not fill them has no more registers than one whose blocks do.

    Examples
    --------
    >>> [launch_bounds(warps, 12) for warps in (8, 6, 4)]
    [(384, 1), (192, 2), (128, 3)]
    """
    blocks = most // warps
    return 32 * most // blocks, blocks


def _multiple(count, unit) -> int:
    return -(-count // unit) * unit
