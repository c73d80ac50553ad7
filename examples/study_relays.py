"""
Recall by relays
================

Recall of many pairs by distance: where one layer connects it, where relays do, and elsewhere.

``python examples/study_relays.py [OUTPUT]``
"""

from _save import save
from _study import report

import primeattn as pa

rows = [row for row in report("mqar")["places"] if row["pattern"] != "dense"]
most = max((row["length"], row["layers"]) for row in rows)
axes = pa.plot.recall([row for row in rows if (row["length"], row["layers"]) == most])
save(axes[0].figure, "study_relays")
