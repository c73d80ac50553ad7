"""
Eigenvalues
===========

How patterns mix: the primes, all odd but one, are nearly bipartite; as many random offsets are not.

``python examples/spectrum.py [OUTPUT]``

.. image:: ../../figures/spectrum.png
   :alt: Histogram of eigenvalues
"""

# sphinx_gallery_thumbnail_path = "../figures/spectrum.png"

from _save import save

import primeattn as pa

primes = pa.Pattern("primes", window=3)
control = pa.Pattern(pa.sequences.matched_random(pa.sequences.primes, seed=0), window=3)
window = pa.analysis.match_budget(pa.Pattern(None), primes.num_pairs(1024), 1024)
ax = pa.plot.spectrum({"primes": primes, "matched random": control, "window of equal cost": window}, 1024)
save(ax.figure, "spectrum")
