"""
Twelve sequences
================

Twelve sequences as masks of 128 tokens.

``python examples/mask_gallery.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

names = (
    "primes",
    "twin_primes",
    "lucky",
    "semiprimes",
    "squares",
    "triangular",
    "fibonacci",
    "powers_of_two",
)
names += ("mian_chowla", "stanley", "moser_de_bruijn", "ulam")
axes = pa.plot.masks([pa.Pattern(name, window=3, global_tokens=2) for name in names], 128)
save(axes[0].figure, "mask_gallery")
