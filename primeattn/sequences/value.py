"""The value object behind ``primeattn.sequences``: sets of positive integers, their algebra, user sets."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.checks import as_int, is_array
from primeattn.forks import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import NoReturn

__all__ = ["EMPTY", "Sequence", "from_array", "from_callable"]

EMPTY = np.empty(0, np.int64)
EMPTY.setflags(write=False)
_FOREVER = 2**63 - 1
_MOST_TERMS = 2**27  # 1 GiB
_MOST_SHOWN = 1000


def as_parameter(name, value, minimum=1) -> int:
    """Return an integer parameter of a sequence, which must fit int64."""
    return as_int(name, value, minimum, _FOREVER)


def _as_offsets(name, values) -> np.ndarray:
    """Return a fresh read-only int64 copy of 1-D positive integers, sorted and without duplicates."""
    if hasattr(values, "dtype"):
        if isinstance(values, np.ndarray) and not is_array(values):
            raise TypeError(f"{name}: expected a NumPy array, got {type(values).__name__}")
        values = np.asarray(values)
        if values.size and values.dtype.kind not in "iu":
            raise TypeError(f"{name}: expected integers, got dtype {values.dtype}")
    else:
        try:
            values = np.array([as_int(name, value) for value in values], dtype=object)
        except TypeError as error:
            if np.iterable(values):
                raise
            raise TypeError(f"{name}: expected a 1-D array of integers, got {values!r}") from error
    if values.ndim != 1:
        raise ValueError(f"{name}: expected a 1-D array of integers, got shape {values.shape}")
    if values.size and values.min() < 1:
        raise ValueError(f"{name}: expected offsets >= 1, got {values.min()}")
    if values.size and int(values.max()) > _FOREVER:
        raise ValueError(f"{name}: expected offsets below 2**63, got {values.max()}")
    values = values.astype(np.int64)
    if (values[1:] <= values[:-1]).any():
        values = np.unique(values)
    values.setflags(write=False)
    return values


class EndError(ValueError):
    """The request goes beyond the known terms: growing ahead of need stops here, a real request fails."""


def check_reach(name, stop, most):
    """Raise if ``stop`` is above ``most``, up to which a sequence takes seconds to make."""
    if stop > most:
        raise EndError(f"limit: expected at most {most} for {name}, got {stop}")


class Sequence:
    """A set S of positive integers: ``seq(limit)`` = sorted { s in S : s <= limit }.

    Immutable, hashable, compared by structure; made by name (``primes``), by parameters (``powers(3)``), by
    the user (``from_array``, ``from_callable``) and by algebra: ``k * s`` = { k s }, and the union ``s | t``,
    which is flattened and order-free (``s | t == t | s``). Terms are cached and extended on demand, from any
    thread.

    Parameters
    ----------
    *args : object
        For the package's own use: sequences are made as above.

    See Also
    --------
    primeattn.Pattern : Takes one as its offsets.
    register : Adds one with a name.

    Examples
    --------
    >>> from primeattn.sequences import *
    >>> primes(12)
    array([ 2,  3,  5,  7, 11])
    >>> primes.count(10**6), primes.title, primes.oeis, primes.asymptotic
    (78498, 'Primes', 'A000040', 'x / ln x')
    >>> 2 * primes == primes * 2, primes | squares == squares | primes
    (True, True)
    >>> eval(repr(2 * (squares | primes)))
    2 * (primes | squares)
    >>> from_json((3 * primes).to_json())
    3 * primes
    """

    # Facts from the registry; None for sequences made by algebra or by the user.
    title: str | None = None
    oeis: str | None = None  # id in the On-Line Encyclopedia of Integer Sequences, https://oeis.org
    asymptotic: str | None = None  # the counting function as text
    why: str | None = None  # one line on why to try it

    __array_ufunc__ = None  # array * primes asks primes.__rmul__, which refuses it

    def __init__(self, *args: Any) -> None:
        # _known = (terms, bound): all terms <= bound. Replaced as a whole, so that readers need no lock.
        vars(self).update(_args=args, _known=(EMPTY, 0), _lock=PerProcess(threading.RLock))

    def __call__(self, limit: int) -> np.ndarray:
        """Return the terms 1 <= s <= ``limit``: sorted unique int64, a read-only view of the cache.

        Raises TypeError for a float or bool limit, ValueError beyond the end of a finite table.
        """
        limit = min(as_int("limit", limit), _FOREVER)
        if limit <= 0:
            return EMPTY
        terms, _ = self._reach(limit)
        return terms[: np.searchsorted(terms, limit, side="right")]

    def between(self, low: int, high: int) -> np.ndarray:
        """Return the terms ``low`` <= s <= ``high``: sorted unique int64, read-only.

        If the rule of the sequence needs few earlier terms, like that of the primes, it generates this range
        alone.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.sequences.primes.between(10**12, 10**12 + 70)
        array([1000000000039, 1000000000061, 1000000000063])
        """
        low, high = max(as_int("low", low), 1), min(as_int("high", high), _FOREVER)
        if low > high:
            return EMPTY
        if high <= self._known[1] or (terms := self._between(low - 1, high)) is None:
            terms = self(high)
            return terms[np.searchsorted(terms, low) :]
        return _as_offsets(self, terms)

    def _between(self, start, stop):
        """Return the terms in (start, stop] alone, or None if that needs all terms before them."""
        return None

    def count(self, n: int) -> int:
        """Return the exact number of terms <= ``n``.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.sequences.primes.count(10**6)
        78498
        """
        return len(self(n))

    def estimate(self, n: int) -> float | None:
        """Return the registered counting function at ``n``; None if there is none.

        Examples
        --------
        >>> import primeattn as pa
        >>> round(pa.sequences.squares.estimate(10**6))
        1000
        """
        return None

    def to_json(self) -> dict:
        """Return a structure of JSON types from which ``from_json`` makes an equal sequence.

        Examples
        --------
        >>> import primeattn as pa
        >>> (2 * pa.sequences.primes).to_json()
        {'scale': 2, 'of': {'name': 'primes'}}
        """
        raise NotImplementedError

    def _extend(self, known, start, stop):
        """Return the terms in (start, stop], given the sorted ``known`` ones <= start."""
        raise NotImplementedError

    def _check_last(self, terms):
        """Raise if the rule leaves out a term that is the limit itself; ``terms`` are the first it gave."""

    def _reach(self, limit):
        """Return (terms, bound) with bound >= limit >= 1: every term <= bound."""
        if self._known[1] < limit:
            with self._lock():
                if self._known[1] < limit:
                    vars(self)["_known"] = self._grow(*self._known, limit)
        return self._known

    def _grow(self, known, start, limit):
        stop = min(max(limit, 2 * start), _FOREVER)
        if (self.estimate(stop) or 0) > _MOST_TERMS:
            stop = limit
            if (terms := self.estimate(limit) or 0) > _MOST_TERMS:
                raise ValueError(f"limit: expected at most {_MOST_TERMS} terms, got {limit}: {terms:.2g}")
        try:
            new = self._extend(known, start, stop)
        except EndError:  # a finite part inside: go no further than asked
            if stop == limit:
                raise
            stop = limit
            new = self._extend(known, start, stop)
        new = _as_offsets(self, new)
        if new.size and not (start < new[0] and new[-1] <= stop):
            raise ValueError(f"{self!r}: expected terms in ({start}, {stop}], got {new[0]} to {new[-1]}")
        if new.size and not known.size:
            self._check_last(new)
        terms = np.concatenate([known, new])
        terms.setflags(write=False)
        return terms, stop

    def _key(self):
        return self._args

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return self is other or (type(self) is type(other) and self._key() == other._key())

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{name}: a Sequence is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._args

    def __bool__(self) -> NoReturn:
        raise TypeError("a Sequence has no truth value; the union is written a | b")

    def __or__(self, other: Sequence) -> Sequence:
        if not isinstance(other, Sequence):
            return NotImplemented
        parts = dict.fromkeys(p for s in (self, other) for p in (s._args if isinstance(s, _Union) else [s]))
        return _Union(*sorted(parts, key=repr)) if len(parts) > 1 else self

    def __mul__(self, factor: int) -> Sequence:
        factor = as_int("factor", factor, minimum=1)
        inner, base = self._args if isinstance(self, _Scaled) else (1, self)
        return self if factor == 1 else _Scaled(factor * inner, base)

    __rmul__ = __mul__


class _Scaled(Sequence):
    """{ factor * s : s in base }."""

    def _extend(self, known, start, stop):
        factor, base = self._args
        if factor > stop:
            return EMPTY
        return factor * base(stop // factor)[base.count(start // factor) :]

    def _between(self, start, stop):
        factor, base = self._args
        if factor > stop:
            return EMPTY
        return factor * base.between(start // factor + 1, stop // factor)

    def __repr__(self):
        factor, base = self._args
        return f"{factor} * ({base})" if isinstance(base, _Union) else f"{factor} * {base}"

    def to_json(self):
        factor, base = self._args
        return {"scale": factor, "of": base.to_json()}


class _Union(Sequence):
    """The terms of at least one of the parts."""

    def _extend(self, known, start, stop):
        return np.concatenate([part(stop)[part.count(start) :] for part in self._args])

    def _between(self, start, stop):
        return np.concatenate([part.between(start + 1, stop) for part in self._args])

    def _key(self):
        return frozenset(self._args)

    def __repr__(self):
        return " | ".join(map(repr, self._args))

    def to_json(self):
        return {"union": [part.to_json() for part in self._args]}


class _Table(Sequence):
    """The int64 numbers in the bytes ``data``, complete up to ``known_to`` (None: complete)."""

    def __init__(self, data, known_to):
        super().__init__(data, known_to)
        vars(self)["_known"] = np.frombuffer(data, np.int64), _FOREVER if known_to is None else known_to

    def _extend(self, known, start, stop):
        raise EndError(f"limit: expected at most {start}, where this table of offsets ends, got {stop}")

    def __repr__(self):
        known_to = "" if self._args[1] is None else f", known_to={self._args[1]}"
        return f"from_array({_listed(self._known[0])}{known_to})"

    def to_json(self):
        known_to = {} if self._args[1] is None else {"known_to": self._args[1]}
        return {"offsets": self._known[0].tolist(), **known_to}


def _listed(offsets):
    """A list as text; a long one is abbreviated as in NumPy, which ``parse`` refuses."""
    if offsets.size <= _MOST_SHOWN:
        return str(offsets.tolist())
    ends = ", ".join(map(str, offsets[:3].tolist())), ", ".join(map(str, offsets[-3:].tolist()))
    return f"[{ends[0]}, ..., {ends[1]}]"


class _Callable(Sequence):
    """The terms that a user's function returns, checked."""

    def _ask(self, limit):
        f = self._args[0]
        try:
            terms = f(limit)
        except Exception as error:
            raise EndError(f"{self!r}: f({limit}) raised {type(error).__name__}: {error}") from error
        terms = _as_offsets(f"{self!r}: f({limit})", terms)
        if terms.size and terms[-1] > limit:
            raise ValueError(f"{self!r}: expected f({limit}) <= {limit}, got {terms[-1]}")
        return terms

    def _extend(self, known, start, stop):
        terms = self._ask(stop)
        cut = start
        if start == 0 and stop > 1:  # nothing known yet: compare with a second call instead
            cut = stop // 2
            known = self._ask(cut)
        if not np.array_equal(terms[: np.searchsorted(terms, cut, side="right")], known):
            raise ValueError(f"{self!r}: expected f({cut}) to be f({stop}) cut at {cut}, got other offsets")
        return terms[np.searchsorted(terms, start, side="right") :]

    def _check_last(self, terms):
        last = int(terms[-1])
        if not np.array_equal(self._ask(last), terms):
            raise ValueError(
                f"{self!r}: expected f({last}) to be the terms up to and including {last}, got other offsets"
            )

    def _key(self):
        return id(self._args[0])

    def __repr__(self):
        return f"from_callable({getattr(self._args[0], '__qualname__', repr(self._args[0]))})"

    def to_json(self):
        raise TypeError(f"{self!r}: a callable cannot be written as JSON; use register or from_array")


