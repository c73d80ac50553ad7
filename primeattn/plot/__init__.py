"""Pictures of patterns, their properties, and training. Functions draw on Axes and return them.

>>> import primeattn as pa
>>> ax = pa.plot.mask(pa.Pattern("primes", window=3), 64)
>>> pa.plot.save(ax.figure, "mask.png")  # doctest: +SKIP

They never show figures, and only ``save`` writes files. Without ``ax`` they draw on a new figure, unknown to
pyplot. ``patterns`` is one Pattern, a list of them, or a dict of labels to patterns.

``primeattn.analysis`` computes what is drawn; ``examples/`` holds a script for each picture.
"""

from primeattn.plot.attention import attention_map, heads
from primeattn.plot.ceiling import ceiling
from primeattn.plot.comb import hops
from primeattn.plot.costs import pairs
from primeattn.plot.curves import by_position, learning_curves
from primeattn.plot.files import save
from primeattn.plot.frontier import pareto
from primeattn.plot.learned import offset_bias
from primeattn.plot.masks import mask, masks
from primeattn.plot.paths import two_hop_paths
from primeattn.plot.periods import residues
from primeattn.plot.recall import recall
from primeattn.plot.receptive import reach
from primeattn.plot.scores import scores
from primeattn.plot.spectral import spectrum
from primeattn.plot.tiling import wheel
from primeattn.plot.training import loss_curve

__all__ = [
    "attention_map",
    "by_position",
    "ceiling",
    "heads",
    "hops",
    "learning_curves",
    "loss_curve",
    "mask",
    "masks",
    "offset_bias",
    "pairs",
    "pareto",
    "reach",
    "recall",
    "residues",
    "save",
    "scores",
    "spectrum",
    "two_hop_paths",
    "wheel",
]
