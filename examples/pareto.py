"""
Cost against layers
===================

What layers a budget of pairs buys: every sequence, and equally many random offsets at every scale.

``python examples/pareto.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

N = 4096
names = pa.sequences.names()
patterns = [pa.Pattern(name, window=3) for name in names]
random = [
    pa.Pattern(pa.sequences.matched_random(pa.sequences.get(name), seed), window=3)
    for name in ("primes", "squares", "mian_chowla", "stanley")
    for seed in range(5)
]
ax = pa.plot.pareto(patterns, N, controls=random)
save(ax.figure, "pareto")
