"""
The wheel
=========

What regrouping tokens by residue modulo 30 lets tiled hardware skip: no prime above 5 divides 30.

``python examples/wheel.py [OUTPUT]``
"""

from _save import save

import primeattn as pa

axes = pa.plot.wheel(pa.Pattern("primes", window=5), 960, wheel=30)
save(axes[0].figure, "wheel")
