"""A table of results: a list of dictionaries that prints itself."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

import numpy as np

__all__ = ["Table"]


class Table(list):
    """A list of rows, each a dict with the same keys; ``str(table)`` is text in columns.

    Rows hold Python numbers, strings and lists of them only, so ``json.dumps(table)`` works.

    Parameters
    ----------
    iterable : iterable of dict
        The rows.

    See Also
    --------
    primeattn.analysis.compare : A table of patterns.

    Examples
    --------
    >>> import primeattn as pa
    >>> table = pa.analysis.Table([{"pattern": "primes", "pairs": 1250000, "share": 0.7490234},
    ...                            {"pattern": "none", "pairs": 3, "share": None}])
    >>> print(table)
    pattern    pairs   share
    primes   1250000  0.7490
    none           3       -
    >>> table.column("pairs")
    array([1250000,       3])
    """

    def column(self, name: str) -> np.ndarray:
        """Return the values under ``name``; None becomes NaN among numbers."""
        values = [row[name] for row in self]
        if any(isinstance(value, float) for value in values):
            values = [np.nan if value is None else value for value in values]
        return np.array(values)

    def csv(self) -> str:
        """Return the table as comma-separated values: a line of names, then the rows; nothing for None.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.analysis.Table([{"pattern": "a, b", "share": 0.1}, {"pattern": "c", "share": None}]).csv()
        'pattern,share\\n"a, b",0.1\\nc,\\n'
        """
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self[0]) if self else [], lineterminator="\n")
        if self:
            writer.writeheader()
        writer.writerows(self)
        return text.getvalue()

    def markdown(self, names: Iterable[str] | None = None) -> str:
        """Return the table in Markdown, with the columns ``names``, by default all.

        Examples
        --------
        >>> import primeattn as pa
        >>> print(pa.analysis.Table([{"pattern": "a | b", "share": 0.12345}]).markdown())
        | pattern | share |
        |---|---|
        | a \\| b | 0.1235 |
        """
        names = list(self[0] if self else []) if names is None else list(names)
        cells = [names, *([_text(row[name]).replace("|", "\\|") for name in names] for row in self)]
        header, *lines = (f"| {' | '.join(line)} |" for line in cells)
        return "\n".join([header, f"|{'---|' * len(names)}", *lines])

    def __str__(self) -> str:
        if not self:
            return "(no rows)"
        names = list(self[0])
        columns = [[name, *(_text(row[name]) for row in self)] for name in names]
        is_text = [any(isinstance(row[name], (str, list)) for row in self) for name in names]
        aligned = []
        for cells, left in zip(columns, is_text, strict=True):
            width = max(map(len, cells))
            aligned.append([cell.ljust(width) if left else cell.rjust(width) for cell in cells])
        return "\n".join("  ".join(line).rstrip() for line in zip(*aligned, strict=True))

    __repr__ = __str__


def _text(value):
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"
