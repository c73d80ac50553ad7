"""
Text by position
================

Bits per byte by position in the context, less those of a window.

``python examples/study_positions.py [OUTPUT]``
"""

from _save import save
from _study import report

import primeattn as pa

axes = pa.plot.by_position(report("text")["places"], against="window as primes")
save(axes[0].figure, "study_positions")
