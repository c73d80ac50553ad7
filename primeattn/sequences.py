"""Sets of positive integers that grow with the limit asked for: number theory only, nothing about attention.

>>> import primeattn as pa
>>> pa.sequences.primes(20)
array([ 2,  3,  5,  7, 11, 13, 17, 19])
>>> pa.sequences.squares(30)
array([ 1,  4,  9, 16, 25])
>>> pa.sequences.mian_chowla(50)
array([ 1,  2,  4,  8, 13, 21, 31, 45])
>>> (2 * pa.sequences.primes | pa.sequences.powers(3))(15)
array([ 1,  3,  4,  6,  9, 10, 14])

A new sequence joins with one function that says which terms lie in (start, stop]; see ``register``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, update_wrapper
from math import isqrt, log

import numpy as np

from primeattn._sequence import EMPTY, Sequence, as_int, from_array, from_callable

__all__ = ["Sequence", "families", "from_array", "from_callable", "from_json", "get", "names", "register"]

_registry: dict[str, Sequence | Callable] = {}  # a family is a function that makes a Sequence


class _Registered(Sequence):
    """Made by ``register``: a sequence, or with ``params`` a member of a family."""

    def __init__(self, name, params, extend, count, **facts):
        super().__init__(name, *params)
        vars(self).update(_name=name, _params=params, _rule=extend, _count=count, **facts)

    def _extend(self, known, start, stop):
        return self._rule(known, start, stop, *self._params)

    def estimate(self, n):
        return float(self._count(n, *self._params))

    def __reduce__(self):
        return get, self._args

    def __repr__(self):
        return f"{self._name}({', '.join(map(repr, self._params))})" if self._params else self._name

    def to_json(self):
        params = [p.to_json() if isinstance(p, Sequence) else p for p in self._params]
        return {"name": self._name, **({"params": params} if params else {})}


def register(name, *, title, oeis, count, asymptotic, why, params=None):
    """Return a decorator that turns ``extend(known, start, stop)`` into the sequence called ``name``.

    ``extend`` returns the terms in (start, stop], given the sorted array of all ``known`` terms <= start; it
    is called for growing ranges, never again for one that it has answered. The sequence appears as
    ``primeattn.sequences.<name>`` and wherever names are accepted.

    Parameters
    ----------
    name : str
        A Python identifier that is not taken.
    title, asymptotic, why : str
        Title; the counting function as text; one line on why to try it.
    oeis : str or None
        Id in the On-Line Encyclopedia of Integer Sequences.
    count : callable
        x -> about how many terms are <= x.
    params : callable, optional
        Makes it a family: ``params(...)`` checks the arguments of ``<name>(...)`` and returns them as a tuple
        of numbers and Sequences, which ``extend`` and ``count`` receive after their own arguments; ``title``
        and ``asymptotic`` are then format strings over them, and ``oeis`` may be a function of them.

    Examples
    --------
    ::

        @register("even", title="Evens", oeis="A005843", count=lambda x: x / 2, asymptotic="x / 2", why="…")
        def even(known, start, stop):
            return 2 * np.arange(start // 2 + 1, stop // 2 + 1)
    """
    if not isinstance(name, str) or not name.isidentifier() or name in globals():
        raise ValueError(f"name: expected an identifier that is not taken, got {name!r}")

    def decorator(extend):
        @lru_cache(maxsize=256)  # powers(3) made twice shares one cache of terms
        def make(*params):
            return _Registered(
                name,
                params,
                extend,
                count,
                title=title.format(*params),
                oeis=oeis(*params) if callable(oeis) else oeis,
                asymptotic=asymptotic.format(*params),
                why=why,
                __doc__=extend.__doc__,
            )

        if params is None:
            public = make()
        else:

            def family(*args, **kwargs):
                return make(*params(*args, **kwargs))

            public = update_wrapper(family, extend)
            public.__signature__ = inspect.signature(params)
        _registry[name] = globals()[name] = public
        __all__.append(name)
        return public

    return decorator


def names() -> tuple[str, ...]:
    """Return the names that ``get`` takes alone, sorted."""
    return tuple(sorted(name for name, public in _registry.items() if isinstance(public, Sequence)))


def families() -> tuple[str, ...]:
    """Return the families with their parameters, such as 'powers(base)', sorted."""
    makers = {name: f for name, f in _registry.items() if not isinstance(f, Sequence)}
    return tuple(sorted(f"{name}{inspect.signature(f)}" for name, f in makers.items()))


def get(name, *params) -> Sequence:
    """Return the registered sequence called ``name``, of a family the one with these ``params``.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.get("primes"), pa.sequences.get("powers", 3)
    (primes, powers(3))
    """
    if not isinstance(name, str):
        raise TypeError(f"sequence: expected a name, got {name!r}")
    public = _registry.get(name)
    if public is None:
        raise ValueError(f"sequence: expected one of {', '.join(names() + families())}, got {name!r}")
    if isinstance(public, Sequence):
        if params:
            raise ValueError(f"sequence: {name} takes no parameters, got {params!r}")
        return public
    if not params:
        raise ValueError(f"sequence: expected the parameters of {name}{inspect.signature(public)}, got none")
    return public(*params)


def from_json(obj) -> Sequence:
    """Return the sequence whose ``to_json()`` is ``obj``; ValueError for any other structure.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.from_json({"union": [{"name": "primes"}, {"scale": 2, "of": {"name": "squares"}}]})
    2 * squares | primes
    """
    if not isinstance(obj, dict):
        raise TypeError(f"obj: expected a dict made by Sequence.to_json(), got {obj!r}")
    keys = set(obj)
    if {"name"} <= keys <= {"name", "params"}:
        params = obj.get("params", [])
        return get(obj["name"], *(from_json(p) if isinstance(p, dict) else p for p in params))
    if keys == {"scale", "of"}:
        return obj["scale"] * from_json(obj["of"])
    if keys == {"union"} and obj["union"]:
        first, *rest = map(from_json, obj["union"])
        for part in rest:
            first = first | part
        return first
    if {"offsets"} <= keys <= {"offsets", "known_to"}:
        return from_array(**obj)
    raise ValueError(f"obj: expected a dict made by Sequence.to_json(), got the keys {list(obj)}")


# --- sequences --------------------------------------------------------------------------------------------


@register(
    "primes",
    title="Primes",
    oeis="A000040",
    count=lambda x: x / log(x) if x >= 2 else 0.0,
    asymptotic="x / ln x",
    why="dense near, thinning out slowly; two layers reach the even distances (Goldbach)",
)
def primes(known, start, stop):
    """The primes 2, 3, 5, 7, 11, …: a sieve of Eratosthenes over the odd numbers of (start, stop]."""
    if stop < 2:
        return EMPTY
    root = isqrt(stop)
    sieving = known if start >= root else np.concatenate([known, primes._extend(known, start, root)])
    first = max(3, (start + 1) | 1)
    is_prime = np.ones(max(0, (stop - first) // 2 + 1), bool)  # entry t stands for first + 2 t
    for p in sieving[1 : np.searchsorted(sieving, root, side="right")].tolist():
        odd_multiple = p * max(p, -(-first // p) | 1)
        is_prime[(odd_multiple - first) // 2 :: p] = False
    odd = 2 * np.flatnonzero(is_prime) + first
    return np.concatenate([[2], odd]) if start < 2 else odd


@register(
    "squares",
    title="Squares",
    oeis="A000290",
    count=lambda x: x**0.5,
    asymptotic="√x",
    why="O(n√n) pairs, and four layers reach every distance (Lagrange's four-square theorem)",
)
def squares(known, start, stop):
    """The squares 1, 4, 9, 16, …"""
    return np.arange(isqrt(start) + 1, isqrt(stop) + 1, dtype=np.int64) ** 2


@register(
    "mian_chowla",
    title="Mian-Chowla",
    oeis="A005282",
    count=lambda x: (3.3 * x * log(x)) ** (1 / 3) if x >= 2 else float(x >= 1),
    asymptotic="≈ (3.3 x ln x)^(1/3), empirical",
    why="a Sidon set: no two pairs of offsets have the same sum, so two layers reach the most distances",
)
def mian_chowla(known, start, stop):
    """The greedy Sidon set 1, 2, 4, 8, 13, 21, …: all sums a_i + a_j with i <= j are distinct.

    c > a_m joins unless c + a_j = a_m + a_i for some i, j <= m, that is c = a_m + (a_i - a_j): each term a_m
    bars the differences so far, shifted by a_m (Mian and Chowla, Proc. Nat. Acad. Sci. India A14, 1944).
    """
    size = len(known)
    terms = np.append(
        known, np.zeros(isqrt(2 * stop) + 2, np.int64)
    )  # room: n(n-1)/2 differences, all < stop
    is_new = np.ones(stop + 1, bool)  # is_new[d]: d is no difference of two terms
    is_new[np.abs(known[:, None] - known).ravel()] = False
    free = np.ones(stop - start, bool)  # free[c - start - 1]: nothing bars c
    for a in known.tolist():
        free &= is_new[start + 1 - a : stop + 1 - a]
    at = 0
    while at < len(free) and free[at := at + int(free[at:].argmax())]:
        c = start + 1 + at
        is_new[c - terms[:size]] = False
        terms[size] = c
        size += 1
        at += 1
        free[at:] &= is_new[1 : stop - c + 1]
    return terms[len(known) : size]


def _base(base):
    return (as_int("base", base, minimum=2),)


@register(
    "powers",
    title="Powers of {}",
    oeis={2: "A000079", 3: "A000244", 4: "A000302", 5: "A000351", 10: "A011557"}.get,
    count=lambda x, base: log(x) / log(base) + 1 if x >= 1 else 0.0,
    asymptotic="ln x / ln {}",
    why="O(n log n) pairs, and every distance within O(log n) layers",
    params=_base,
)
def powers(known, start, stop, base):
    """Powers of the number ``base``: 1, b, b², b³, … (not the b-th powers 1, 2^b, 3^b, …).

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.powers(3)(100)
    array([ 1,  3,  9, 27, 81])
    """
    terms, term = [], base * int(known[-1]) if len(known) else 1
    while term <= stop:
        terms.append(term)
        term *= base
    return terms
