"""
Learning curves
===============

Training losses in the study of recall.

``python examples/study_curves.py [OUTPUT]``
"""

from _save import save
from _study import report

import primeattn as pa

axes = pa.plot.learning_curves(report("mqar")["curves"])
save(axes[0].figure, "study_curves")
