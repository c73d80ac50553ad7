"""All runs of a study that are not done yet."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primeattn.checks import as_int
from primeattn.files import make_folder, written_whole
from primeattn.study.cluster import on_cluster
from primeattn.study.records import Records, check_result
from primeattn.study.results import summary
from primeattn.study.runs import check, code_version, key
from primeattn.study.workers import on_processes, one_by_one

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from primeattn.typing import FilePath

__all__ = ["run"]


def run(
    runs: Iterable[Mapping[str, Any]], *, out: FilePath, jobs: int = 1, scheduler: Any = None
) -> list[dict]:
    """Train the runs that ``out/runs.jsonl`` does not have yet; return the records of all, in their order.

    A record is {"key", "code", "run", "result"}: see ``key``, ``grid`` and ``train``. Each is added to the
    file when its run ends, so that a study that was killed goes on where it was. What older code gave (as
    "code" tells) stays in the file, and is trained again. At the end ``out`` also has the summary, as
    ``summary.json`` and ``summary.csv``. If stderr is a terminal, it shows a progress bar.

    Results are the same, bit for bit, however many jobs there are and however often they were killed.

    Parameters
    ----------
    runs : list of dict
        See ``grid``. A run that is there twice is trained once.
    out : path
        Folder, made if needed.
    jobs : int
        Runs at a time. With 1 they are trained in this process, with more in as many others, each with its
        share of the threads (``get_num_threads() // jobs``). A script must then guard what it does with
        ``if __name__ == "__main__":``, and have tasks and sequences of its own at the top level of a module.
    scheduler : distributed.Client, optional
        Train on this Dask cluster instead, a run for each of its threads; then leave ``jobs`` at 1.

    Returns
    -------
    list of dict
        The records.

    Raises
    ------
    TypeError, ValueError
        For a run that cannot be trained, before any is; for lines of the file that are no records.
    RuntimeError
        If another study writes to the file, or a process of this one died.

    See Also
    --------
    grid : Makes the runs.
    summary : A table of the records.

    Examples
    --------
    >>> import os, tempfile, primeattn as pa
    >>> patterns = {"squares": pa.Pattern("squares")}
    >>> sizes = {"width": 16, "steps": 3, "batch": 4, "examples": 8}
    >>> runs = pa.study.grid([pa.tasks.copy(16, distance=4)], patterns, seeds=2, **sizes)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     records = pa.study.run(runs, out=out)
    ...     sorted(os.listdir(out))
    ['runs.jsonl', 'summary.csv', 'summary.json']
    >>> [record["run"]["seed"] for record in records]
    [0, 1]
    """
    if isinstance(runs, (dict, str)):
        raise TypeError(f"runs: expected a list of runs, got {type(runs).__name__}")
    jobs, out, runs = as_int("jobs", jobs, minimum=1), Path(out), list(runs)
    if not runs:
        raise ValueError("runs: expected at least one, got none")
    if scheduler is not None and not hasattr(scheduler, "submit"):
        raise TypeError(f"scheduler: expected a distributed.Client, got {scheduler!r}")
    if scheduler is not None and jobs != 1:
        raise ValueError(f"jobs: expected 1 with a scheduler, which has its own workers, got {jobs}")
    keys, code = [key(run) for run in runs], code_version()
    make_folder(out)
    with Records(out / "runs.jsonl") as records:
        done = _done(records.found, code)
        left = {name: run for name, run in zip(keys, runs, strict=True) if name not in done}
        with closing(_train(left, jobs, scheduler)) as results:
            for name, result in _with_bar(left, results):
                records.append({"key": name, "code": code, "run": left[name], "result": result})
                done[name] = result
    found = [
        {"key": name, "code": code, "run": run, "result": done[name]}
        for name, run in zip(keys, runs, strict=True)
    ]
    table = summary(found)
    for name, text in (("summary.json", json.dumps(table, indent=1)), ("summary.csv", table.csv())):
        with written_whole(out / name) as file:
            file.write(text.encode())
    return found


def _done(records, code):
    """Results by key, of those that this code gave."""
    for number, record in enumerate(records, 1):
        whole = isinstance(record, dict) and {"key", "code", "run", "result"} <= record.keys()
        if not whole or not isinstance(record["key"], str):
            raise ValueError(f"out: line {number} of runs.jsonl is no record of a run: {str(record)[:60]}")
        try:
            check_result(record["result"])
        except ValueError as error:
            raise ValueError(f"out: line {number} of runs.jsonl: {error}") from None
    return {record["key"]: record["result"] for record in records if record["code"] == code}


def _train(runs, jobs, scheduler):
    """Pairs of key and result, in the order in which runs end."""
    if scheduler is not None:
        return on_cluster(runs, scheduler)
    jobs = min(jobs, len(runs))
    return on_processes(runs, jobs) if jobs > 1 else one_by_one(runs)


def _with_bar(runs, results):
    """Pass on the results; the bar counts tokens times layers, of which every run takes about as long."""
    from tqdm import tqdm

    work = {}
    for name, run in runs.items():
        made = check(run)
        work[name] = made.steps * made.batch * made.task.length * len(made.stack)
    with tqdm(total=sum(work.values()), unit=" tokens", unit_scale=True, disable=None) as bar:
        bar.set_postfix_str(f"0 of {len(runs)} runs")
        for ended, (name, result) in enumerate(results, 1):
            yield name, result
            bar.set_postfix_str(f"{ended} of {len(runs)} runs", refresh=False)
            bar.update(work[name])
