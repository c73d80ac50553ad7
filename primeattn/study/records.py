"""The file of finished runs: lines are added, never changed, and each is there whole or not at all."""

from __future__ import annotations

import json
import math
import os

from primeattn.checks import is_real

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["Records", "check_result"]

_LISTS = ("losses", "at", "asked", "score")
_RESULT = {"validation", "test", "by", "error", *_LISTS}


def check_result(result):
    """Raise ValueError unless this is a result as from ``train``.

    Examples
    --------
    >>> from primeattn.study.records import check_result
    >>> check_result({"test": 0.5})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: expected a result with asked, at, by, error, losses, score, test, validation, got {...}
    """
    if not isinstance(result, dict) or result.keys() != _RESULT:
        raise ValueError(f"expected a result with {', '.join(sorted(_RESULT))}, got {str(result)[:60]}")
    if result["error"] is None:
        numbers = {name: [result[name]] for name in ("validation", "test")}
        numbers |= {name: result[name] for name in _LISTS}
        for name, values in numbers.items():
            if not isinstance(values, list) or not values or not all(map(_is_finite, values)):
                raise ValueError(f"expected finite numbers for {name!r}, got {str(result[name])[:60]}")
        if not len(result["at"]) == len(result["asked"]) == len(result["score"]):
            raise ValueError("expected 'at', 'asked' and 'score' of one length")


def _is_finite(value):
    return is_real(value) and math.isfinite(value)


class Records:
    """Lines of JSON in a file, each on the disk before the next is written.

    What a killed writer left of a line is cut off. RuntimeError if another process has the file open so.

    Parameters
    ----------
    path : Path

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from primeattn.study.records import Records
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Records(Path(folder) / "a.jsonl") as records:
    ...         records.append({"key": 1})
    ...     with Records(Path(folder) / "a.jsonl") as records:
    ...         records.found
    [{'key': 1}]
    """

    def __init__(self, path):
        self._file = open(path, "a+b")  # noqa: SIM115
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.found = self._read(path)
        except BlockingIOError:
            self._file.close()
            raise RuntimeError(f"out: another study is writing to {str(path)!r}") from None
        except BaseException:
            self._file.close()
            raise

    def _read(self, path):
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        found = []
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                found.append(json.loads(line))
            except (ValueError, RecursionError):
                raise ValueError(f"out: line {number} of {str(path)!r} is no JSON: {line[:60]!r}") from None
        if whole < len(content):
            self._file.truncate(whole)
        return found

    def append(self, record):
        """Add a line; it is on the disk when this returns."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()
