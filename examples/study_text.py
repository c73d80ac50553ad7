"""
Text
====

Bits per byte of patterns with equally many pairs.

``python examples/study_text.py [OUTPUT]``
"""

from _save import save
from _study import report

import primeattn as pa

axes = pa.plot.scores(report("text")["summary"])
save(axes[0].figure, "study_text")
