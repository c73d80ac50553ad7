"""Which periods a pattern sees: a signal of period P repeats at the multiples of P."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int

if TYPE_CHECKING:
    from primeattn.patterns import Pattern

__all__ = ["residue_coverage"]


def residue_coverage(pattern: Pattern, n: int, largest: int = 64) -> np.ndarray:
    """Return the share of multiples of each period that are offsets,

        c[P] = #{ d in D : 0 < d < n, P divides d } / #{ d : 0 < d < n, P divides d },

    for P = 1, ..., ``largest``; c[1] is the share of all distances, to compare with; c[0] and periods without
    a multiple below n are NaN. Data of period P, such as an image with rows of P pixels, need a large c[P]:
    the primes have c[P] about 0 for every P > 1.

    Parameters
    ----------
    pattern : Pattern
        Its global tokens do not count.
    n : int
        Length of the sequence.
    largest : int
        The largest period.

    Returns
    -------
    float64 array, shape (largest + 1,)
        c, by period.

    See Also
    --------
    primeattn.plot.residues : A picture of it.
    wheel_fraction : What a wheel makes of such gaps.

    Examples
    --------
    >>> import primeattn as pa
    >>> squares = pa.Pattern("squares")  # of 10 squares, 5 are among the 25 multiples of 4
    >>> pa.analysis.residue_coverage(squares, 101, largest=4)[1:].round(2)
    array([0.1 , 0.1 , 0.09, 0.2 ])
    """
    n, largest = as_int("n", n, minimum=0), as_int("largest", largest, minimum=1)
    is_offset = np.zeros(max(n, 1), bool)
    is_offset[as_pattern(pattern).offsets(n)] = True
    coverage = np.full(largest + 1, np.nan)
    for period in range(1, min(largest, n - 1) + 1):
        coverage[period] = is_offset[period::period].mean()
    return coverage
