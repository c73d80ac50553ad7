"""What theory says of a study, written down before it is run."""

from __future__ import annotations

import json

import numpy as np

from primeattn.files import make_folder, written_whole
from primeattn.study.naming import drawn
from primeattn.study.runs import check
from primeattn.table import Table

__all__ = ["predictions", "write_predictions"]


def predictions(runs) -> Table:
    """Return a table of the share of answers that theory expects, by task, pattern and number of layers.

    Where a name has other offsets for each seed, the mean over seeds; None without a theory.

    Examples
    --------
    >>> from primeattn.study import protocol, protocol_runs
    >>> from primeattn.study.predictions import predictions
    >>> for row in predictions(protocol_runs(protocol("needle", quick=True))):
    ...     print(row["pattern"], row["layers"], round(row["predicted"], 3))
    primes 1 0.34
    primes 2 0.957
    squares 1 0.17
    squares 2 0.681
    window as primes 1 0.234
    window as primes 2 0.66
    """
    found, seen = {}, set()
    for run in runs:
        name = (repr(run["task"]), run["pattern"], len(run["stack"]))
        seed = run["seed"] if drawn(run["pattern"]) else None
        if (*name, seed) not in seen:
            seen.add((*name, seed))
            made = check(run)
            row = {"task": repr(made.task), "pattern": made.pattern, "layers": len(made.stack)}
            found.setdefault(name, (row, []))[1].append(made.task.predict(made.stack))
    return Table(
        row | {"predicted": None if None in values else float(np.mean(values))}
        for row, values in found.values()
    )


def write_predictions(path, protocol, runs):
    """Write a protocol and its predictions to ``path`` before it is run, and never change them.

    If the file is there, the new ones must be the same, or ValueError is raised.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from primeattn.study import protocol, protocol_runs
    >>> from primeattn.study.predictions import write_predictions
    >>> made = protocol("needle", quick=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_predictions(Path(folder) / "predictions.json", made, protocol_runs(made))
    """
    content = {"protocol": protocol, "predictions": predictions(runs)}
    text = json.dumps(content, indent=1) + "\n"
    if path.exists():
        if path.read_bytes() != text.encode():
            raise ValueError(
                f"out: {str(path)!r} is of another study or other options, such as seeds; take another "
                "folder, or delete that file: the folder's runs are not trained again"
            )
        return
    make_folder(path.parent)
    with written_whole(path) as file:
        file.write(text.encode())
