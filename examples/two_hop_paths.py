"""
Two-hop paths
=============

In how many ways two layers connect a distance: Goldbach's comet, and Mian-Chowla that wastes no path.

``python examples/two_hop_paths.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

ax = pa.plot.two_hop_paths([pa.Pattern(name) for name in ("primes", "squares", "mian_chowla")], 4096)
save(ax.figure, "two_hop_paths")
