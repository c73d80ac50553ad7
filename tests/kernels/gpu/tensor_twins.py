"""Twins of the wheel kernels' ``tensor`` for the emulator: products exact by the layout of fragments.

Shared memory is an array of bytes of the block. A copy to it arrives at once or when its thread waits, by
chance, so that a kernel which relies on either fails. Bytes that were never written are NaN.
"""

import math
import struct

import numpy as np
import ptx_warp

KINDS = {"float16": "f16", "bfloat16": "bf16"}
SHARED = 16  # address of the first byte
FOUR, TWO = slice(4), slice(4, 6)  # words of A, of B


def unpacked(storage, word):
    """The two numbers of one word."""
    if storage == "float16":
        return struct.unpack("<2e", struct.pack("<I", word))
    return struct.unpack("<2f", struct.pack("<2I", word << 16 & 0xFFFFFFFF, word & 0xFFFF0000))


def packed(storage, *pair):
    """One word of two numbers, rounded to nearest."""
    if storage == "float16":
        with np.errstate(over="ignore"):
            return int(np.array(pair, np.float32).astype(np.float16).view(np.uint32)[0])
    bits = struct.unpack("<2I", struct.pack("<2f", *pair))
    low, high = (
        0x7FFF if x != x else (i + 0x7FFF + (i >> 16 & 1)) >> 16 for x, i in zip(pair, bits, strict=True)
    )
    return low | high << 16


def product(storage):
    """C + A B of a warp, from the registers of its threads."""

    def mma(sent):
        a, b = (np.array([registers[part] for registers in sent], np.uint32) for part in (FOUR, TWO))
        c = np.array([registers[6:] for registers in sent])
        with np.errstate(invalid="ignore", over="ignore"):
            return ptx_warp.product(KINDS[storage], a, b, c).tolist()

    return mma


class Tensor:
    """Intrinsics; those of a warp meet at the machine."""

    def __init__(self, machine):
        self.machine, self.memory, self.areas, self.late = machine, machine.memory, {}, {}
        self.products = {storage: product(storage) for storage in ("float16", "bfloat16")}

    def start_block(self):
        assert not any(self.late.values()), "a block ended before its copies arrived"
        self.areas, self.late = {}, {}

    def shared_address(self, array):
        assert not self.areas or id(array) in self.areas, "one array a kernel"
        if id(array) not in self.areas:
            self.areas[id(array)] = self.bytes = np.full(4 * len(array) - SHARED, 0xFF, np.uint8)
        return SHARED

    def _shared(self, address, count):
        start = address - SHARED
        if not 0 <= start <= self.bytes.size - count:
            raise IndexError(f"access to {count} bytes outside of shared memory")
        if address % count:
            raise IndexError(f"access to {count} bytes of shared memory that is not aligned")
        return self.bytes[start : start + count]

    def _copy(self, shared, address, count):
        source = self.memory.words(address, "bytes", count).copy()
        target = self._shared(shared, count)
        if self.machine.random.random() < 0.5:
            target[:] = source
        else:
            self.late.setdefault(self.machine.thread.index, []).append((target, source))

    def copy_async(self, shared, address):
        self._copy(shared, address, 16)

    def copy_pair_async(self, shared, address):
        self._copy(shared, address, 8)

    def wait_copies(self):
        for target, source in self.late.pop(self.machine.thread.index, ()):
            target[:] = source

    def _load(self, sent, transposed=False):
        rows = np.stack([self._shared(address, 16) for address in sent])
        return ptx_warp.matrices(rows.view(np.uint32), transposed).tolist()

    def _load_transposed(self, sent):
        return self._load(sent, transposed=True)

    def load_matrices(self, shared):
        return self.machine.thread.meet("warp", shared, self._load)

    def load_matrices_transposed(self, shared):
        return self.machine.thread.meet("warp", shared, self._load_transposed)

    def load_shared_numbers(self, shared):
        return tuple(self._shared(shared, 16).view(np.float32).tolist())

    def load_shared_words(self, shared):
        return tuple(self._shared(shared, 16).view(np.uint32).tolist())

    def store_shared_numbers(self, shared, *numbers):
        self._shared(shared, 16).view(np.float32)[:] = numbers

    def store_shared_words(self, shared, *words):
        self._shared(shared, 16).view(np.uint32)[:] = words

    def make_mma(self, storage):
        together = self.products[storage]
        return lambda *registers: self.machine.thread.meet("warp", registers, together)

    def make_pack(self, storage):
        return lambda low, high: packed(storage, low, high)

    def make_unpack(self, storage):
        return lambda word: unpacked(storage, word)

    def maximum(self, x, y):
        return y if math.isnan(x) or x < y else x

    def funnel(self, low, high, shift):
        return (int(high) << 32 | int(low)) >> (shift & 31) & 0xFFFFFFFF

    def load_word(self, address):
        return int.from_bytes(self.memory.span(address, 4).tobytes(), "little")

    reload_word = load_word

    def store_word(self, address, value):
        self.memory.words(address, "word", 1)[0] = value
