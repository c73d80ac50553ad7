"""Fair comparisons: equal cost, and the most that any pattern of that cost could reach."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import comb
from typing import Any, NamedTuple
from warnings import warn

import numpy as np

from primeattn.analysis.reach import as_pattern, receptive_field
from primeattn.checks import as_int
from primeattn.patterns import Pattern
from primeattn.sequences.chance import as_probability, as_seed, uniform
from primeattn.sequences.value import Sequence, from_array

__all__ = ["counting_bound", "efficiency", "match_budget"]

_SALT = 4  # so that other random sequences draw other numbers from the same seed
_DRAWS = 300  # of random offsets, until their pairs are those wanted
_TILTED = 20  # more draws, from nearer or farther parts of the blocks
_STEEPEST = 1000.0  # the most that these lean


def match_budget(
    pattern: Any, budget: int, n: int, by: str = "window", *, within: float = 0.01, seed: int | None = None
) -> Any:
    """Return ``pattern`` with as many offsets as ``budget`` pairs pay for, so that

        (1 - within) budget <= num_pairs(n) <= budget    if there are offsets for it; else with a warning.

    Patterns matched to one budget cost the same, so that what they reach and learn can be compared.
    ``Pattern(None)`` gives a plain window as control.

    Offsets are taken in an order that the lever sets, for as long as the next one fits. If too much of the
    budget is left then, offsets that come later and do fit join them, and as a last resort the nearest
    offset outside the lever that fits. So single far offsets are added to short patterns, where one more
    step of the window costs several per cent; ``within=0.05`` avoids most of them.

    Parameters
    ----------
    pattern : Pattern, Sequence, or list of Pattern
        A list is a stack, one pattern for each layer; the budget is that of all layers together, and they
        share one lever: the same share or distance, or the same window, give or take 1.
    budget : int
        Number of (query, key) pairs, such as ``other.num_pairs(n)``.
    n : int
        Length of the sequence.
    by : {"window", "thin", "distance", "dyadic"}
        The lever: what is taken, in this order.

        - "window": 1, 2, 3, ...; the sequence stays whole, and the pattern's own window does not matter,
        - "thin": terms of the sequence at random; here, and below, the window stays,
        - "distance": terms of the sequence, the nearest first,
        - "dyadic": random offsets, in every dyadic block [2^k, 2^(k+1)) in proportion to the number that the
          sequence has there beyond the window, and drawn again until they cost what they should: the control
          for its numbers, at any density. At the pattern's own pairs the numbers are the same in every block.
          Where the sequence begins or ends its blocks, as powers of two do, so do the random offsets: others
          could not be as many and cost as much.
    within : float
        Share of the budget, in (0, 1], that may be left.
    seed : int, optional
        Of "thin" and "dyadic", which choose at random; default 0. The others take none.

    Returns
    -------
    Pattern, or list of Pattern
        Meant for length ``n``; what is taken by distance or from dyadic blocks ends there.

    Raises
    ------
    TypeError, ValueError
        For bad arguments, and if what stays takes more than the budget.

    Warns
    -----
    UserWarning
        If a larger share of the budget is left, with numbers.

    See Also
    --------
    controls : The patterns that a pattern has to beat at its own cost.
    primeattn.sequences.matched_random : The control of a sequence, without a budget.

    Examples
    --------
    >>> import primeattn as pa
    >>> primes = pa.Pattern("primes", window=3)
    >>> for sequence in (None, "squares", "mian_chowla"):
    ...     print(pa.analysis.match_budget(pa.Pattern(sequence), primes.num_pairs(4096), 4096))
    Pattern(None, window=315)
    Pattern(squares, window=287)
    Pattern(mian_chowla, window=298)
    >>> budget = pa.Pattern("squares", window=3).num_pairs(4096)
    >>> for by in ("thin", "distance"):
    ...     print(pa.analysis.match_budget(primes, budget, 4096, by=by).num_pairs(4096) / budget > 0.99)
    True
    True
    """
    budget, n = as_int("budget", budget, minimum=0), as_int("n", n, minimum=1)
    tolerance = as_probability("within", within) * budget
    if not isinstance(by, str) or by not in _LEVERS:
        raise ValueError(f"by: expected one of {', '.join(_LEVERS)}, got {by!r}")
    if seed is not None and by not in ("thin", "dyadic"):
        raise ValueError(f"seed: expected none with by={by!r}, which leaves nothing to chance, got {seed!r}")
    layers, stack = as_layers(pattern), isinstance(pattern, (list, tuple))
    key = (_SALT, as_seed(0 if seed is None else seed))
    offers = [_LEVERS[by](layer, n, key) for layer in layers]
    least = sum(offer.base.num_pairs(n) for offer in offers)
    if least > budget:
        what = "window 0 needs" if by == "window" else "window and global tokens need"
        raise ValueError(f"budget: expected at least {least}, what {what} at n = {n}, got {budget}")
    left = budget - least
    drawn = _draw(layers, left, tolerance, n, key) if by == "dyadic" else None
    taken, left = drawn or _spend(offers, left, tolerance, n)
    if left > tolerance:
        warn(
            f"budget: expected {budget} pairs, got {budget - left} at n = {n}: by={by!r} has no more offsets "
            "that fit",
            stacklevel=2,
        )
    matched = [offer.assemble(offsets) for offer, offsets in zip(offers, taken, strict=True)]
    return matched if stack else matched[0]


class _Offer(NamedTuple):
    """What a lever can do for one layer."""

    base: Pattern  # stays in any case
    offsets: np.ndarray  # can be taken
    ranks: np.ndarray  # the lowest first
    assemble: Callable  # offsets taken, sorted -> Pattern
    planned: np.ndarray | None = None  # what each is expected to cost, if they are random


def as_layers(pattern):
    """Patterns of the layers: those of a stack, or the one that ``pattern`` is."""
    layers = pattern if isinstance(pattern, (list, tuple)) else [pattern]
    if not layers:
        raise ValueError("pattern: expected at least one pattern, got none")
    return [Pattern(layer) if isinstance(layer, Sequence) else as_pattern(layer) for layer in layers]


def _in_turn(offers):
    """Numbers of layers and offsets of all offers, in the order of their ranks; and this order."""
    order = np.argsort(np.concatenate([offer.ranks for offer in offers]), kind="stable")
    layer = np.repeat(np.arange(len(offers)), [len(offer.offsets) for offer in offers])
    return layer[order], np.concatenate([offer.offsets for offer in offers])[order], order


def _ends(offers, n):
    """For each layer, what an offset of 0 would cost: another one costs its size less."""
    return n - np.array([offer.base.global_tokens for offer in offers])


def _draw(layers, left, tolerance, n, key):
    """Draw random offsets of all layers until they cost what is left; return them by layer, and the rest.

    Numbers by block follow from what their offsets are expected to cost, so that no block is favoured whose
    offsets happen to fit. If no draw fits, as the sequence's own are near the beginnings or the ends of their
    blocks, random ones are drawn from there, too. None if that does not help.
    """

    def drawn(draw, tilt):
        offers = [_by_dyadic(layer, n, (*key, draw), tilt) for layer in layers]
        layer, offsets, order = _in_turn(offers)
        planned = np.cumsum(np.concatenate([offer.planned for offer in offers])[order])
        fit = int(np.searchsorted(planned, left + 0.5))
        layer, offsets = layer[:fit], offsets[:fit]
        rest = left - int((_ends(offers, n)[layer] - offsets).sum())
        return [np.sort(offsets[layer == one]) for one in range(len(offers))], rest

    for draw in range(_DRAWS):
        found = drawn(draw, 0.0)
        if 0 <= found[1] <= tolerance:
            return found
    for draw in range(_TILTED):
        far, near = -_STEEPEST, _STEEPEST
        while near - far > 1e-6 * _STEEPEST:  # the larger the tilt, the more they cost
            tilt = (far + near) / 2
            found = drawn(draw, tilt)
            if 0 <= found[1] <= tolerance:
                return found
            far, near = (far, tilt) if found[1] < 0 else (tilt, near)
        if (exact := _exchanged(*found, layers, n)) is not None:
            return exact, 0
    return None


def _exchanged(taken, rest, layers, n):
    """The offsets with one exchanged for another of its block that costs ``rest`` more; None if none does."""
    for one, (layer, offsets) in enumerate(zip(layers, taken, strict=True)):
        other = offsets - rest
        in_range = (other > layer.window) & (other < n - layer.global_tokens)
        in_block = np.frexp(other.astype(float))[1] == np.frexp(offsets.astype(float))[1]
        fits = np.flatnonzero(in_range & in_block & ~np.isin(other, offsets))
        if fits.size:
            changed = offsets.copy()
            changed[fits[0]] = other[fits[0]]
            return [*taken[:one], np.sort(changed), *taken[one + 1 :]]
    return None


def _spend(offers, left, tolerance, n):
    """Take offsets of all layers in the order of their ranks; return them by layer, and what is left."""
    taken, ends = [[] for _ in offers], _ends(offers, n)
    layer, offsets, _ = _in_turn(offers)
    fit = int(np.searchsorted(np.cumsum(ends[layer] - offsets), left, side="right"))
    left -= int((ends[layer] - offsets)[:fit].sum())
    for one, offset in zip(layer[:fit].tolist(), offsets[:fit].tolist(), strict=True):
        taken[one].append(offset)
    if fit < len(offsets):  # else the lever has come to its end
        left = _add_what_fits(taken, layer[fit:], offsets[fit:], ends, left, tolerance)
        for one, (offer, end) in enumerate(zip(offers, ends.tolist(), strict=True)):
            free = np.setdiff1d(np.arange(1, end), np.append(offer.base.offsets(n), taken[one]))
            left = _add_what_fits(taken, np.full(len(free), one), free, ends, left, tolerance)
    return [np.sort(np.array(offsets, np.int64)) for offsets in taken], left


def _add_what_fits(taken, layer, offsets, ends, left, tolerance):
    """Go through the offsets and take those that fit, until no more than ``tolerance`` is left."""
    costs = ends[layer] - offsets
    while left > tolerance and (costs <= left).any():
        at = int(np.argmax(costs <= left))
        taken[layer[at]].append(int(offsets[at]))
        left -= int(costs[at])
        layer, offsets, costs = layer[at + 1 :], offsets[at + 1 :], costs[at + 1 :]
    return left


def _by_window(pattern, n, key):
    sequence, columns = pattern.sequence, pattern.global_tokens
    base = Pattern(sequence, 0, columns)
    offsets = np.setdiff1d(np.arange(1, n - columns), base.offsets(n))

    def assemble(taken):
        attended = np.zeros(n + 1, bool)
        attended[base.offsets(n)] = attended[taken] = True
        attended[max(n - columns, 0) : n] = True  # these cost nothing
        window = int(np.argmin(attended)) - 1
        return Pattern(_union(sequence, taken[taken > window]), window, columns)

    return _Offer(base, offsets, offsets, assemble)


def _terms(pattern, n):
    """The window and the global tokens alone, and the offsets that the sequence adds to them."""
    base = Pattern(None, pattern.window, pattern.global_tokens)
    return base, pattern.offsets_between(min(pattern.window + 1, n), max(n - pattern.global_tokens, 0))


def _by_distance(pattern, n, key):
    base, terms = _terms(pattern, n)
    return _Offer(base, terms, terms, partial(_with_terms, pattern, terms))


def _by_thin(pattern, n, key):
    base, terms = _terms(pattern, n)
    return _Offer(base, terms, uniform(terms, *key), partial(_with_terms, pattern, terms))


def _by_dyadic(pattern, n, key, tilt=0.0):
    """Offsets of a block are drawn with odds exp(-tilt x), x in [0, 1) their place in it."""
    base, terms = _terms(pattern, n)
    offsets, ranks, planned = [terms[:0]], [np.zeros(0)], [np.zeros(0)]
    first, end = pattern.window + 1, n - pattern.global_tokens
    for k in range(first.bit_length() - 1, max(end - 1, 0).bit_length()):
        block = np.arange(max(2**k, first), min(2 ** (k + 1), end))
        own = terms[(terms >= 2**k) & (terms < 2 ** (k + 1))]
        if own.size:
            race = np.log(-np.log1p(-uniform(block, *key)))  # exponential times: the first ones win
            offsets.append(block[np.argsort(race + tilt * (block - block[0]) / block.size)])
            ranks.append((np.arange(len(block)) + 0.5) / len(own))
            planned.append(np.full(len(block), end - own.mean()))
    offsets, ranks, planned = map(np.concatenate, (offsets, ranks, planned))
    return _Offer(base, offsets, ranks, partial(_with_terms, base, terms[:0]), planned)


_LEVERS = {"window": _by_window, "thin": _by_thin, "distance": _by_distance, "dyadic": _by_dyadic}


def _with_terms(pattern, terms, taken):
    """The pattern with ``taken`` for its ``terms`` beyond the window."""
    if np.array_equal(taken, terms):
        return pattern
    return Pattern(from_array(taken), pattern.window, pattern.global_tokens)


def _union(sequence, extra):
    if not extra.size:
        return sequence
    return from_array(extra) if sequence is None else sequence | from_array(extra)


def counting_bound(k: int, layers: int) -> int:
    """Return the most distances d >= 1 that ``k`` offsets can connect within ``layers`` layers,

        C(k + L, L) - 1,

    the number of non-empty multisets of at most L offsets.

    Parameters
    ----------
    k : int
        Number of offsets, at least 0.
    layers : int
        L.

    Returns
    -------
    int
        How many distances they can connect at most.

    See Also
    --------
    efficiency : The share of it that a pattern reaches.

    Examples
    --------
    >>> import primeattn as pa
    >>> [pa.analysis.counting_bound(k, 2) for k in (89, 90)]  # 4095 distances take 90 offsets
    [4094, 4185]
    """
    k, layers = as_int("k", k, minimum=0), as_int("layers", layers, minimum=0)
    return comb(k + layers, layers) - 1


def efficiency(pattern: Pattern, layers: int, n: int) -> float:
    """Return how many distances a pattern connects, as a share of the most that as many offsets could,

        #{ d : 0 < d < n, h(d) <= L }  /  min( n - 1, C(k + L, L) - 1 ),    k = #{ d in D : 0 < d < n }.

    0 for a pattern without offsets.

    Parameters
    ----------
    pattern : Pattern
        Its global tokens do not count.
    layers : int
        L.
    n : int
        Distances 1, ..., n - 1.

    Returns
    -------
    float
        A share, 0 to 1.

    See Also
    --------
    counting_bound : The most that offsets could connect.
    receptive_field : The distances themselves.

    Examples
    --------
    >>> import primeattn as pa
    >>> for sequence in ("mian_chowla", "squares", "primes"):
    ...     print(round(pa.analysis.efficiency(pa.Pattern(sequence), 2, 4097), 2))
    0.85
    0.56
    0.75
    """
    n = as_int("n", n, minimum=2)
    reached = int(receptive_field(as_pattern(pattern), layers, n).sum()) - 1
    most = min(n - 1, counting_bound(len(pattern.offsets(n)) - 1, layers))
    return reached / most if most else 0.0
