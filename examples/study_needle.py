"""
A needle in a haystack
======================

Recall of one value by distance, over the distances that hops allow.

``python examples/study_needle.py [OUTPUT]``
"""

from _save import save
from _study import report

import primeattn as pa

axes = pa.plot.recall(report("needle")["places"])
save(axes[0].figure, "study_needle")
