"""Results in detail: by distance or position, where theory expects answers, and in the course of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.study.results import chosen
from primeattn.table import Table
from primeattn.tasks.task import within_hops

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["curves", "places", "reached"]


def places(records: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table with the metric in the test by distance or position, the mean over seeds.

    ``at``, ``score``, ``reached`` and ``connected`` are lists: where, the metric there, whether theory
    expects answers there, and whether the layers connect it, be it by relays (the last two are None without a
    theory, or by position). ``by`` is "distance" or "position". Where a name has other offsets for each seed,
    only the runs with those of the first count.

    Parameters
    ----------
    records : iterable of dict
        From ``run``.

    Returns
    -------
    Table
        These columns, beside those that say which: task, pattern, layers, length, metric.

    See Also
    --------
    reached : Means over what theory expects.
    primeattn.plot.by_position : A picture of it.

    Examples
    --------
    >>> from primeattn import study
    >>> study.places([])
    (no rows)
    """
    rows = []
    for group in chosen(records):
        first = group.runs[0]
        results = [
            result
            for run, result in zip(group.runs, group.results, strict=True)
            if run.stack == first.stack and result["error"] is None
        ]
        if results:
            at, asked, right = _pooled(results)
            reach = first.task.reach(first.stack) if results[0]["by"] == "distance" else None
            connected = within_hops(first.stack, first.task.length)
            rows.append(
                {
                    **group.names(),
                    "by": results[0]["by"],
                    "at": at.tolist(),
                    "score": (right / asked).round(4).tolist(),
                    "reached": None if reach is None else reach[at].tolist(),
                    "connected": None if reach is None else connected[at].tolist(),
                    "chance": float(first.task.chance),
                    "metric": first.task.metric,
                }
            )
    return Table(rows)


def _pooled(results):
    """Places, numbers of questions there, and sums of their metric, over all results."""
    at = np.concatenate([result["at"] for result in results]).astype(np.int64)
    asked = np.concatenate([result["asked"] for result in results])
    score = np.concatenate([result["score"] for result in results])
    there = np.flatnonzero(np.bincount(at))
    return there, np.bincount(at, asked)[there], np.bincount(at, asked * score)[there]


def reached(records: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of the metric where theory expects answers, and where it expects none.

    - expected: over all questions at distances where theory expects answers, in all seeds; lowest: at the
      distance where it is worst, in all seeds together,
    - relayed: over the questions whose answer the layers connect, but where theory expects none, as a relay
      cannot know what will be asked for,
    - others: over all that is not connected; they should come near chance.

    None where there are no such questions. Tasks without a theory by distance have no row.

    Parameters
    ----------
    records : iterable of dict
        From ``run``.

    Returns
    -------
    Table
        These columns, beside those that say which: task, pattern, layers, length, metric.

    See Also
    --------
    places : The numbers behind it.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> sizes = {"width": 16, "steps": 3, "batch": 4, "examples": 8}
    >>> task, patterns = pa.tasks.copy(16, distance=4), {"squares": pa.Pattern("squares")}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     records = pa.study.run(pa.study.grid([task], patterns, seeds=1, **sizes), out=out)
    >>> [row] = pa.study.reached(records)
    >>> row["expected"] == row["lowest"] == records[0]["result"]["test"], row["others"]
    (True, None)
    """
    rows = []
    for group in chosen(records):
        parts, columns = {"expected": [], "relayed": [], "others": []}, ("at", "asked", "score")
        for run, result in zip(group.runs, group.results, strict=True):
            reach = run.task.reach(run.stack) if result["by"] == "distance" else None
            if reach is not None:
                connected = within_hops(run.stack, run.task.length)
                masks = {"expected": reach, "relayed": connected & ~reach, "others": ~(connected | reach)}
                for name, mask in masks.items():
                    keep = mask[np.array(result["at"], np.int64)]
                    lists = {column: np.array(result[column])[keep] for column in columns}
                    parts[name] += [lists] if keep.any() else []
        if any(parts.values()):
            task = group.runs[0].task
            worst = min if task.metric == "accuracy" else max
            rows.append({**group.names(), **_split(parts, worst), "chance": float(task.chance)})
    return Table(rows)


def _split(parts, worst):
    """Mean metric of each part, and the lowest where answers are expected."""
    row = dict.fromkeys(("expected", "lowest", "relayed", "others"))
    for name, results in parts.items():
        if results:
            _, asked, right = _pooled(results)
            row[name] = float(right.sum() / asked.sum())
            if name == "expected":
                row["lowest"] = float(worst(right / asked))
    return row


def curves(records: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of learning curves: ``steps`` and ``losses`` (nats, the mean over seeds) are lists.

    Parameters
    ----------
    records : iterable of dict
        From ``run``.

    Returns
    -------
    Table
        These columns, beside those that say which: task, pattern, layers, length, metric.

    See Also
    --------
    primeattn.plot.learning_curves : A picture of it.

    Examples
    --------
    >>> from primeattn import study
    >>> study.curves([])
    (no rows)
    """
    rows = []
    for group in chosen(records):
        losses = [result["losses"] for result in group.results if result["error"] is None]
        if losses:
            steps = np.arange(group.runs[0].steps)
            ends = np.cumsum([len(part) for part in np.array_split(steps, len(losses[0]))])
            means = np.mean(losses, axis=0).round(4)
            rows.append({**group.names(), "steps": ends.tolist(), "losses": means.tolist()})
    return Table(rows)
