"""Which rule of a pattern admits a pair, and how much attention each rule carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int
from primeattn.kernels.arguments import as_boundaries
from primeattn.patterns import Pattern

if TYPE_CHECKING:
    from primeattn.typing import AnyArray

__all__ = ["RULES", "Explanation", "as_map", "check_pairs", "explain", "first_rule", "rule_mass"]

RULES = ("window", "global tokens", "sequence")  # the first in this order that admits a pair counts


@dataclass(frozen=True)
class Explanation:
    """Result of ``explain``: true if the query attends the key; ``str`` says why in a sentence.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    query, key : int
        Their positions.
    admitted_by : tuple of str
        All rules that admit the pair, among "window", "global tokens" and "sequence".

    See Also
    --------
    explain : Makes it for a pair.

    Examples
    --------
    >>> import primeattn as pa
    >>> found = pa.analysis.explain(pa.Pattern("squares", global_tokens=1), 9, 0)
    >>> found.admitted_by, bool(found)
    (('global tokens', 'sequence'), True)
    """

    pattern: Pattern
    query: int
    key: int
    admitted_by: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.admitted_by)

    def __str__(self) -> str:
        distance, window, leading = self.query - self.key, self.pattern.window, self.pattern.global_tokens
        if distance < 0:
            return f"query {self.query} does not attend key {self.key}, which comes later"
        yes, sequence = bool(self), self.pattern.sequence
        facts = {
            "window": f"distance {distance} is {'within' if yes else 'beyond'} the window {window}",
            "global tokens": f"key {self.key} is {'one' if yes else 'none'} of {leading} global tokens",
            "sequence": f"distance {distance} is {'' if yes else 'not '}in {sequence!r}",
        }
        if not yes and sequence is None:
            del facts["sequence"]
        said = ", ".join(facts[rule] for rule in (self.admitted_by if yes else facts))
        return f"query {self.query} {'attends' if yes else 'does not attend'} key {self.key}: {said}"


def explain(pattern: Pattern, i: int, j: int) -> Explanation:
    """Return which rules of ``pattern`` let query ``i`` attend key ``j``.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    i, j : int
        Positions, counted from 0.

    Returns
    -------
    Explanation
        The rules that admit the pair; false if there is none.

    See Also
    --------
    rule_mass : How much attention each rule carries.
    primeattn.plot.mask : All pairs, coloured by rule.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("primes", window=3, global_tokens=2)
    >>> print(pa.analysis.explain(pattern, 9, 7))
    query 9 attends key 7: distance 2 is within the window 3, distance 2 is in primes
    >>> pa.analysis.explain(pattern, 9, 1).admitted_by
    ('global tokens',)
    >>> if not pa.analysis.explain(pattern, 9, 5):
    ...     print(pa.analysis.explain(pattern, 9, 5))
    query 9 does not attend key 5: distance 4 is beyond the window 3, key 5 is none of 2 global tokens, \
distance 4 is not in primes
    """
    as_pattern(pattern)
    i, j = as_int("i", i, minimum=0), as_int("j", j, minimum=0)
    if i < j:
        return Explanation(pattern, i, j, ())
    distance, sequence = i - j, pattern.sequence
    in_sequence = sequence is not None and sequence.count(distance) > sequence.count(distance - 1)
    holds = (distance <= pattern.window, j < pattern.global_tokens, in_sequence)
    return Explanation(pattern, i, j, tuple(rule for rule, yes in zip(RULES, holds, strict=True) if yes))


def first_rule(pattern, query, key) -> np.ndarray:
    """Return the index in RULES of the first that admits each pair; all pairs are in the pattern."""
    return np.where(query - key <= pattern.window, 0, np.where(key < pattern.global_tokens, 1, 2))


def check_pairs(pattern, query, key):
    """Raise ValueError unless the pattern admits all these pairs of a query and a key."""
    distance = query - key
    by_offset = np.isin(distance, pattern.offsets(int(distance.max(initial=0)) + 1))
    outside = (key < 0) | (distance < 0) | ~(by_offset | (key < pattern.global_tokens))
    if outside.any():
        i, j = query[outside][0], key[outside][0]
        raise ValueError(f"probabilities: expected pairs of {pattern!r}, got query {i}, key {j}")


def rule_mass(
    probabilities: Any, pattern: Pattern, *, cu_seqlens: AnyArray | None = None
) -> dict[str, np.ndarray]:
    """Return how much of each query's attention each rule of the pattern carries,

        mass_i = sum of p_ij over the keys j that the rule admits and no earlier rule does,

    with the rules in the order window, global tokens, sequence. The three add up to 1.

    Parameters
    ----------
    probabilities : sparse matrix, shape (n, n)
        p, such as from ``attention_map``.
    pattern : Pattern
        The head's pattern; ValueError if p stores a pair that it does not admit.
    cu_seqlens : int array (sequences + 1,), optional
        Boundaries of packed sequences, each with its own global tokens.

    Returns
    -------
    dict of str to float array (n,)
        Under "window", "global tokens" and "sequence".

    See Also
    --------
    explain : The rules that admit one pair.
    attention_summary : A table over the heads of a model.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("primes", window=3, global_tokens=2)
    >>> mask = pattern.to_csr(100).astype(float)
    >>> uniform = mask.multiply(1 / mask.sum(axis=1)).tocsr()
    >>> for rule, mass in pa.analysis.rule_mass(uniform, pattern).items():
    ...     print(f"{rule:13} {mass[-1]:.3f}")
    window        0.138
    global tokens 0.069
    sequence      0.793
    """
    p, n = as_map(probabilities).tocoo(), probabilities.shape[0]
    ends = np.array([0, n]) if cu_seqlens is None else as_boundaries(cu_seqlens, n)
    start = np.repeat(ends[:-1], np.diff(ends))
    query, key = p.row - start[p.row], p.col - start[p.row]
    check_pairs(as_pattern(pattern), query, key)
    rule = first_rule(pattern, query, key)
    return {
        name: np.bincount(p.row[rule == number], p.data[rule == number], n)
        for number, name in enumerate(RULES)
    }


def as_map(probabilities):
    """Return ``probabilities`` if it is a square sparse matrix of numbers from 0 to 1; raise otherwise."""
    from scipy.sparse import issparse

    if not issparse(probabilities):
        raise TypeError(f"probabilities: expected a sparse matrix, got {type(probabilities).__name__}")
    shape = probabilities.shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"probabilities: expected shape (n, n) with n >= 1, got {shape}")
    values = probabilities.tocoo().data
    if not np.all((values >= 0) & (values <= 1 + 1e-5)):
        found = f"{values.min()} to {values.max()}"
        raise ValueError(f"probabilities: expected numbers from 0 to 1, got {found}")
    return probabilities
