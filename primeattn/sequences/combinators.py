"""Sequences made of sequences, besides the union ``s | t`` and the multiple ``k * s``."""

from __future__ import annotations

from typing import Any

import numpy as np

from primeattn.sequences.chance import as_probability, as_seed, uniform
from primeattn.sequences.registry import register
from primeattn.sequences.value import Sequence, as_parameter, check_reach

__all__ = ["as_sequence", "complement", "shift", "thin"]

_SALT = 1  # so that thin and the random controls draw different numbers from one seed


def as_sequence(name: str, value: Any) -> Sequence:
    """Return ``value`` if it is a Sequence; TypeError otherwise."""
    if not isinstance(value, Sequence):
        raise TypeError(
            f"{name}: expected a Sequence, got {value!r}; parse, from_array and from_callable of "
            "primeattn.sequences make one of text, of numbers and of a function"
        )
    return value


def _terms(base, start, stop):
    return base(stop)[base.count(start) :]


def _shift_params(base, by):
    return as_sequence("base", base), as_parameter("by", by, minimum=1 - 2**63)


@register(
    "shift",
    title="{} + {}",
    oeis=None,
    count=lambda x, base, by: base.estimate(max(x - by, 0)),
    asymptotic="that of {}",
    why="does a pattern depend on its residues? Shifted by one, the odd primes are even",
    params=_shift_params,
)
def shift(known, start, stop, base, by):
    """{ s + by : s in base, s + by >= 1 }; ``by`` may be negative.

    Parameters
    ----------
    base : Sequence
        S.
    by : int
        May be negative.

    Returns
    -------
    Sequence
        Named by its parameters.

    See Also
    --------
    thin : A random part.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.shift(pa.sequences.primes, -1)(12)
    array([ 1,  2,  4,  6, 10, 12])
    """
    return _terms(base, max(start - by, 0), stop - by) + by


def _thin_params(base, share, seed):
    return as_sequence("base", base), as_probability("share", share), as_seed(seed)


@register(
    "thin",
    title="{1} of {0}",
    oeis=None,
    count=lambda x, base, share, seed: None if base.estimate(x) is None else share * base.estimate(x),
    asymptotic="{1} times that of {0}",
    why="the same arithmetic at a fraction of the pairs; brings dense sets to a sparse one's budget",
    params=_thin_params,
)
def thin(known, start, stop, base, share, seed):
    """A random part of ``base``: each term independently with probability ``share``, fixed by ``seed``.

    Parameters
    ----------
    base : Sequence
        S.
    share : float
        In (0, 1].
    seed : int
        In [0, 2**64).

    Returns
    -------
    Sequence
        Named by its parameters.

    See Also
    --------
    primeattn.analysis.match_budget : Thins to a number of pairs.

    Examples
    --------
    >>> import primeattn as pa
    >>> half = pa.sequences.thin(pa.sequences.primes, 0.5, seed=0)
    >>> half.count(10000), pa.sequences.primes.count(10000)
    (595, 1229)
    """
    terms = _terms(base, start, stop)
    return terms[uniform(terms, _SALT, seed) < share]


def _complement_params(base):
    return (as_sequence("base", base),)


@register(
    "complement",
    title="Not {}",
    oeis=None,
    count=lambda x, base: None if base.estimate(x) is None else max(x - base.estimate(x), 0),
    asymptotic="x less that of {}",
    why="what a dense pattern leaves out; with thin, a control that avoids the sequence",
    params=_complement_params,
)
def complement(known, start, stop, base):
    """The positive integers that are not in ``base``.

    Parameters
    ----------
    base : Sequence
        S.

    Returns
    -------
    Sequence
        Named by its parameter.

    See Also
    --------
    shift : Moves a sequence.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.complement(pa.sequences.primes)(10)
    array([ 1,  4,  6,  8,  9, 10])
    """
    check_reach("complement", stop, 2**28)
    absent = np.ones(stop - start, bool)
    absent[_terms(base, start, stop) - start - 1] = False
    return np.flatnonzero(absent) + start + 1
