"""
Reach at equal cost
===================

How far layers see at equal cost: windows widened until each pattern costs what the squares cost.

``python examples/reach.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

N = 4097
squares = pa.Pattern("squares", window=3)
budget = squares.num_pairs(N)
others = (
    pa.sequences.matched_random(pa.sequences.squares, seed=0),
    "mian_chowla",
    "fibonacci",
    "powers_of_two",
    None,
)
patterns = [pa.analysis.match_budget(pa.Pattern(sequence), budget, N, within=0.05) for sequence in others]
ax = pa.plot.reach([squares, *patterns], N)
save(ax.figure, "reach")
