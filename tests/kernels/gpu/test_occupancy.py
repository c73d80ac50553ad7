"""The occupancy calculator, against values worked out by hand from NVIDIA's."""

import pytest

from primeattn.kernels.gpu.occupancy import REGISTERS, launch_bounds, resident


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "capability", "blocks"),
    [
        (168, 8, 36880, (9, 0), 1),  # 168 registers: 12 warps
        (168, 6, 36880, (9, 0), 2),
        (168, 4, 34832, (8, 0), 3),
        (168, 4, 34832, (8, 6), 2),  # for 100 KiB of shared memory
        (128, 8, 36880, (8, 9), 2),
        (129, 8, 0, (9, 0), 1),  # a warp takes 4352 registers then, and 15 are 12, a multiple of 4
        (128, 5, 0, (9, 0), 3),
        (32, 8, 0, (9, 0), 8),  # 64 warps are the most
        (32, 8, 0, (8, 6), 6),  # 48 here
        (16, 1, 0, (9, 0), 32),
        (16, 1, 0, (8, 6), 16),
        (16, 1, 0, (8, 9), 24),
        (255, 8, 48 * 1024, (9, 0), 1),
        (255, 9, 0, (9, 0), 0),
        (32, 4, 48 * 1024, (8, 0), 3),  # 49 KiB each
        (32, 4, 48 * 1024, (9, 0), 4),
    ],
)
def test_blocks_of_a_multiprocessor(registers, warps, shared, capability, blocks):
    assert resident(registers, warps, shared, capability) == (blocks, blocks * warps)


@pytest.mark.parametrize("most", [12, 16])
@pytest.mark.parametrize("warps", [1, 2, 4, 6, 8, 12])
def test_kernels_are_compiled_for_as_many_warps_as_have_the_registers(warps, most):
    threads, blocks = launch_bounds(warps, most)
    assert threads >= 32 * warps and blocks == most // warps
    registers = REGISTERS // (threads * blocks) // 8 * 8
    assert registers == {12: 168, 16: 128}[most]
    assert resident(registers, warps, 0).blocks == blocks
