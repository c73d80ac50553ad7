"""
Attention within its mask
=========================

Where the head over the primes looks in a trained model, within its mask.

``python examples/attention_map.py [OUTPUT]``

.. image:: ../../figures/attention_map.png
   :alt: Attention probabilities over the mask of the primes
"""

# sphinx_gallery_thumbnail_path = "../figures/attention_map.png"

from _save import save
from _trained import PATTERNS, attention_maps

import primeattn as pa

ax = pa.plot.attention_map(attention_maps()[0], PATTERNS[0])
save(ax.figure, "attention_map")
