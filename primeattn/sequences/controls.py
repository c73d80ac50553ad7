"""What number theory has to beat: regular and random offsets.

Three more need no code here: a window alone is ``Pattern(None, window=W)``, log-sparse attention is
``powers_of_two``, and the strided attention of the Sparse Transformer is ``Pattern(strided(l), window=l)``.
"""

from __future__ import annotations

import numpy as np

from primeattn.sequences.chance import as_probability, as_seed, random_bits, uniform
from primeattn.sequences.combinators import as_sequence
from primeattn.sequences.registry import register
from primeattn.sequences.value import EMPTY, as_parameter, check_reach

__all__ = ["dilated", "matched_random", "strided", "uniform_random"]

_UNIFORM, _MATCHED = 2, 3  # salts: with one seed, the two draw different numbers


def _stride(stride):
    return (as_parameter("stride", stride),)


@register(
    "strided",
    title="Multiples of {}",
    oeis=None,
    count=lambda x, stride: x / stride,
    asymptotic="x / {}",
    why="with a window of one stride, two layers reach everything at nearly the least cost possible",
    params=_stride,
    needs=lambda stop: 0,
)
def strided(known, start, stop, stride):
    """The multiples of ``stride`` (Child et al., Generating long sequences with sparse Transformers, 2019).

    Parameters
    ----------
    stride : int
        At least 1.

    Returns
    -------
    Sequence
        Named by its parameter.

    See Also
    --------
    dilated : The first of them.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.strided(32)(100)
    array([32, 64, 96])
    """
    return stride * np.arange(start // stride + 1, stop // stride + 1, dtype=np.int64)


def _dilation(rate, count):
    return as_parameter("rate", rate), as_parameter("count", count)


@register(
    "dilated",
    title="{1} multiples of {0}",
    oeis=None,
    count=lambda x, rate, count: min(x / rate, count),
    asymptotic="at most {1}",
    why="a window seen through a comb (Longformer): wider reach for the same cost, gaps in between",
    params=_dilation,
    needs=lambda stop: 0,
)
def dilated(known, start, stop, rate, count):
    """The finite set { rate, 2 rate, …, count rate } (Beltagy, Peters and Cohan, Longformer, 2020).

    Parameters
    ----------
    rate : int
        At least 1.
    count : int
        At least 1.

    Returns
    -------
    Sequence
        A finite one.

    See Also
    --------
    strided : Without an end.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.dilated(rate=8, count=4)(100)
    array([ 8, 16, 24, 32])
    """
    return rate * np.arange(start // rate + 1, min(stop // rate, count) + 1, dtype=np.int64)


def _uniform_params(density, seed):
    return as_probability("density", density), as_seed(seed)


@register(
    "uniform_random",
    title="Random, density {}",
    oeis=None,
    count=lambda x, density, seed: density * x,
    asymptotic="{} x",
    why="pure chance: offsets are as likely to be far as near",
    params=_uniform_params,
    needs=lambda stop: 0,
)
def uniform_random(known, start, stop, density, seed):
    """Each positive integer independently with probability ``density``, fixed by ``seed``.

    Parameters
    ----------
    density : float
        In (0, 1].
    seed : int
        In [0, 2**64).

    Returns
    -------
    Sequence
        Named by its parameters.

    See Also
    --------
    matched_random : As dense as a sequence at every scale.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.uniform_random(0.01, seed=0).count(10000)
    86
    """
    check_reach("uniform_random", stop - start, 2**28)
    numbers = np.arange(start + 1, stop + 1)
    return numbers[uniform(numbers, _UNIFORM, seed) < density]


def _matched_params(base, seed):
    return as_sequence("base", base), as_seed(seed)


@register(
    "matched_random",
    title="Random, matched to {}",
    oeis=None,
    count=lambda x, base, seed: base.estimate(x),
    asymptotic="that of {}",
    why="the control: separates the effect of a sequence's numbers from that of its density",
    params=_matched_params,
)
def matched_random(known, start, stop, base, seed):
    """As many random numbers in every dyadic block [2^k, 2^(k+1)) as ``base`` has there, fixed by ``seed``.

    ``base`` is generated to the end of the block that contains the limit.

    Parameters
    ----------
    base : Sequence
        S.
    seed : int
        In [0, 2**64).

    Returns
    -------
    Sequence
        Named by its parameters.

    See Also
    --------
    uniform_random : Of one density.
    primeattn.analysis.controls : The controls of a pattern.

    Examples
    --------
    >>> import primeattn as pa
    >>> primes = pa.sequences.primes
    >>> control = pa.sequences.matched_random(primes, seed=0)
    >>> control.count(63), primes.count(63), control.count(4095), primes.count(4095)
    (18, 18, 564, 564)
    """
    parts = [EMPTY]
    for k in range((start + 1).bit_length() - 1, stop.bit_length()):
        wanted = base.count(2 ** (k + 1) - 1) - base.count(2**k - 1)
        parts.append(2**k + _choose(wanted, k, seed))
    terms = np.concatenate(parts)
    return terms[(terms > start) & (terms <= stop)]


def _choose(wanted, k, seed):
    """Return ``wanted`` different numbers of 0, ..., 2^k - 1, sorted, each choice equally likely."""
    if 2 * wanted > 2**k:  # choose the numbers to leave out
        chosen = np.ones(2**k, bool)
        chosen[_choose(2**k - wanted, k, seed)] = False
        return np.flatnonzero(chosen)
    tries = 4 * wanted + 16
    while wanted:
        drawn = (random_bits(np.arange(tries), _MATCHED, seed, k) % np.uint64(2**k)).astype(np.int64)
        values, first = np.unique(drawn, return_index=True)
        if len(values) >= wanted:
            return np.sort(values[np.argsort(first)[:wanted]])
        tries *= 2
    return EMPTY
