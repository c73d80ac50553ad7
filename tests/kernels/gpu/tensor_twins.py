"""Twins of the wheel kernels' ``tensor`` for the emulator: products exact by the layout of fragments.

Shared memory is an array of bytes of the block. A copy to it arrives at once or when its thread waits, by
chance, so that a kernel which relies on either fails. Bytes that were never written are NaN.
"""

import math
import struct

import numpy as np

LANE = np.arange(32)
G, C = LANE // 4, LANE % 4
SHARED = 16  # address of the first byte


def numbers(storage, words):
    """float32 (..., 2) of words."""
    halves = np.ascontiguousarray(words, np.uint32)[..., None].view(np.uint16)
    if storage == "float16":
        return halves.view(np.float16).astype(np.float32)
    return (halves.astype(np.uint32) << 16).view(np.float32)


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
        a = numbers(storage, [registers[:4] for registers in sent])
        b = numbers(storage, [registers[4:6] for registers in sent])
        c = np.array([registers[6:] for registers in sent])
        left, right = np.empty((16, 16), np.float32), np.empty((16, 8), np.float32)
        for i in range(4):
            for e in range(2):
                left[G + 8 * (i % 2), 2 * C + e + 8 * (i // 2)] = a[:, i, e]
        for i in range(2):
            for e in range(2):
                right[2 * C + e + 8 * i, G] = b[:, i, e]
        with np.errstate(invalid="ignore", over="ignore"):
            full = left.astype(np.float64) @ right.astype(np.float64)
            for i in range(4):
                c[:, i] += full[G + 8 * (i // 2), 2 * C + i % 2]
            return c.astype(np.float32).tolist()

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

    def _matrices(self, sent):
        rows = np.stack([self._shared(address, 16) for address in sent])
        return rows.reshape(4, 8, 16)

    def _load(self, sent):
        return self._matrices(sent).view(np.uint32)[:, G, C].T.tolist()

    def _load_transposed(self, sent):
        halves = self._matrices(sent).view(np.uint16).astype(np.uint32)
        return (halves[:, 2 * C, G] | halves[:, 2 * C + 1, G] << 16).T.tolist()

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
