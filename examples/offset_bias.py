"""
Learned biases
==============

What a model learns about distances: a bias for each prime, on Python's own source code.

``python examples/offset_bias.py [OUTPUT]``

.. image:: ../../figures/offset_bias.png
   :alt: Learned bias of each prime distance
"""

# sphinx_gallery_thumbnail_path = "../figures/offset_bias.png"

from _save import save
from _trained import WIDTH, train

import primeattn as pa

attention = pa.PrimeSelfAttention(WIDTH, heads=4, offset_bias=100)
_, ps, _, _ = train(attention)
ax = pa.plot.offset_bias(attention, ps["attention"])
save(ax.figure, "offset_bias")
