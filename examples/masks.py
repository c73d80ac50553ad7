"""
Three sequences
===============

Who sees whom under the three sequences that have a layer of their own.

``python examples/masks.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

names = ("primes", "squares", "mian_chowla")
axes = pa.plot.masks([pa.Pattern(name, window=3, global_tokens=2) for name in names], 64)
save(axes[0].figure, "masks")
