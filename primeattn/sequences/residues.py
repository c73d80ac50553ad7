"""Periodic sets: chosen residues of a modulus."""

from __future__ import annotations

import numpy as np

from primeattn.sequences.registry import register
from primeattn.sequences.sieves import as_prime

__all__ = ["quadratic_residues"]


_LARGEST = 2**24  # limit, since a table marks the squares among the residues


def _modulus(q):
    q = as_prime("q", q)
    if q == 2:
        raise ValueError("q: expected an odd prime, got 2")
    if q > _LARGEST:
        raise ValueError(f"q: expected an odd prime up to {_LARGEST}, got {q}")
    return (q,)


@register(
    "quadratic_residues",
    title="Quadratic residues mod {}",
    oeis=None,
    count=lambda x, q: x * (q - 1) / (2 * q),
    asymptotic="x / 2",
    why="the Paley graph's offsets, as good an expander as a random graph of half of all pairs; thin it",
    params=_modulus,
    needs=lambda stop: 0,
)
def quadratic_residues(known, start, stop, q):
    """The numbers s with s ≡ x² for some x ≢ 0 (mod q), ``q`` an odd prime.

    Parameters
    ----------
    q : int
        An odd prime.

    Returns
    -------
    Sequence
        Named by its parameter.

    See Also
    --------
    complement : The other numbers.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.sequences.quadratic_residues(7)(16)
    array([ 1,  2,  4,  8,  9, 11, 15, 16])
    """
    is_residue = np.zeros(q, bool)
    is_residue[np.arange(1, q) ** 2 % q] = True
    numbers = np.arange(start + 1, stop + 1)
    return numbers[is_residue[numbers % q]]
