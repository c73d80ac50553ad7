"""What a pattern has to beat at its own cost."""

from __future__ import annotations

from typing import TYPE_CHECKING
from warnings import warn

from primeattn.analysis.budget import as_layers, match_budget
from primeattn.checks import as_int
from primeattn.patterns import Pattern
from primeattn.sequences.controls import strided

if TYPE_CHECKING:
    from primeattn.sequences.value import Sequence
    from primeattn.typing import Patterns

__all__ = ["controls"]


def controls(pattern: Patterns | Sequence, n: int, seeds: int = 3) -> dict:
    """Return the fair controls of a pattern at length ``n``, with equally many pairs within 1 %:

    - "window": the last tokens, and a far offset or two if one more step of the window costs over 1 %,
    - "strided": multiples of a stride, for at most half of what each token itself and the global tokens
      leave, and a window for the rest (Child et al., Generating long sequences with sparse Transformers,
      2019),
    - "powers of two": these and a window (Li et al., LogSparse, 2019); left out, with a warning, if they cost
      more than the pattern even without one,
    - "dense": all causal pairs; the only one that costs more, and says what can be reached at all,
    - "random 0", "random 1", ...: random offsets, as many in every dyadic block [2^k, 2^(k+1))
      (``by="dyadic"`` of ``match_budget``).

    All have the global tokens of the pattern.

    Parameters
    ----------
    pattern : Pattern, Sequence, or list of Pattern
        A list is a stack, one pattern for each layer; its controls are stacks, too, with the same pairs in
        all layers together.
    n : int
        Length of the sequence.
    seeds : int
        Number of random controls.

    Returns
    -------
    dict of str to Pattern
        By the names above; stacks for a stack.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Warns
    -----
    UserWarning
        If powers of two are left out.

    See Also
    --------
    match_budget : Makes a pattern cost as much as another.
    compare : A table of patterns.

    Examples
    --------
    >>> import primeattn as pa
    >>> squares = pa.Pattern("squares", window=3)
    >>> squares.num_pairs(1024)
    24395
    >>> for name, control in pa.analysis.controls(squares, 1024, seeds=1).items():
    ...     print(f"{name:13} {control.num_pairs(1024)}")
    window        24300
    strided       24395
    powers of two 24395
    dense         524800
    random 0      24329
    """
    n, seeds = as_int("n", n, minimum=1), as_int("seeds", seeds, minimum=0)
    layers, stack = as_layers(pattern), isinstance(pattern, (list, tuple))
    budget = sum(layer.num_pairs(n) for layer in layers)

    def of(sequence, window=0):
        return [Pattern(sequence, window, layer.global_tokens) for layer in layers]

    found = {
        "window": match_budget(of(None), budget, n),
        "strided": match_budget(of(_stride(of, budget, n)), budget, n),
    }
    powers = of("powers_of_two")
    if (least := _pairs(powers, n)) <= budget:
        found["powers of two"] = match_budget(powers, budget, n)
    else:
        warn(f"controls: powers of two take at least {least} pairs, the pattern {budget}", stacklevel=2)
    found["dense"] = of(None, window=n - 1)
    for seed in range(seeds):
        found[f"random {seed}"] = match_budget(layers, budget, n, by="dyadic", seed=seed)
    return found if stack else {name: control for name, (control,) in found.items()}


def _pairs(layers, n):
    return sum(layer.num_pairs(n) for layer in layers)


def _stride(of, budget, n):
    """The least stride whose multiples take at most half of what is to be spent."""
    most = (budget + _pairs(of(None), n)) / 2
    too_small, fits = 0, n  # a stride of n has no multiples
    while fits - too_small > 1:
        middle = (too_small + fits) // 2
        if _pairs(of(strided(middle)), n) <= most:
            fits = middle
        else:
            too_small = middle
    return strided(fits)
