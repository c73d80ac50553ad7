"""What regrouping tokens by residue modulo 6 lets tiled hardware skip: no prime above 3 divides 6.

python examples/wheel.py [OUTPUT]
"""

from _save import save

import primeattn as pa

axes = pa.plot.wheel(pa.Pattern("primes", window=3), 384, wheel=6)
save(axes[0].figure, __file__)
