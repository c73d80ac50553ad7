"""
Periods
=======

Which periods patterns see: images with rows of 28 pixels repeat at the multiples of 28, never a prime.

``python examples/residues.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

names = ("primes", "lucky", "squares", "triangular", "mian_chowla", "stanley", "ulam", "three_smooth")
ax = pa.plot.residues([pa.Pattern(name) for name in names], 4096)
save(ax.figure, "residues")
