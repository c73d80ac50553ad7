"""
Heads of one layer
==================

Where each head of a trained model looks: one each over primes, squares, Mian-Chowla and a window.

``python examples/heads.py [OUTPUT]``

.. image:: ../../figures/heads.png
   :alt: Attention probabilities of four heads
"""

# sphinx_gallery_thumbnail_path = "../figures/heads.png"

from _save import save
from _trained import PATTERNS, attention_maps

import primeattn as pa

axes = pa.plot.heads(attention_maps(), PATTERNS)
save(axes[0].figure, "heads")
