"""
Layers for each distance
========================

Which distances take how many layers: the comb of the primes, the 4^a (8b + 7) of the squares.

``python examples/hops.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

names = ("primes", "prime_powers", "squares", "mian_chowla", "triangular", "stanley")
ax = pa.plot.hops([pa.Pattern(name, window=1) for name in names], 256)
save(ax.figure, "hops")
