"""One run: training, then validation and test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.compiled.blas import one_blas_thread
from primeattn.stepper import DivergedError, Stepper
from primeattn.study.probe import drawn
from primeattn.study.runs import check
from primeattn.tasks import IGNORED
from primeattn.tasks.task import answers_of
from primeattn.tree import test_mode
from primeattn.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["train"]

_VALIDATION, _TEST, _TRAIN = 1, 2, 3  # streams of random numbers; the first two are the same for all runs
_POINTS = 50  # of the learning curve


def train(run: Mapping[str, Any]) -> dict:
    """Train a run, and return its result as a dict of JSON types:

    - "validation", "test": the metric of the task on ``examples`` sequences of each; None if training failed,
    - "losses": the learning curve, means of up to 50 equal parts of the steps, in nats,
    - "by", "at", "asked", "score": the test by the "distance" from question to answer, or by "position" where
      answers are at no one place: where, how many questions, their mean metric,
    - "error": why training failed, or None.

    Equal runs give equal results, bit for bit, with any number of threads (if NumPy has OpenBLAS, as its own
    wheels do; for another library, set its threads to one).

    Parameters
    ----------
    run : dict
        See ``grid``.

    Returns
    -------
    dict
        As above.

    See Also
    --------
    run : Trains many, and keeps their records.

    Examples
    --------
    >>> import primeattn as pa
    >>> patterns = {"squares": pa.Pattern("squares")}
    >>> sizes = {"width": 16, "steps": 3, "batch": 4, "examples": 8}
    >>> [run] = pa.study.grid([pa.tasks.copy(16, distance=4)], patterns, seeds=1, **sizes)
    >>> result = pa.study.train(run)
    >>> len(result["losses"]), result["by"], result["at"], result["asked"]
    (3, 'distance', [4], [96])
    """
    run = check(run)
    data = run.task.part("train")
    validation = drawn(run.task.part("validation"), np.random.default_rng([_VALIDATION]), run.examples)
    test = drawn(run.task.part("test"), np.random.default_rng([_TEST]), run.examples)

    def draw(step):
        return data.draw(np.random.default_rng([_TRAIN, run.seed, step]), run.batch)

    stepper = Stepper(run.model, draw, lr=run.lr, steps=run.steps, seed=run.seed)
    result = {"validation": None, "test": None, "losses": [], "by": None, "at": [], "asked": [], "score": []}
    with one_blas_thread(), np.errstate(all="ignore"):  # too large a rate ends in an error that says so
        try:
            while stepper.step < run.steps:
                stepper.advance()
        except DivergedError as error:
            return {**result, "error": str(error)}
        parts = np.array_split(stepper.losses, min(_POINTS, run.steps))
        result["losses"] = [float(part.mean()) for part in parts]
        validation, test = _score(run, stepper, *validation), _score(run, stepper, *test)
    if not np.isfinite([validation["mean"], test["mean"]]).all():
        return {**result, "error": f"the {run.task.metric} of the trained model is no finite number"}
    return {**result, "validation": validation["mean"], "test": test.pop("mean"), **test, "error": None}


def _score(run, stepper, tokens, targets):
    """The metric over sequences: its mean, and by distance or position."""
    asked = targets != IGNORED
    scores = np.zeros(targets.shape)
    st, workspace = test_mode(stepper.st), Workspace()
    for i in range(0, len(tokens), run.batch):
        rows = slice(i, i + run.batch)
        workspace.reset()
        logits, _ = run.model(tokens[rows], stepper.ps, st, workspace=workspace)
        scores[rows][asked[rows]] = _metric(run.task.metric, logits[asked[rows]], targets[rows][asked[rows]])
    answers = answers_of(run.task, tokens, targets)
    where = np.broadcast_to(np.arange(run.task.length), targets.shape)
    by = "position" if answers is None else "distance"
    places = (where if answers is None else where - answers)[asked]
    count = np.bincount(places)
    at = np.flatnonzero(count)
    means = np.bincount(places, scores[asked])[at] / count[at]
    found = {"mean": float(scores[asked].mean()), "by": by, "at": at.tolist()}
    return found | {"asked": count[at].tolist(), "score": means.tolist()}


def _metric(metric, logits, targets):
    """Right or wrong, or -log2 p of the target, for each row of logits."""
    if metric == "accuracy":
        return logits.argmax(axis=1) == targets
    logits = logits.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[:, None], axis=1)[:, 0]
    return (np.log(np.exp(logits).sum(axis=1)) - chosen) / np.log(2)
