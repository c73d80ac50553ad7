"""The registry of sequences: adds them, finds them by name, reads them from JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from difflib import get_close_matches
from functools import lru_cache, update_wrapper
from inspect import signature
from typing import TYPE_CHECKING, Any

from primeattn.sequences.value import Sequence, from_array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from primeattn.typing import Array

__all__ = ["alias", "families", "from_json", "get", "names", "register"]

_registry: dict[str, Sequence | Callable] = {}  # a family is a function that makes a Sequence
_package = sys.modules[__package__]


class _Registered(Sequence):
    """Made by ``register``: a sequence, or with ``params`` a member of a family."""

    def __init__(self, name, params, extend, count, needs, **facts):
        super().__init__(name, *params)
        vars(self).update(_name=name, _params=params, _rule=extend, _count=count, _needs=needs, **facts)

    def _extend(self, known, start, stop):
        return self._rule(known, start, stop, *self._params)

    def _check_last(self, terms):
        last = int(terms[-1])
        if last not in self._rule(terms[:-1], last - 1, last, *self._params):
            raise ValueError(
                f"{self!r}: expected extend(known, {last - 1}, {last}) to return {last}, got other terms; "
                "stop is included"
            )

    def _between(self, start, stop):
        if self._needs is None or (needed := self._needs(stop)) > start:
            return None
        return self._rule(self(needed), start, stop, *self._params)

    def estimate(self, n):
        count = self._count(n, *self._params)
        return None if count is None else float(count)

    def __reduce__(self):
        return get, self._args

    def __repr__(self):
        return f"{self._name}({', '.join(map(repr, self._params))})" if self._params else self._name

    def to_json(self):
        params = [p.to_json() if isinstance(p, Sequence) else p for p in self._params]
        return {"name": self._name, **({"params": params} if params else {})}


def register(
    name: str,
    *,
    title: str,
    oeis: str | Callable[..., str] | None,
    count: Callable[..., float | None],
    asymptotic: str,
    why: str,
    params: Callable[..., Any] | None = None,
    needs: Callable[[int], int] | None = None,
) -> Callable[[Callable[..., Array]], Any]:
    """Return a decorator that turns ``extend(known, start, stop)`` into the sequence called ``name``.

    ``extend`` returns the terms in (start, stop], with ``stop`` if that is one, given the sorted array of all
    ``known`` terms <= start. It is called for growing ranges, and once for one term alone, to check that
    ``stop`` is included. The sequence appears as ``primeattn.sequences.<name>`` and wherever names are
    accepted.

    Parameters
    ----------
    name : str
        A Python identifier that is not taken. A name keeps its meaning as long as Python runs: what you still
        change is better a function (`from_callable`).
    title, asymptotic, why : str
        Title; the counting function as text; one line on why to try it.
    oeis : str or None
        Id in the On-Line Encyclopedia of Integer Sequences.
    count : callable
        x -> about how many terms are <= x, or None if that is unknown.
    params : callable, optional
        Makes it a family: ``params(...)`` checks the arguments of ``<name>(...)`` and returns them as a tuple
        of numbers and Sequences, which ``extend`` and ``count`` receive after their own arguments; or returns
        an existing Sequence for them. ``title`` and ``asymptotic`` are then format strings over the
        arguments, and ``oeis`` may be a function of them.
    needs : callable, optional
        stop -> the bound up to which ``extend`` reads the ``known`` terms, if it does not need all. It is
        then also called for single ranges far out, with those terms only.

    Returns
    -------
    callable
        The decorator.

    Raises
    ------
    TypeError, ValueError
        For a name that is taken or no identifier, for what is no function, and for one of other arguments.
        When terms are made: if they are outside the range, or one that is ``stop`` is left out.

    See Also
    --------
    from_callable : Without a name.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> @pa.sequences.register(
    ...     "odd", title="Odd", oeis="A005408", count=lambda x: x / 2, asymptotic="x / 2", why="half of all"
    ... )
    ... def odd(known, start, stop):
    ...     return np.arange(start + 1 + start % 2, stop + 1, 2)
    >>> pa.Pattern("odd").offsets(9)
    array([0, 1, 3, 5, 7])
    """
    _check_free(name)
    if not callable(count):
        raise TypeError(f"count: expected a function of x, got {count!r}")

    def decorator(extend):
        if not callable(extend):
            raise TypeError(f"extend: expected a function, got {extend!r}")
        if params is None and not _takes(extend, 3):
            raise TypeError(f"{name}: expected a function of known, start and stop, got {signature(extend)}")

        @lru_cache(maxsize=256)  # powers(3) made twice shares one cache of terms
        def make(*params):
            return _Registered(
                name,
                params,
                extend,
                count,
                needs,
                title=title.format(*params),
                oeis=oeis(*params) if callable(oeis) else oeis,
                asymptotic=asymptotic.format(*params),
                why=why,
                __doc__=extend.__doc__,
            )

        if params is None:
            return _publish(name, make())

        def family(*args, **kwargs):
            try:
                signature(params).bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
            checked = params(*args, **kwargs)
            return checked if isinstance(checked, Sequence) else make(*checked)

        public = update_wrapper(family, extend)
        public.__signature__ = signature(params)
        return _publish(name, public)

    return decorator


def alias(name, sequence):
    """Let ``name`` also mean ``sequence``, a member of a family; return it."""
    _check_free(name)
    return _publish(name, sequence)


def _check_free(name):
    if not isinstance(name, str) or not name.isidentifier() or name == "none":  # the shell's for no sequence
        raise ValueError(f"name: expected an identifier such as 'my_numbers', got {name!r}")
    if name in vars(_package):
        raise ValueError(f"name: expected one that is not taken, got {name!r}; a name keeps its meaning")


def _takes(f, count):
    """Whether ``f`` can be called with so many arguments; True of what does not tell."""
    try:
        signature(f).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def _publish(name, public):
    _registry[name] = public
    if name not in _package.__all__:
        _package.__all__.append(name)
    vars(_package)[name] = public  # last: if interrupted before this, it can be done again
    return public


def names() -> tuple[str, ...]:
    """Return the names that ``get`` takes without parameters, sorted.

    Returns
    -------
    tuple of str
        Such as "primes".

    See Also
    --------
    families : Those with parameters.
    primeattn.analysis.catalogue : A table of them.

    Examples
    --------
    >>> import primeattn as pa
    >>> "primes" in pa.sequences.names(), "powers" in pa.sequences.names()
    (True, False)
    """
    return tuple(sorted(name for name, public in _registry.items() if isinstance(public, Sequence)))


def families() -> tuple[str, ...]:
    """Return the families with their parameters, such as 'powers(base)', sorted.

    Returns
    -------
    tuple of str
        Names with parameters.

    See Also
    --------
    names : Those without parameters.

    Examples
    --------
    >>> import primeattn as pa
    >>> "powers(base)" in pa.sequences.families()
    True
    """
    makers = {name: f for name, f in _registry.items() if not isinstance(f, Sequence)}
    return tuple(sorted(f"{name}{signature(f)}" for name, f in makers.items()))


def get(name: str, *params: Any) -> Sequence:
    """Return the registered sequence called ``name``, or the member of a family with these ``params``.

    Parameters
    ----------
    name : str
        One of ``names()``, or the name of a family.
    *params : int, float or Sequence
        Those of the family.

    Returns
    -------
    Sequence
        The same object at every call.

    Raises
    ------
    TypeError
        If ``name`` is no text.
    ValueError
        For an unknown name, and parameters that the family does not take.

    See Also
    --------
    parse : The same from text, with algebra.

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
        close = get_close_matches(name, ["None", *_registry], n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"sequence: expected one of {', '.join(names() + families())}, got {name!r}{meant}")
    if isinstance(public, Sequence):
        if params:
            raise ValueError(f"sequence: {name} takes no parameters, got {params!r}")
        return public
    try:
        signature(public).bind(*params)
    except TypeError:
        raise ValueError(
            f"sequence: expected the parameters of {name}{signature(public)}, got {params or 'none'}"
        ) from None
    return public(*params)


def from_json(obj: Mapping[str, Any]) -> Sequence:
    """Return the sequence whose ``to_json()`` is ``obj``.

    Parameters
    ----------
    obj : dict
        From ``Sequence.to_json``.

    Returns
    -------
    Sequence
        An equal one.

    Raises
    ------
    TypeError, ValueError
        For another structure.

    See Also
    --------
    parse : The same from text.

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
