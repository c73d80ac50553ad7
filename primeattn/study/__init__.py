"""Many training runs, compared: which pattern learns what, at which cost, over how many seeds.

A study is a list of runs, and a run is plain data: a task, a pattern for each layer, a learning rate, a seed
and sizes. ``grid`` makes such lists; ``run`` trains what has not been trained yet, and ``summary`` takes the
best learning rate by validation and gives means and intervals over seeds on test data. ``protocol`` holds
the studies of ``primeattn study``, and ``report`` writes them up.

>>> import tempfile, primeattn as pa
>>> patterns = {"primes": pa.Pattern("primes", window=3), "window": pa.Pattern(None, window=3)}
>>> task = pa.tasks.copy(length=16, distance=7, symbols=4)
>>> runs = pa.study.grid([task], patterns, seeds=2, steps=20, width=16, examples=64)
>>> with tempfile.TemporaryDirectory() as out:
...     records = pa.study.run(runs, out=out)
>>> for row in pa.study.summary(records):
...     print(row["pattern"], row["pairs"], row["n"], row["predicted"], row["chance"])
primes 86 2 1.0 0.25
window 58 2 0.0 0.25
"""

from primeattn.study.naming import named
from primeattn.study.places import curves, places, reached
from primeattn.study.protocols import protocol, protocol_runs
from primeattn.study.report import report
from primeattn.study.results import differences, summary
from primeattn.study.running import run
from primeattn.study.runs import check, grid, key
from primeattn.study.training import train

__all__ = [
    "check",
    "curves",
    "differences",
    "grid",
    "key",
    "named",
    "places",
    "protocol",
    "protocol_runs",
    "reached",
    "report",
    "run",
    "summary",
    "train",
]
