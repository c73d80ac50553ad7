"""Instructions that a warp executes together: shuffles, matrices from shared memory, products of matrices.

Fragments are as in the PTX ISA ("Matrix fragments for mma.m16n8k16"). Thread t has, with g = t // 4 and
c = t % 4, of A (16×16) rows g, g + 8, g, g + 8 at columns 2c, 2c + 1 and, in the last two, these + 8; of
B (16×8) rows 2c, 2c + 1 and these + 8 at column g; of C row g and row g + 8 at columns 2c, 2c + 1.
"""

import numpy as np
from ptx_memory import Fault

__all__ = ["butterfly", "matrices", "numbers", "product"]

WARP = 32
LANE = np.arange(WARP)
G, C = LANE[:, None, None] // 4, LANE[:, None, None] % 4
WORD, HALF = np.arange(4)[None, :, None], np.arange(2)[None, None, :]
A_AT = G + 8 * (WORD % 2), 2 * C + HALF + 8 * (WORD // 2)
B_AT = 2 * C + HALF + 8 * WORD[:, :2], G + 0 * HALF
C_AT = (G + 8 * (WORD // 2))[..., 0], (2 * C + WORD % 2)[..., 0]


def butterfly(values, other, clamp, mask):
    """Of each lane the value of that lane whose number differs in the bits of ``other``."""
    lanes = np.tile(LANE, values.size // WARP)
    if (mask != mask.reshape(-1, WARP)[:, :1].repeat(WARP, 1).reshape(-1)).any():
        raise Fault("lanes of a warp name different masks")
    if ((mask >> lanes.astype(np.uint32) & 1) == 0).any():
        raise Fault("a lane shuffles that the mask does not name")
    if (clamp != WARP - 1).any():
        raise Fault("a shuffle among parts of a warp")
    return values[np.arange(values.size) ^ other]


def matrices(rows, transposed):
    """uint32 (lanes, 4) of rows (lanes, 4 words): lane t gave row t % 8 of matrix t // 8."""
    halves = rows.view(np.uint16).reshape(-1, 4, 8, 8)  # warp, matrix, row, column
    if transposed:
        halves = halves.swapaxes(2, 3)
    words = np.ascontiguousarray(halves).view(np.uint32)  # warp, matrix, row, column // 2
    return words.transpose(0, 2, 3, 1).reshape(-1, 4)


def numbers(kind, words):
    """float32 (..., 2) of words."""
    halves = np.ascontiguousarray(words)[..., None].view(np.uint16)
    if kind == "f16":
        return halves.view(np.float16).astype(np.float32)
    return (halves.astype(np.uint32) << 16).view(np.float32)


def product(kind, a, b, c):
    """D = A B + C, float32 (lanes, 4), of words (lanes, 4), (lanes, 2) and float32 (lanes, 4)."""
    warps = len(a) // WARP
    left, right = np.empty((warps, 16, 16)), np.empty((warps, 16, 8))
    left[(slice(None), *A_AT)] = numbers(kind, a).reshape(warps, WARP, 4, 2)
    right[(slice(None), *B_AT)] = numbers(kind, b).reshape(warps, WARP, 2, 2)
    found = np.matmul(left, right)[(slice(None), *C_AT)].reshape(-1, 4)
    return (found + c).astype(np.float32)
