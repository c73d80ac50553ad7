"""Reusable memory for repeated calls, such as training steps."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.forks import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from primeattn.typing import DTypeLike, Shape

__all__ = ["Workspace"]

_HELD = nullcontext()  # for a thread that holds the workspace already


class Workspace:
    """Arrays handed out until ``reset()``, then handed out again.

    Every array that a layer returns or saves with ``workspace=ws`` (y, activations, dx, gradients of
    parameters) lives in ``ws`` and stays valid and distinct from all others until ``ws.reset()``; call that
    once per training step. A pullback made before the reset raises RuntimeError after it. Repeated
    steps of the same shapes allocate nothing; arrays not used for a whole step are released.

    One workspace serves one thread: entering it from a second thread while it is in use raises RuntimeError.
    A copied or unpickled workspace is a new, empty one.

    See Also
    --------
    primeattn.Layer.pullback : Takes one.
    primeattn.losses.cross_entropy : Takes one, too.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ws = pa.Workspace()
    >>> a, b = ws.take((2, 3), np.float32), ws.take((2, 3), np.float32)
    >>> a is b
    False
    >>> ws.reset()
    >>> ws.take((2, 3), np.float32) is a
    True
    """

    def __init__(self) -> None:
        self._pools: dict[tuple, list] = {}  # (shape, dtype, empty) -> arrays, used ones first
        self._used: dict[tuple, int] = {}
        self._scratch: dict[str, np.ndarray] = {}
        self._lock, self._holder = PerProcess(threading.Lock), None
        self._generation = 0

    @property
    def generation(self) -> int:
        """Number of resets so far; what was taken in an earlier generation is no longer valid."""
        return self._generation

    @property
    def nbytes(self) -> int:
        """Bytes held by the workspace."""
        pooled = sum(a.nbytes for pool in self._pools.values() for a in pool)
        return pooled + sum(a.nbytes for a in self._scratch.values())

    def take(self, shape: Shape, dtype: DTypeLike, empty: Callable[..., Any] = np.empty) -> Any:
        """Return an uninitialised C-ordered array, distinct from every other until ``reset()``.

        ``empty(shape, dtype)`` makes it, for memory of another kind than NumPy's.
        """
        with self.guard():
            key = (tuple(shape), np.dtype(dtype), empty)
            pool, used = self._pools.setdefault(key, []), self._used.get(key, 0)
            if used == len(pool):
                pool.append(empty(*key[:2]))
            self._used[key] = used + 1
            return pool[used]

    def scratch(self, name: str, nbytes: int, empty: Callable[..., Any] = np.empty) -> Any:
        """Return at least ``nbytes`` bytes that are valid only while the caller holds ``guard()``.

        ``empty(nbytes, np.uint8)`` makes them, for memory of another kind than NumPy's.
        """
        with self.guard():
            buffer = self._scratch.get(name)
            if buffer is None or buffer.nbytes < nbytes:
                buffer = self._scratch[name] = empty(nbytes, np.uint8)
            return buffer

    def reset(self) -> None:
        """Take back every array handed out; release those not used since the last reset."""
        with self.guard():
            self._pools = {
                key: pool[: self._used[key]] for key, pool in self._pools.items() if self._used.get(key)
            }
            self._used = {}
            self._generation += 1

    def guard(self) -> AbstractContextManager[None]:
        """Context in which this thread holds the workspace; RuntimeError if another thread holds it."""
        lock, me = self._lock(), threading.get_ident()
        if lock.locked():
            if self._holder != me:
                raise RuntimeError("workspace: in use by another thread; give each thread its own Workspace")
            return _HELD
        self._holder = me
        return lock  # a signal handler cannot raise between its own enter and exit

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def __repr__(self) -> str:
        return f"Workspace({self.nbytes / 2**20:.1f} MiB, generation {self._generation})"
