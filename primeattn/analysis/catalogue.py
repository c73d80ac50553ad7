"""The table of all named sequences."""

from __future__ import annotations

from primeattn import sequences
from primeattn.checks import as_int
from primeattn.table import Table

__all__ = ["catalogue"]

_FAR = 2**20  # a sequence may be finite


def catalogue(terms: int = 8) -> Table:
    """Return a table of all sequences that have a name: their OEIS id, first terms, and why to try each.

    Families, whose members have parameters, are listed by ``sequences.families()``.

    Parameters
    ----------
    terms : int
        How many terms to show.

    Returns
    -------
    Table
        A row for each sequence, with the columns name, oeis, first (terms) and why.

    See Also
    --------
    primeattn.sequences.names : The names alone.

    Examples
    --------
    >>> import primeattn as pa
    >>> table = pa.analysis.catalogue(terms=5)
    >>> [row for row in table if row["name"] == "mian_chowla"][0]["first"]
    [1, 2, 4, 8, 13]
    """
    terms = as_int("terms", terms, minimum=1)
    return Table(_row(name, terms) for name in sequences.names())


def _row(name, terms):
    sequence, limit = sequences.get(name), 1
    while sequence.count(limit) < terms and limit < _FAR:
        limit *= 2
    return {
        "name": name,
        "oeis": sequence.oeis,
        "first": sequence(limit)[:terms].tolist(),
        "why": sequence.why,
    }
