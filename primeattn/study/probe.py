"""A task of the user's, tried out before anything is trained on it."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import math

import numpy as np

from primeattn.checks import as_int, is_array, is_real
from primeattn.patterns import Pattern
from primeattn.tasks import IGNORED, Task, from_json
from primeattn.tasks.task import PARTS

__all__ = ["drawn", "probe"]

_BATCH = 4


def probe(task) -> str:
    """Return a digest of what a task draws and of its source; raise if it is not as ``Task`` asks.

    Its data must suffice for training, validation and test: each is tried.

    The data change with helpers and constants that the source of the class does not show. Tasks of the
    library have no digest: their source is part of ``code_version``.

    Examples
    --------
    >>> import primeattn as pa
    >>> from primeattn.study.probe import probe
    >>> probe(pa.tasks.copy(16, distance=5))
    ''
    """
    kind = type(task)
    name = kind.__name__
    if kind.__module__.startswith("primeattn."):
        _check_parts(task, name)
        return ""
    _check_fields(task, name)
    _check_values(task, name)
    tokens, targets = drawn(task, np.random.default_rng(0), _BATCH)
    again = drawn(task, np.random.default_rng(0), _BATCH)
    if not (np.array_equal(tokens, again[0]) and np.array_equal(targets, again[1])):
        raise ValueError(f"{name}.draw: expected the same for equal generators, got two different batches")
    _check_theory(task, name, tokens, targets)
    _check_parts(task, name)
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt
        source = ""
    return hashlib.sha256(source.encode() + tokens.tobytes() + targets.tobytes()).hexdigest()


def _check_fields(task, name):
    if not dataclasses.is_dataclass(task):
        raise TypeError(
            f"{name}: expected a dataclass (@dataclass(frozen=True, repr=False)), got a plain class"
        )
    if any(field.name == "name" for field in dataclasses.fields(task)):
        raise TypeError(f"{name}: expected no field 'name', which is the task's own in JSON")
    try:
        same = from_json(json.loads(json.dumps(task.to_json()))) == task
    except TypeError as error:
        raise TypeError(f"{name}: expected fields of JSON types: {error}") from None
    if not same:
        raise TypeError(f"{name}: expected fields that JSON gives back as they were, got {task!r}")


def _check_values(task, name):
    for size in ("length", "vocab"):
        as_int(f"{name}.{size}", getattr(task, size, None), minimum=1)
    chance = getattr(task, "chance", None)
    if not (is_real(chance) and math.isfinite(chance)):
        raise TypeError(f"{name}.chance: expected a number, got {chance!r}")
    if task.metric not in ("accuracy", "bits"):
        raise ValueError(f"{name}.metric: expected 'accuracy' or 'bits', got {task.metric!r}")


def drawn(task, rng, batch):
    """Return tokens and targets that a task draws, as int64 arrays; raise if they are not as ``Task`` asks.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> from primeattn.study.probe import drawn
    >>> [array.shape for array in drawn(pa.tasks.copy(16, distance=5), np.random.default_rng(0), 3)]
    [(3, 16), (3, 16)]
    """
    name, pair = type(task).__name__, task.draw(rng, batch)
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name}.draw: expected a pair of tokens and targets, got {type(pair).__name__}")
    arrays, shape = [], (batch, task.length)
    for what, array, least in zip(("tokens", "targets"), pair, (0, IGNORED), strict=True):
        if not is_array(array) or array.dtype.kind not in "iu":
            got = array.dtype if is_array(array) else type(array).__name__
            raise TypeError(f"{name}.draw: expected {what} in an array of integers, got {got}")
        if array.shape != shape:
            raise ValueError(
                f"{name}.draw: expected {what} of shape (batch, length) = {shape}, got {array.shape}"
            )
        wrong = (array >= task.vocab) | ((array < 0) & (array != least))
        if wrong.any():
            raise ValueError(f"{name}.draw: expected {what} in [0, {task.vocab}), got {array[wrong][0]}")
        arrays.append(array.astype(np.int64))
    if (arrays[1] == IGNORED).all():
        raise ValueError(f"{name}.draw: expected targets, got none: all are IGNORED")
    return arrays


def _check_parts(task, name):
    """Each must have enough data for a batch, here of another size than the first."""
    for part in PARTS:
        data = task.part(part)
        if not isinstance(data, Task) or (data.length, data.vocab) != (task.length, task.vocab):
            raise ValueError(f"{name}.part: expected a task of the same length and vocab, got {data!r}")
        drawn(data, np.random.default_rng(0), _BATCH + 1)


def _check_theory(task, name, tokens, targets):
    """Answers must be at earlier places, and distances a mask."""
    answers, asked = task.answers(tokens, targets), targets != IGNORED
    if answers is not None:
        answers = np.asarray(answers)
        if answers.shape != targets.shape or answers.dtype.kind not in "iu":
            got = f"{answers.dtype} of shape {answers.shape}"
            raise TypeError(f"{name}.answers: expected integers of shape {targets.shape}, got {got}")
        late = asked & ((answers < 0) | (answers > np.arange(task.length)))
        if late.any():
            row, place = np.argwhere(late)[0]
            raise ValueError(
                f"{name}.answers: expected for the question at {place} a place in [0, {place}], "
                f"got {answers[row, place]}"
            )
    reach = task.reach([Pattern(None)])
    if reach is None:
        return
    if answers is None:
        raise ValueError(f"{name}: expected answers where there is reach, got None")
    if not isinstance(reach, np.ndarray) or reach.dtype != bool or reach.shape != (task.length,):
        raise TypeError(f"{name}.reach: expected a bool array of shape ({task.length},), got {reach!r}")
