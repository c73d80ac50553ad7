"""Where the examples leave their figures."""

import sys
from pathlib import Path

import primeattn as pa

FIGURES = Path(__file__).parent.parent / "figures"


def save(figure, name):
    """Write ``figure`` to the path on the command line, by default to figures/NAME.png."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES / f"{name}.png"
    pa.plot.save(figure, path)
    print(path)
