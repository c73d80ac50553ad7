"""Memory of the interpreted GPU: every access is checked for bounds, alignment and races.

Lanes are the threads of the blocks that run. Nothing orders them within a launch but the barriers of their
block, so two of them may touch the same memory only if both read, or, in shared memory, if a barrier lies
between.
"""

from bisect import bisect_right

import numpy as np

__all__ = ["Fault", "Global", "Shared"]

NOBODY, MANY, PENDING = -1, -2, -3
GRANULE = 2  # bytes that global memory is watched by
WORD = 4  # bytes that shared memory is watched by


class Fault(Exception):
    """What the hardware would not have answered for."""


class Global:
    """Buffers of NumPy memory by address, and who has written to them in this launch."""

    def __init__(self, buffers):
        self.starts, self.buffers, self.written, self.views = buffers.starts, buffers.buffers, {}, {}

    def load(self, addresses, size, count, lanes, constant):
        """uint8 (lanes, count * size) at addresses; ``constant`` says that no one writes them."""
        parts = self._parts(addresses, size * count)
        found = np.empty((addresses.size, size * count), np.uint8)
        for number, chosen in parts:
            start = addresses[chosen] - self.starts[number]
            found[chosen] = self._bytes(number, size * count)[start]
            shadow = self.written.get(self.starts[number])
            if shadow is not None:
                writers = shadow[self._granules(start, size * count)]
                written = writers != NOBODY
                if constant and written.any():
                    raise Fault("a load of what does not change reads what this launch has written")
                if (written & (writers != lanes[chosen, None])).any():
                    raise Fault("a load reads what another thread of this launch has written")
        return found

    def store(self, addresses, values, size, lanes):
        """Write uint8 (lanes, n); ``size`` is that of one access."""
        for number, chosen in self._parts(addresses, size):
            start = addresses[chosen] - self.starts[number]
            shadow = self.written.setdefault(
                self.starts[number], np.full(self.buffers[number].size // GRANULE + 1, NOBODY, np.int64)
            )
            at, own = self._granules(start, size), lanes[chosen, None]
            before = shadow[at]
            shadow[at] = own
            if ((before != NOBODY) & (before != own)).any() or (shadow[at] != own).any():
                raise Fault("two threads of a launch write the same memory")
            self._bytes(number, size)[start] = values[chosen]

    def _bytes(self, number, size):
        """Spans of ``size`` bytes of a buffer, by their first byte."""
        view = self.views.get((number, size))
        if view is None:
            buffer = self.buffers[number]
            view = np.lib.stride_tricks.sliding_window_view(buffer, size, writeable=buffer.flags.writeable)
            self.views[number, size] = view
        return view

    @staticmethod
    def _granules(start, size):
        return start[:, None] // GRANULE + np.arange(max(size // GRANULE, 1))

    def _parts(self, addresses, nbytes):
        """Number of each buffer that is met, and which addresses lie in it."""
        if (addresses % nbytes).any():
            raise Fault(f"access to {nbytes} bytes of global memory that is not aligned")
        low, high = int(addresses.min()), int(addresses.max())
        number = bisect_right(self.starts, low) - 1
        if number >= 0 and high + nbytes <= self.starts[number] + self.buffers[number].size:
            return [(number, slice(None))]
        numbers = np.searchsorted(self.starts, addresses, side="right") - 1
        parts = [(number, np.flatnonzero(numbers == number)) for number in np.unique(numbers).tolist()]
        for number, chosen in parts:
            outside = number < 0
            outside = outside or (
                addresses[chosen].max() + nbytes > self.starts[number] + self.buffers[number].size
            )
            if outside:
                raise Fault(f"access to {nbytes} bytes outside of any buffer")
        return parts


class Shared:
    """Shared memory of each block, and which threads have read and written it since its last barrier.

    ``cp.async`` brings its bytes when its thread waits for them; until then no one may read them.
    """

    def __init__(self, begin, end, blocks, threads):
        self.begin, self.size, self.threads = begin, -(-(end - begin) // WORD), threads
        self.words = np.empty((blocks, self.size), np.uint32)
        self.readers, self.writers = np.empty((2, blocks, self.size), np.int32)
        self.copies = []  # (lanes, place of their words, words)

    def clear(self):
        self.words[:] = 0xFFFFFFFF  # no number
        self.readers[:] = self.writers[:] = NOBODY

    def _place(self, addresses, nbytes, lanes):
        """Block and word of each address, (lanes, words)."""
        if (addresses % nbytes).any() or nbytes % WORD:
            raise Fault(f"access to {nbytes} bytes of shared memory that is not aligned")
        first = (addresses.astype(np.int64) - self.begin) // WORD
        if first.min() < 0 or first.max() + nbytes // WORD > self.size:
            raise Fault(f"access to {nbytes} bytes outside of shared memory")
        return (lanes // self.threads)[:, None], first[:, None] + np.arange(nbytes // WORD)

    def load(self, addresses, nbytes, lanes):
        """uint32 (lanes, words)."""
        place = self._place(addresses, nbytes, lanes)
        threads = (lanes % self.threads)[:, None]
        writers = self.writers[place]
        if (writers != NOBODY).any():
            if (writers == PENDING).any():
                raise Fault("shared memory is read before a copy to it has been waited for")
            if ((writers != NOBODY) & (writers != threads)).any():
                raise Fault("shared memory is read that another thread wrote since the last barrier")
        readers = self.readers[place]
        self.readers[place] = np.where((readers == NOBODY) | (readers == threads), threads, MANY)
        several = self.readers[place] != threads  # in one instruction
        self.readers[place] = np.where(several, MANY, threads)
        return self.words[place]

    def store(self, addresses, words, lanes):
        """Write uint32 (lanes, words)."""
        place = self._claim(addresses, 4 * words.shape[1], lanes)
        self.words[place] = words

    def copy(self, addresses, words, lanes):
        """Begin to copy uint32 (lanes, words)."""
        place = self._claim(addresses, 4 * words.shape[1], lanes)
        self.writers[place] = PENDING
        self.words[place] = 0xFFFFFFFF
        self.copies.append((lanes, place, words))

    def wait(self, lanes):
        """Let the copies of lanes arrive."""
        waiting, self.copies = self.copies, []
        for owners, (block, word), words in waiting:
            now = np.isin(owners, lanes)
            place = block[now], word[now]
            self.words[place] = words[now]
            self.writers[place] = (owners[now] % self.threads)[:, None]
            if not now.all():
                self.copies.append((owners[~now], (block[~now], word[~now]), words[~now]))

    def _claim(self, addresses, nbytes, lanes):
        place = self._place(addresses, nbytes, lanes)
        threads = (lanes % self.threads)[:, None]
        readers, writers = self.readers[place], self.writers[place]
        if (writers == PENDING).any():
            raise Fault("shared memory is written while a copy to it is under way")
        if ((readers != NOBODY) & (readers != threads)).any():
            raise Fault("shared memory is written that another thread read since the last barrier")
        self.writers[place] = threads
        if ((writers != NOBODY) & (writers != threads)).any() or (self.writers[place] != threads).any():
            raise Fault("two threads write the same shared memory without a barrier between")
        return place

    def barrier(self, lanes):
        """All threads of the blocks of lanes have met."""
        blocks = np.unique(lanes // self.threads)
        self.readers[blocks] = NOBODY
        kept = self.writers[blocks]
        self.writers[blocks] = np.where(kept == PENDING, PENDING, NOBODY)

    def end(self, lanes):
        """Lanes have left the kernel."""
        if any(np.isin(owners, lanes).any() for owners, _, _ in self.copies):
            raise Fault("a block ended before its copies arrived")
