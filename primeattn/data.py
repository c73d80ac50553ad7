"""Text as bytes: the default corpus, its split into training and held-out parts, and training batches."""

from __future__ import annotations

import hashlib
import os
import platform
import sysconfig
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from primeattn.checks import as_int

if TYPE_CHECKING:
    from primeattn.typing import Array, FilePath

__all__ = [
    "HELDOUT_BYTES",
    "Batches",
    "Corpus",
    "evaluation_windows",
    "load_corpus",
    "stdlib_corpus",
    "text_corpus",
]

HELDOUT_BYTES = 128 * 1024

# Left out of the standard library corpus: tests, tables of numbers, generated text, and other packages.
_EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text, split into training bytes and held-out bytes.

    Parameters
    ----------
    name : str
        Where the text came from.
    train, heldout : ndarray of uint8
        The two parts. Nothing of ``heldout`` is in ``train`` (for a corpus of files: no file is in both).

    See Also
    --------
    load_corpus : Reads one.

    Examples
    --------
    >>> import primeattn as pa
    >>> corpus = pa.data.load_corpus()
    >>> corpus.train.dtype, corpus.heldout.size
    (dtype('uint8'), 131072)
    """

    name: str
    train: np.ndarray = field(repr=False)
    heldout: np.ndarray = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        """Digest of ``train`` followed by ``heldout``."""
        digest = hashlib.sha256(self.train)
        digest.update(self.heldout)
        return digest.hexdigest()


def load_corpus(text: FilePath | None = None) -> Corpus:
    """Return the corpus of the file ``text``, or of the Python standard library when ``text`` is None.

    Parameters
    ----------
    text : str or path-like, optional
        The file, read as bytes.

    Returns
    -------
    Corpus
        Training and held-out bytes.

    See Also
    --------
    text_corpus : Of a file.
    stdlib_corpus : Of the standard library.
    Batches : Cuts it into windows.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.data.load_corpus().name.endswith("standard library")
    True
    """
    return stdlib_corpus() if text is None else text_corpus(text)


def text_corpus(path: FilePath) -> Corpus:
    """Split one file: its last 128 KiB are held out, or its last tenth if that is less.

    Parameters
    ----------
    path : str or path-like
        The file, read as bytes.

    Returns
    -------
    Corpus
        Training and held-out bytes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is empty, or too short (under 10 bytes) to hold anything out.

    See Also
    --------
    load_corpus : A file or the standard library.

    Examples
    --------
    >>> import primeattn as pa
    >>> corpus = pa.data.text_corpus(pa.data.__file__)
    >>> corpus.name, corpus.heldout.size < corpus.train.size / 8
    ('data.py', True)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"text: expected a file, found none at {str(path)!r}")
    content = path.read_bytes()
    if len(content) < 10:
        size = "an empty file" if not content else f"{len(content)} bytes"
        raise ValueError(f"text: expected at least 10 bytes in {str(path)!r}, got {size}")
    held = min(HELDOUT_BYTES, len(content) // 10)
    return Corpus(path.name, _bytes(content[:-held]), _bytes(content[-held:]))


def stdlib_corpus(root: FilePath | None = None) -> Corpus:
    """Split the Python standard library's own ``.py`` files by file.

    Tests, ``encodings/``, ``pydoc_data/`` and installed packages are left out, and of files with equal
    content only the first is kept. Files are held out in the order of the SHA-256 of their path (relative
    to ``root``, with ``/``) until they fill 128 KiB, or a tenth of the text if that is less; the last of
    them is cut there, and its rest is not used. All others, sorted by path, are for training. Nothing
    depends on the order in which the file system lists files.

    Parameters
    ----------
    root : str or path-like, optional
        Another folder of ``.py`` files; default the running interpreter's standard library.

    Returns
    -------
    Corpus
        Training and held-out bytes.

    Raises
    ------
    ValueError
        If there are fewer than two different files.

    See Also
    --------
    load_corpus : A file or the standard library.

    Examples
    --------
    >>> import primeattn as pa
    >>> corpus = pa.data.stdlib_corpus()
    >>> corpus.heldout.size, corpus.train.size > 5_000_000
    (131072, True)
    """
    name = f"Python {platform.python_version()} standard library" if root is None else str(root)
    root = Path(sysconfig.get_paths()["stdlib"] if root is None else root)
    files = _unique_sources(root)
    if len(files) < 2:
        raise ValueError(
            f"root: expected at least two different .py files under {str(root)!r}, got {len(files)}"
        )
    room = min(HELDOUT_BYTES, sum(map(len, files.values())) // 10)
    held, size = [], 0
    for path in sorted(files, key=lambda path: hashlib.sha256(path.encode()).digest())[:-1]:
        if size >= room:
            break
        held.append(path)
        size += len(files[path])
    heldout = b"".join(files.pop(path) for path in held)[:room]
    return Corpus(name, _bytes(b"".join(files[path] for path in sorted(files))), _bytes(heldout))


def _unique_sources(root: Path) -> dict[str, bytes]:
    """Return relative path -> content of the non-empty ``.py`` files under ``root``, each content once."""
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _EXCLUDED_FOLDERS]
        paths += [
            (Path(folder) / name).relative_to(root).as_posix() for name in names if name.endswith(".py")
        ]
    first_of = {b"": ""}  # content -> path; empty files count as duplicates of this
    for path in sorted(paths):
        first_of.setdefault((root / path).read_bytes(), path)
    return {path: content for content, path in first_of.items() if content}


def _bytes(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


class Batches:
    """Endless training batches: windows of a text in shuffled order, each once per epoch.

    An epoch cuts the text, from a random start, into windows of ``context`` bytes and shuffles them with
    ``np.random.default_rng([seed, epoch])``. A batch is a function of the text, the sizes, the seed and
    ``position`` alone, so setting ``position`` resumes a run exactly.

    Parameters
    ----------
    text : ndarray of uint8, shape (size,)
        At least ``context + 1`` bytes.
    batch, context : int
        Windows in a batch, bytes in a window.
    seed : int
        Of the shuffles.

    Attributes
    ----------
    position : int
        Number of windows returned so far; may be set.

    See Also
    --------
    evaluation_windows : Windows that score every byte once.
    load_corpus : A text to cut.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> batches = pa.data.Batches(np.arange(100, dtype=np.uint8), batch=2, context=5, seed=0)
    >>> tokens, targets = next(batches)
    >>> tokens.shape, bool(np.all(targets == tokens + 1)), batches.position
    ((2, 5), True, 2)
    """

    def __init__(self, text: Array, batch: int, context: int, seed: int) -> None:
        text = np.asarray(text)
        if text.dtype != np.uint8 or text.ndim != 1:
            raise TypeError(
                f"text: expected a uint8 array of one axis, got {text.dtype} with shape {text.shape}"
            )
        self.text, self.batch, self.context = (
            text,
            as_int("batch", batch, minimum=1),
            as_int("context", context, minimum=1),
        )
        self.seed, self.position = seed, 0
        if text.size <= self.context:
            raise ValueError(
                f"text: expected more than context = {self.context} bytes for training, got {text.size}; "
                "take a longer text or a shorter context"
            )
        # If there are several windows, one is given up, so that an epoch can start anywhere in it.
        self._windows = max(1, (text.size - 1) // self.context - 1)
        self._shuffled = None, None  # an epoch, and where its windows start

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> tuple[Array, Array]:
        """Return ``tokens`` and ``targets``, uint8 of shape (batch, context); targets are one byte ahead."""
        starts = np.array([self._start(self.position + i) for i in range(self.batch)])
        self.position += self.batch
        windows = self.text[starts[:, None] + np.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def _start(self, position):
        epoch, place = divmod(position, self._windows)
        if epoch != self._shuffled[0]:
            rng = np.random.default_rng([self.seed, epoch])
            first = rng.integers(self.text.size - self._windows * self.context)
            self._shuffled = epoch, first + self.context * rng.permutation(self._windows)
        return self._shuffled[1][place]


def evaluation_windows(text: Array, context: int) -> tuple[Array, Array, Array]:
    """Cut a text into overlapping windows such that every byte is scored exactly once.

    Windows advance by half a context, and only targets that no earlier window had are scored, so that every
    byte beyond the first window has at least ``context // 2`` bytes before it. The text is taken
    to follow a newline: the first byte is predicted from that newline, and is scored like every other.

    Parameters
    ----------
    text : ndarray of uint8, shape (size,), not empty
        The bytes to score.
    context : int
        Bytes in a window.

    Returns
    -------
    tokens, targets : ndarray of uint8, shape (windows, min(context, size))
        Bytes, and those one ahead.
    scored : ndarray of bool, same shape
        Which targets to score; ``targets[scored]`` is the text.

    Raises
    ------
    ValueError
        If ``text`` is empty.

    See Also
    --------
    primeattn.language_model.evaluate : Scores them.
    Batches : Windows for training.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> tokens, targets, scored = pa.data.evaluation_windows(np.frombuffer(b"abcdefg", np.uint8), context=4)
    >>> [bytes(row) for row in tokens]
    [b'\\nabc', b'bcde', b'cdef']
    >>> [bytes(row[mask]) for row, mask in zip(targets, scored)]
    [b'abcd', b'ef', b'g']
    """
    context, size = as_int("context", context, minimum=1), text.size
    if size == 0:
        raise ValueError("text: expected at least one byte to score, got none")
    length, stride = min(context, size), max(1, context // 2)
    starts = [*range(0, size - length, stride), size - length]  # the last window ends with the text
    positions = np.array(starts)[:, None] + np.arange(length)
    ends = np.array([0, *(start + length for start in starts[:-1])])  # earlier targets are scored already
    tokens = np.concatenate([np.array([ord("\n")], np.uint8), text[:-1]])
    return tokens[positions], text[positions], positions >= ends[:, None]