def from_array(offsets: Iterable[int], known_to: int | None = None) -> Sequence:
    """Return the sequence with exactly these ``offsets``: sorted, made unique, copied, compared by content.

    Parameters
    ----------
    offsets : 1-D array or iterable of integers >= 1
        In any order.
    known_to : int, optional
        The offsets are the beginning of a longer sequence, complete up to here: a limit beyond it raises
        ValueError. By default there is nothing beyond the largest offset.

    Returns
    -------
    Sequence
        A finite one, or with ``known_to`` the beginning of one.

    Raises
    ------
    TypeError, ValueError
        If offsets are not integers from 1 on, or are above ``known_to``.

    See Also
    --------
    from_callable : From a rule.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.from_array([4, 1, 4])
    from_array([1, 4])
    """
    offsets = _as_offsets("offsets", offsets)
    if known_to is not None:
        known_to = as_int("known_to", known_to, minimum=1)
        if offsets.size and offsets[-1] > known_to:
            raise ValueError(f"offsets: expected at most known_to={known_to}, got {offsets[-1]}")
    return _Table(offsets.tobytes(), known_to)


def from_callable(f: Callable[[int], Any]) -> Sequence:
    """Return the sequence of ``f(limit)`` = integers 1 <= s <= limit, compared by the identity of ``f``.

    The limit itself may be a term: ``range(5, limit + 1, 5)``, not ``range(5, limit, 5)``. f(m) must be f(n)
    cut at m for m < n. This is checked at first use, for half the limit and for the last term, and at every
    growth; ValueError otherwise. ``f`` may be called with up to twice the limit at hand; if that fails, it is
    called with the limit itself.

    Parameters
    ----------
    f : callable
        Takes the limit, an int.

    Returns
    -------
    Sequence
        Without a name; ``register`` gives one.

    Raises
    ------
    TypeError
        If ``f`` is not callable, or a Sequence already.

    See Also
    --------
    from_array : From the numbers themselves.
    register : With a name, and terms that extend those before.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.from_callable(lambda limit: range(5, limit + 1, 5))(22)
    array([ 5, 10, 15, 20])
    """
    if isinstance(f, Sequence) or not callable(f):
        raise TypeError(f"f: expected a function of a limit, got {f!r}")
    return _Callable(f)
