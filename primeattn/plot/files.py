"""Pictures as files."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primeattn.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure, SubFigure

    from primeattn.typing import FilePath

__all__ = ["new_figure", "save", "try_save"]

DPI = 130


def save(figure: Figure | SubFigure, path: FilePath) -> None:
    """Write a figure to ``path``, the whole file or nothing, in the format that its suffix names.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Such as ``ax.figure``.
    path : path
        Such as "mask.png", "mask.pdf" or "mask.svg". Its folder is created if needed.

    Raises
    ------
    TypeError
        If ``figure`` is something else, such as its Axes.
    ValueError
        If the suffix names no format, or ``path`` is a folder.

    See Also
    --------
    mask : A picture to save.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> ax = pa.plot.mask(pa.Pattern("primes", window=3), 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pa.plot.save(ax.figure, f"{folder}/mask.svg")
    """
    if not hasattr(figure, "savefig"):
        raise TypeError(f"figure: expected a Figure, such as ax.figure, got {type(figure).__name__}")
    path = Path(path)
    check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=DPI, bbox_inches="tight")


def try_save(draw: Callable[[], Figure], path: FilePath) -> bool:
    """Save the figure that ``draw()`` returns; if that fails, warn and return False.

    For pictures after long work: a font, a style or a backend must not cost the results.

    Examples
    --------
    >>> import warnings
    >>> from primeattn.plot.files import try_save
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     try_save(lambda: 1 / 0, "loss.png")
    False
    >>> print(caught[0].message)
    loss.png was not drawn: division by zero
    """
    try:
        save(draw(), path)
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(f"{path} was not drawn: {message}", stacklevel=2)
        return False
    return True


def new_figure(**options: Any) -> Figure:
    """Return ``matplotlib.figure.Figure(**options)``, which belongs to no window and needs no backend.

    Examples
    --------
    >>> from primeattn.plot.files import new_figure
    >>> len(new_figure(figsize=(4, 3)).axes)
    0
    """
    if "matplotlib" not in sys.modules:
        _import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(**options)


def _import_matplotlib():
    """Import Matplotlib even if MPLBACKEND names a backend that is not installed.

    Processes started from a notebook inherit its backend.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


def check_path(path):
    """Raise ValueError unless ``save`` can write ``path``: before the work, rather than after."""
    if path.is_dir():
        raise ValueError(f"path: expected a file, got the folder {str(path)!r}")
    known = new_figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"path: expected a file name that ends in .{', .'.join(known)}, got {str(path)!r}")
