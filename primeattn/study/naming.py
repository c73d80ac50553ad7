"""Patterns by the names that protocols and tables call them."""

from __future__ import annotations

from primeattn.analysis import controls, match_budget
from primeattn.checks import as_int
from primeattn.patterns import Pattern

__all__ = ["drawn", "named"]

_WINDOW = 3
_CONTROLS = ("window", "strided", "powers of two")


def named(name: str, n: int, seed: int = 0) -> Pattern | list[Pattern]:
    """Return the pattern of a layer that ``name`` means at length ``n``: a Pattern, or a list for the heads.

    - "primes", "2 * primes | squares", "none": the sequence (see ``sequences.parse``) and a window of 3,
    - "dense": all causal pairs,
    - "squares as primes": with a window so wide that it has as many pairs as "primes", within 1 %,
    - "window as primes", "strided as primes", "powers of two as primes": the control with as many pairs (see
      ``analysis.controls``),
    - "random as primes": as many random offsets of every scale as the primes have; others for each ``seed``,
    - "primes and squares", "primes and squares as primes": a head for each.

    Parameters
    ----------
    name : str
        As above.
    n : int
        Length at which pairs are counted.
    seed : int
        Of what is random.

    Returns
    -------
    Pattern or list of Pattern
        One for all heads, or one per head.

    Raises
    ------
    TypeError, ValueError
        For a name that means nothing, or too few pairs.

    See Also
    --------
    primeattn.analysis.controls : The controls.
    protocol : Has patterns by these names.

    Examples
    --------
    >>> from primeattn.study import named
    >>> for name in ("primes", "window as primes", "squares as primes"):
    ...     print(name, named(name, 1024).num_pairs(1024))
    primes 97986
    window as primes 97450
    squares as primes 97744
    >>> named("primes and squares", 1024)
    [Pattern(primes, window=3), Pattern(squares, window=3)]
    """
    if not isinstance(name, str):
        raise TypeError(f"patterns: expected a name, got {name!r}")
    n = as_int("n", n, minimum=1)
    if name == "dense":
        return Pattern(None, window=n - 1)
    what, _, like = name.partition(" as ")
    if not like:
        if what in (*_CONTROLS, "random"):
            raise ValueError(
                f"patterns: expected '{what} as' a sequence, such as '{what} as primes', got {name!r}"
            )
        heads = [_plain(part) for part in what.split(" and ")]
    else:
        try:
            heads = _like(what, _plain(like), n, seed)
        except ValueError as error:
            raise ValueError(f"patterns: {name!r} at n = {n}: {error}") from None
    return heads if len(heads) > 1 else heads[0]


def _like(what, model, n, seed):
    """Patterns by head that cost as much as ``model``."""
    budget = model.num_pairs(n)
    if what == "random":
        return [match_budget(model, budget, n, by="dyadic", seed=seed)]
    if what in _CONTROLS:
        found = controls(model, n, seeds=0)
        if what not in found:
            raise ValueError(f"expected at least as many pairs as {what} take, got {budget}")
        return [found[what]]
    heads = [_plain(part) for part in what.split(" and ")]
    return match_budget(heads, budget * len(heads), n)


def drawn(name: str) -> bool:
    """Whether ``name`` means other offsets for each seed.

    Examples
    --------
    >>> from primeattn.study.naming import drawn
    >>> drawn("random as primes"), drawn("primes")
    (True, False)
    """
    return name.startswith("random as ")


def _plain(text):
    return Pattern(None if text == "none" else text, window=_WINDOW)
