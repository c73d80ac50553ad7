"""
100,000 tokens
==============

Masks of 100,000 tokens as densities, from the offsets alone: as arrays they would take 10 GB each.

``python examples/large_masks.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

names = ("primes", "squares", "mian_chowla")
axes = pa.plot.masks([pa.Pattern(name, window=3, global_tokens=2) for name in names], 100_000)
save(axes[0].figure, "large_masks")
