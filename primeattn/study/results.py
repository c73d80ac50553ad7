"""Results over seeds, at the learning rate that validation prefers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.study.runs import check
from primeattn.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["summary"]


def summary(records: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of the records of ``run``, with a row for each task, pattern and number of layers:

    - pairs: (query, key) pairs of all layers together,
    - lr: the learning rate with the best mean metric in validation, over all seeds; rates at which a run
      failed come last,
    - n, mean, std: number of seeds at that rate, mean and standard deviation of the metric in the test; None
      if there is nothing to take it of,
    - predicted: share of the questions that theory expects to be answered; chance: the metric of guesses.

    Runs that differ in sizes have rows of their own.

    Parameters
    ----------
    records : iterable of dict
        From ``run``.

    Returns
    -------
    Table
        Of the columns above.

    See Also
    --------
    run : Makes the records.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> patterns = {"squares": pa.Pattern("squares")}
    >>> sizes = {"width": 16, "steps": 3, "batch": 4, "examples": 8}
    >>> runs = pa.study.grid([pa.tasks.copy(16, distance=4)], patterns, lrs=(1e-3, 1e-2), seeds=2, **sizes)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     table = pa.study.summary(pa.study.run(runs, out=out))
    >>> [(row["task"], row["pattern"], row["pairs"], row["n"], row["predicted"]) for row in table]
    [('copy(16, 4)', 'squares', 50, 2, 1.0)]
    """
    groups = {}
    for record in records:
        run = record["run"]
        same = {name: value for name, value in run.items() if name not in ("lr", "seed")}
        by_rate = groups.setdefault(repr(sorted(same.items())), (run, {}))[1]
        by_rate.setdefault(run["lr"], []).append(record["result"])
    return Table(_row(check(run), by_rate) for run, by_rate in groups.values())


def _row(run, by_rate):
    better = 1 if run.task.metric == "accuracy" else -1
    lr = max(by_rate, key=lambda rate: _preference(by_rate[rate], better))
    test = [result["test"] for result in by_rate[lr] if result["error"] is None]
    heads = [layer if isinstance(layer, list) else [layer] * run.heads for layer in run.stack]
    pairs = sum(np.mean([head.num_pairs(run.task.length) for head in layer]) for layer in heads)
    return {
        "task": repr(run.task),
        "pattern": run.pattern,
        "layers": len(run.stack),
        "pairs": round(float(pairs)),
        "lr": lr,
        "n": len(test),
        "mean": float(np.mean(test)) if test else None,
        "std": float(np.std(test, ddof=1)) if len(test) > 1 else None,
        "predicted": run.task.predict(run.stack),
        "chance": float(run.task.chance),
        "metric": run.task.metric,
    }


def _preference(results, better):
    values = [result["validation"] for result in results if result["error"] is None]
    return (-np.inf if len(values) < len(results) else better * float(np.mean(values))), len(values)
