"""Data of files, read once for as long as the file stays as it is."""

from __future__ import annotations

import os
from functools import lru_cache, wraps

__all__ = ["kept_by_file"]


def kept_by_file(read):
    """Return ``read`` with what it gave of the last few files; one that has changed since is read again.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from primeattn.tasks.files import kept_by_file
    >>> size = kept_by_file(lambda path: len(Path(path).read_bytes()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a"
    ...     for content in (b"abc", b"abcde"):
    ...         _ = path.write_bytes(content)
    ...         print(size(str(path)))
    3
    5
    """
    kept = lru_cache(maxsize=4)(lambda path, state: read(path))

    @wraps(read)
    def of_file(path):
        return kept(path, None if path is None else _state(path))

    return of_file


def _state(path):
    """What changes with the file that a path means; None if there is none, of which the reader tells."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
