"""Files written whole or not at all, by any number of writers at once."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from primeattn.typing import FilePath

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None

__all__ = ["check_writable", "make_folder", "written_whole"]


@contextmanager
def written_whole(path: FilePath) -> AbstractContextManager[Any]:
    """Open a new binary file that takes the name ``path`` when the block ends, and vanishes if it raises.

    The bytes go to a temporary file in the same folder, are flushed to the disk, and replace ``path`` in one
    step, so a reader finds either the old file or the whole new one, and of several writers the last one
    wins. If ``path`` is a symbolic link, its target is replaced. Leftovers of killed writers of the same path
    are removed.

    Parameters
    ----------
    path : str or path-like
        The file to write.

    Yields
    ------
    binary file
        To write to.

    Raises
    ------
    ValueError
        ``path`` is a folder, a device or a pipe.

    See Also
    --------
    primeattn.checkpoint.save : Writes checkpoints so.

    Examples
    --------
    >>> import os, tempfile
    >>> from primeattn.files import written_whole
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_whole(f"{folder}/a") as file:
    ...         _ = file.write(b"text")
    ...         before = os.path.exists(f"{folder}/a")
    ...     print(before, os.listdir(folder))
    False ['a']
    """
    target = _target(path)
    _remove_leftovers(target)
    file, temporary = _open_locked(target)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl:
                os.replace(temporary, target)  # still locked: nobody takes it for a leftover
        if not fcntl:
            os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(folder: FilePath) -> None:
    """Raise OSError unless files, or ``folder`` itself, can be created there; leave nothing behind.

    Parameters
    ----------
    folder : str or path-like
        It need not exist.

    See Also
    --------
    written_whole : Writes a file there.

    Examples
    --------
    >>> import tempfile
    >>> from primeattn.files import check_writable
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     check_writable(f"{folder}/new")
    """
    tempfile.TemporaryFile(dir=_nearest(folder)).close()


def make_folder(out: FilePath) -> None:
    """Make a folder for results, and those above it, where they are not there yet.

    Parameters
    ----------
    out : str or path-like
        The folder.

    Raises
    ------
    ValueError
        If it, or one above it, is a file.
    OSError
        If nothing can be written there.

    See Also
    --------
    check_writable : Only looks.

    Examples
    --------
    >>> import os, tempfile
    >>> from primeattn.files import make_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     make_folder(f"{folder}/a/b")
    ...     os.listdir(f"{folder}/a")
    ['b']
    """
    existing = _nearest(out)
    if not existing.is_dir():
        raise ValueError(f"out: expected a folder, got the file {str(existing)!r}")
    check_writable(out)
    Path(out).mkdir(parents=True, exist_ok=True)


def _nearest(folder) -> Path:
    """The folder, or the first one above it that is there."""
    places = (Path(folder), *Path(folder).absolute().parents)
    return next(place for place in places if os.path.lexists(place))


def _target(path) -> Path:
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if target.exists() and not target.is_file():
        kind = "folder" if target.is_dir() else "device or pipe"
        raise ValueError(f"path: expected a file, got the {kind} {str(path)!r}")
    return target


def _open_locked(target):
    """Create a temporary file beside ``target``, locked for as long as its writer lives."""
    while True:
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        with suppress(FileExistsError):
            file = open(temporary, "xb")  # noqa: SIM115
            _lock(file)
            if os.fstat(file.fileno()).st_nlink:
                return file, temporary
            file.close()  # removed as a leftover before it was locked


def _remove_leftovers(target):
    """Remove temporary files of ``target`` that no living writer, on this machine or another, has locked."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    names = []
    with suppress(PermissionError):  # a folder that can be written but not read
        names = os.listdir(target.parent)
    for name in filter(leftover.fullmatch, names):
        with suppress(OSError), open(target.with_name(name), "r+b") as file:
            if _lock(file, wait=False):
                os.unlink(file.name)


def _lock(file, wait=True) -> bool:
    """Lock an open file; return False if another writer has locked it, or if there are no locks."""
    with suppress(OSError):
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return True
    return False
