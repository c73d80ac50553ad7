"""Results over seeds, at the learning rate that validation prefers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from primeattn.study.runs import Run, check
from primeattn.study.statistics import interval, verdict
from primeattn.table import Table
from primeattn.tasks.task import sampled_share, within_hops

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Group", "chosen", "differences", "summary"]


class Group(NamedTuple):
    """Runs that differ in the seed alone: what ``chosen`` returns.

    Examples
    --------
    >>> from primeattn.study.results import Group
    >>> Group._fields
    ('runs', 'results', 'lr')
    """

    runs: list[Run]
    results: list[dict]  # of these
    lr: float

    def names(self) -> dict:
        """The columns by which tables name the group."""
        run = self.runs[0]
        return {
            "task": repr(run.task),
            "pattern": run.pattern,
            "layers": len(run.stack),
            "length": run.task.length,
        }

    def tests(self) -> dict:
        """Metric in the test by seed, of the runs that did not fail."""
        pairs = zip(self.runs, self.results, strict=True)
        return {run.seed: result["test"] for run, result in pairs if result["error"] is None}


def chosen(records: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Return the runs at the learning rate that validation prefers, for each task, name and number of layers.

    Patterns of one name may differ from seed to seed, as those do that are drawn at random. If they differ at
    equal seeds, they are groups of their own.

    Examples
    --------
    >>> from primeattn.study.results import chosen
    >>> chosen([])
    []
    """
    groups = {}
    for record in records:
        if not isinstance(record, dict) or not {"run", "result"} <= record.keys():
            raise TypeError(f"records: expected what run returns, got {str(record)[:60]}")
        run, result = record["run"], record["result"]
        if not isinstance(result, dict) or not {"validation", "test", "error"} <= result.keys():
            raise ValueError(f"records: expected results as from train, got {str(result)[:60]}")
        made = check(run)
        same = {name: value for name, value in run.items() if name not in ("lr", "seed", "stack")}
        by_stack = groups.setdefault(repr([sorted(same.items()), len(run["stack"])]), {})
        by_stack.setdefault(repr(run["stack"]), {})[made.lr, made.seed] = made, result
    found = []
    for by_stack in groups.values():
        together = {}
        for by_run in by_stack.values():
            together |= by_run
        apart = len(together) < sum(map(len, by_stack.values()))
        found += map(_best, by_stack.values() if apart else [together])
    return found


def _best(by_run):
    """The group of the best learning rate, of runs and results by learning rate and seed."""
    by_rate = {}
    for (lr, _), (run, result) in by_run.items():
        runs, results = by_rate.setdefault(lr, ([], []))
        runs.append(run)
        results.append(result)
    better = 1 if runs[0].task.metric == "accuracy" else -1
    lr = max(sorted(by_rate), key=lambda rate: _preference(by_rate[rate][1], better))  # of equals the lowest
    return Group(*by_rate[lr], lr)


