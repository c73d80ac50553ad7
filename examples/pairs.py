"""
Pairs against length
====================

What patterns cost as sequences grow, with the laws that their counting functions predict.

``python examples/pairs.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

names = ("primes", "triangular", "squares", "mian_chowla", "fibonacci")
ax = pa.plot.pairs([pa.Pattern(name, window=3) for name in names])
save(ax.figure, "pairs")
