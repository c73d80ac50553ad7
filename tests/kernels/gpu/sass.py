"""Counts the machine instructions of a kernel's main loop, in a cubin for compute capability 9.0.

nvdisasm would tell more, but the counts need three opcodes only. An instruction has 16 bytes; its opcode is
the lowest 12 bits, and a branch has its distance in units of 4 bytes in bits 16 to 23 and, above them, from
34 on.
"""

import struct
from collections import Counter

BRANCH, MMA, LOAD_MATRICES, SPILL_LOAD, SPILL_STORE = 0x947, 0x23C, 0x83B, 0x983, 0x387
NAMES = {MMA: "mma", LOAD_MATRICES: "ldmatrix", SPILL_LOAD: "local load", SPILL_STORE: "local store"}


def code(cubin):
    """Bytes of the section .text of the only kernel of an ELF file."""
    table, (size, count, names) = (
        struct.unpack_from("<Q", cubin, 0x28)[0],
        struct.unpack_from("<3H", cubin, 0x3A),
    )
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]
    texts = sections[names][4]
    for name, _, _, _, offset, length in sections:
        if cubin[texts + name :].startswith(b".text."):
            return cubin[offset : offset + length]
    raise ValueError("no code")


def main_loop(cubin) -> Counter:
    """Instructions by name, ``all`` of them together, of the innermost loop that has products."""
    text = code(cubin)
    words = [int.from_bytes(text[i : i + 16], "little") for i in range(0, len(text), 16)]
    opcodes = [word & 0xFFF for word in words]
    loops = []
    for i, word in enumerate(words):
        distance = (word >> 34 & (1 << 48) - 1) << 8 | word >> 16 & 0xFF
        target = i + 1 + (distance - (distance >> 55 << 56)) * 4 // 16
        if opcodes[i] == BRANCH and target < i and MMA in opcodes[target:i]:
            loops.append(opcodes[target : i + 1])
    loop = min(loops, key=len)
    return Counter(NAMES[opcode] for opcode in loop if opcode in NAMES) + Counter(all=len(loop))
