"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

from primeattn.checkpoint import written_whole

__all__ = ["save"]

DPI = 130


def save(figure, path):
    """Write a figure to ``path``, the whole file or nothing, in the format that its suffix names.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        Such as "mask.png", "mask.pdf" or "mask.svg". Its folder is made if need be.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> ax = pa.plot.mask(pa.Pattern("primes", window=3), 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pa.plot.save(ax.figure, f"{folder}/mask.svg")
    """
    path = Path(path)
    check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=DPI, bbox_inches="tight")


def check_path(path):
    """Raise ValueError unless ``path`` is one that ``save`` can write: before the work, rather than after."""
    from matplotlib.figure import Figure

    if path.is_dir():
        raise ValueError(f"path: expected a file, got the folder {str(path)!r}")
    known = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(f"path: expected a file name that ends in .{', .'.join(known)}, got {str(path)!r}")
