"""Where the examples leave their figures."""

import sys
from pathlib import Path

from matplotlib.figure import Figure, SubFigure

import primeattn as pa

FIGURES = Path(__file__).parent.parent / "figures"


def save(figure: Figure | SubFigure, name: str) -> None:
    """Write ``figure`` to the path on the command line, by default to figures/NAME.png."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES / f"{name}.png"
    pa.plot.save(figure, path)
    print(path)
