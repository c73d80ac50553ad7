"""
Recall by relays
================

Recall of many pairs by distance: where one layer connects it, where relays do, and elsewhere.

``python examples/study_relays.py [OUTPUT]``
"""

import matplotlib.pyplot as plt
from _save import save
from _study import report

import primeattn as pa

rows = [row for row in report("mqar")["places"] if row["pattern"] != "dense"]
most = max((row["length"], row["layers"]) for row in rows)
rows = [row for row in rows if (row["length"], row["layers"]) == most]

figure, grid = plt.subplots(4, 2, figsize=(9, 6.5), sharex=True, sharey=True, layout="constrained")
axes = pa.plot.recall(rows, axes=grid.flat[: len(rows)])
for ax in axes:
    ax.label_outer()
for ax in grid.flat[len(rows) :]:
    ax.axis("off")
axes[-2].tick_params(labelbottom=True)  # below it is the legend
grid.flat[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", frameon=False, markerscale=2)
save(figure, "study_relays")
