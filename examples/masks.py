"""Draws figures/masks.png: who sees whom under the three sequences that have a layer of their own."""

from pathlib import Path

from matplotlib.figure import Figure

import primeattn as pa

figure = Figure(figsize=(11, 4.2), layout="constrained")
for ax, name in zip(figure.subplots(1, 3), ("primes", "squares", "mian_chowla"), strict=True):
    pa.plot.mask(pa.Pattern(name, window=3, global_tokens=2), 64, ax=ax)
path = Path(__file__).parent.parent / "figures" / "masks.png"
figure.savefig(path, dpi=110)
print(path)