def summary(records: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of the records of ``run``, with a row for each task, pattern and number of layers:

    - pairs: (query, key) pairs of all layers together,
    - lr: the learning rate with the best mean metric in validation, over all seeds, the lowest of equals;
      rates at which a run failed come last,
    - n, mean, std, low, high: number of seeds at that rate, mean and standard deviation of the metric in the
      test, and the 95 % interval of the mean (Student's t); None if there is nothing to take it of. Seeds
      differ in the model and the batches; all runs of a task are tested on the same sequences, so that the
      interval does not tell how much these matter,
    - predicted: share of the questions that theory expects to be answered; connected: share of those whose
      answer the layers connect, be it by relays, which no model can exceed but by guesses,
    - chance: the metric of guesses.

    Runs that differ in sizes have rows of their own. Where a name has other offsets for each seed, pairs,
    predicted and connected are means.

    Parameters
    ----------
    records : iterable of dict
        From ``run``.

    Returns
    -------
    Table
        These columns, beside those that say which: task, layers, length, patterns, metric.

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
    return Table(_row(group) for group in chosen(records))


def _row(group):
    run = group.runs[0]
    shares = [(one.task.predict(one.stack), _connected(one)) for one in group.runs]
    predicted, connected = (
        None if None in column else float(np.mean(column)) for column in zip(*shares, strict=True)
    )
    return {
        **group.names(),
        "pairs": round(float(np.mean([_pairs(one) for one in group.runs]))),
        "lr": group.lr,
        **interval(list(group.tests().values())),
        "predicted": predicted,
        "connected": connected,
        "chance": float(run.task.chance),
        "metric": run.task.metric,
    }


def _connected(run):
    """Share of the questions whose answer the layers connect; None without a theory."""
    task, reach = run.task, run.task.reach(run.stack)
    if reach is None:
        return None
    connected = within_hops(run.stack, task.length)
    if np.array_equal(reach, connected):
        return task.predict(run.stack)
    return sampled_share(task, connected, run.stack)


def _pairs(run):
    heads = [layer if isinstance(layer, list) else [layer] * run.heads for layer in run.stack]
    return sum(np.mean([head.num_pairs(run.task.length) for head in layer]) for layer in heads)


def differences(records: Iterable[Mapping[str, Any]], claims: Iterable[tuple[str, str]]) -> Table:
    """Return a table with a row for each claim that a pattern is better than another, by the names of both.

    A claim is judged for each task and number of layers with runs of both: ``mean`` is the difference in the
    test, by seed, positive where the first does better (more right answers, or fewer bits); ``low`` and
    ``high`` are the 95 % interval. The verdict is "supported" if the interval is above 0, "not supported" if
    it is below 0, and "undecided" if it holds 0 or there are fewer than three seeds.

    Parameters
    ----------
    records : iterable of dict
        From ``run``.
    claims : list of (str, str)
        Pairs of names, the better one first.

    Returns
    -------
    Table
        These columns, beside those that say which: task, layers, length, patterns, metric.

    Raises
    ------
    ValueError
        If a name means different patterns at equal seeds, or has no records; if a claim is no pair of names.

    See Also
    --------
    summary : A row for each pattern.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> patterns = {"squares": pa.Pattern("squares"), "none": pa.Pattern(None)}
    >>> task, sizes = pa.tasks.copy(16, distance=4), {"width": 16, "steps": 20, "examples": 32}
    >>> runs = pa.study.grid([task], patterns, seeds=2, lrs=(1e-2,), **sizes)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     table = pa.study.differences(pa.study.run(runs, out=out), [("squares", "none")])
    >>> [(row["better"], row["than"], row["n"]) for row in table]
    [('squares', 'none', 2)]
    """
    groups = {}
    for group in chosen(records):
        run = group.runs[0]
        setting = (repr(run.task), len(run.stack), run.width, run.heads, run.steps, run.batch, run.examples)
        if groups.setdefault(setting, {}).setdefault(run.pattern, group) is not group:
            raise ValueError(f"records: {run.pattern!r} is the name of different patterns with equal seeds")
    known = dict.fromkeys(name for by_name in groups.values() for name in by_name)
    rows = []
    for claim in claims:
        if not isinstance(claim, (tuple, list)) or len(claim) != 2 or not set(claim) <= known.keys():
            raise ValueError(f"claims: expected pairs of {', '.join(known) or 'names'}, got {claim!r}")
        better, than = claim
        for (task, layers, *_), by_name in groups.items():
            if better in by_name and than in by_name:
                sign = 1 if by_name[better].runs[0].task.metric == "accuracy" else -1
                ours, theirs = by_name[better].tests(), by_name[than].tests()
                found = interval([sign * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs])
                row = {"task": task, "layers": layers, "length": by_name[better].runs[0].task.length}
                row |= {"better": better, "than": than, **found}
                rows.append(row | {"verdict": verdict(found)})
    return Table(rows)


def _preference(results, better):
    values = [result["validation"] for result in results if result["error"] is None]
    return (-np.inf if len(values) < len(results) else better * float(np.mean(values))), len(values)
