"""
Recall of many pairs
====================

Recall of many pairs against the one-hop ceiling.

``python examples/study_mqar.py [OUTPUT]``
"""

from _save import save
from _study import report

import primeattn as pa

found = report("mqar")
axes = pa.plot.ceiling(found["summary"], guess=found["protocol"]["guess"])
save(axes[0].figure, "study_mqar")
