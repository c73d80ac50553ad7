"""What all tasks share: the interface, the theory of what layers can reach, and JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn._config import Config
from primeattn.analysis import receptive_field
from primeattn.checks import as_int
from primeattn.patterns import Pattern

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from primeattn.typing import Array

__all__ = ["IGNORED", "Task", "from_json"]

IGNORED = -100  # the target where nothing is asked, as in ``losses.cross_entropy``
PARTS = ("train", "validation", "test")
_SAMPLE = 16384  # sequences that stand for all, where a prediction has no formula
_TOKENS = 1 << 22  # at most in these, but for 1024 sequences

_classes: dict[str, type] = {}  # by name


class Task(Config):
    """Base of all tasks: an immutable value that draws sequences and says what a model can make of them.

    A task of your own is a frozen dataclass (``@dataclass(frozen=True, repr=False)``) whose fields are of
    JSON types. It derives from Task and defines

    - ``vocab``, ``length``: number of different tokens, and tokens in a sequence,
    - ``draw(rng, batch)``: tokens and targets, int64 (batch, length), with IGNORED where nothing is asked;
      the same for equal generators,
    - ``chance``: the metric of a model that sees nothing of what is asked,

    and, where they differ from what this class has,

    - ``metric``: "accuracy", the share of right answers, or "bits", -log2 p by target,
    - ``previous``: so many earlier tokens must be visible in the embedding of each token,
    - ``answers(tokens, targets)``: positions that hold the answers,
    - ``reach(patterns)``: the distances over which theory expects them to be found,
    - ``part(name)``: the same task on other data,
    - ``digest``: what identifies data from outside.

    See Also
    --------
    copy : The simplest one.
    from_json : Reads one.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, primeattn as pa
    >>> @dataclass(frozen=True, repr=False)
    ... class parity(pa.tasks.Task):
    ...     length: int = 32
    ...     vocab, chance = 2, 0.5
    ...
    ...     def draw(self, rng, batch):
    ...         tokens = rng.integers(2, size=(batch, self.length))
    ...         return tokens, np.cumsum(tokens, axis=1) % 2
    >>> parity(length=8).draw(np.random.default_rng(0), 1)
    (array([[1, 1, 1, 0, 0, 0, 0, 0]]), array([[1, 0, 1, 1, 1, 1, 1, 1]]))
    >>> pa.tasks.from_json(parity(length=8).to_json())
    parity(length=8)
    """

    metric = "accuracy"
    previous = 0
    digest = ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        before = _classes.setdefault(cls.__name__, cls)
        if before.__module__ != cls.__module__:
            raise ValueError(f"{cls.__name__}: a task of {before.__module__} has this name; take another")
        _classes[cls.__name__] = cls

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        """Return tokens and targets of ``batch`` sequences, int64 (batch, length).

        Parameters
        ----------
        rng : numpy.random.Generator
            Draws them.
        batch : int
            Number of sequences.

        Returns
        -------
        tokens, targets : int64 arrays (batch, length)
            A target is IGNORED where nothing is asked.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no draw")

    def answers(self, tokens: Array, targets: Array) -> Array | None:
        """Return for each question the position of the token that answers it, int64 (batch, length).

        -1 where nothing is asked; None if answers are at no one place.

        Parameters
        ----------
        tokens, targets : int64 arrays (batch, length)
            From ``draw``.

        Returns
        -------
        int64 array (batch, length), or None
            The positions.
        """
        return None

    def reach(self, patterns: Several[Any]) -> Array | None:
        """Return the distances between question and answer that theory expects to be bridged, bool (length,).

        None without a theory. ``patterns`` has an entry for each layer: a Pattern, or one for each head.

        Parameters
        ----------
        patterns : list
            The patterns of each layer.

        Returns
        -------
        bool array (length,), or None
            By distance.
        """
        return None

    def predict(self, patterns: Several[Any]) -> float | None:
        """Return the share of the questions that theory expects to be answered; None without a theory.

        The others are left to chance. An answer among a layer's global tokens is at hand for every question.
        Unless a task has a formula, it is the share in a sample of 16384 sequences (fewer where they have
        more than 256 tokens, at least 1024).

        Parameters
        ----------
        patterns : list
            The patterns of each layer, as for ``reach``.

        Returns
        -------
        float or None
            A share, 0 to 1.

        Examples
        --------
        >>> import primeattn as pa
        >>> task = pa.tasks.copy(length=64, distance=20)
        >>> [task.predict([pa.Pattern("squares")] * layers) for layers in (1, 2)]  # 20 = 4 + 16
        [0.0, 1.0]
        """
        reach = self.reach(patterns)
        return None if reach is None else sampled_share(self, reach, patterns)

    def part(self, name: str) -> Task:
        """Return the task on the "train", "validation" or "test" part of its data.

        What is generated has no parts: other draws are other sequences.

        Parameters
        ----------
        name : {"train", "validation", "test"}
            Which part.

        Returns
        -------
        Task
            For the same questions.
        """
        as_part(name)
        return self

    def to_json(self) -> dict:
        """Return a dict of JSON types from which ``from_json`` makes an equal task.

        Returns
        -------
        dict
            The name of the task and its fields.
        """
        return {"name": type(self).__name__} | {f.name: getattr(self, f.name) for f in fields(self)}


def from_json(obj: Any) -> Task:
    """Return the task whose ``to_json()`` is ``obj``.

    Parameters
    ----------
    obj : dict
        From ``Task.to_json``.

    Returns
    -------
    Task
        An equal one.

    Raises
    ------
    TypeError, ValueError
        For another structure, and for a task that is not known.

    See Also
    --------
    Task : Has ``to_json``.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.tasks.from_json({"name": "copy", "length": 32, "distance": 5})
    copy(32, 5)
    """
    if not isinstance(obj, dict) or not isinstance(obj.get("name"), str):
        raise TypeError(f"obj: expected a dict made by Task.to_json(), got {obj!r}")
    options = dict(obj)
    name = options.pop("name")
    if name not in _classes:
        raise ValueError(f"name: expected a task among {', '.join(sorted(_classes))}, got {name!r}")
    return _classes[name](**options)


def answers_of(task, tokens, targets) -> Array | None:
    """``task.answers``, in an int64 array, and -1 where nothing is asked."""
    answers = task.answers(tokens, targets)
    return None if answers is None else np.where(targets == IGNORED, -1, np.asarray(answers).astype(np.int64))


def sampled_share(task, reach, patterns):
    """As ``share``, of the questions in sequences that stand for all."""
    values = {field.name: getattr(task, field.name) for field in fields(task)}
    return share(reach, patterns, *_sample(type(task), json.dumps(values), task.digest))


@lru_cache(maxsize=8)
def _sample(kind, values, digest):
    """Distances and answers of the questions in these sequences; the digest is that of data from outside."""
    task = kind(**json.loads(values))
    tokens, targets = task.draw(np.random.default_rng(0), min(_SAMPLE, max(1024, _TOKENS // task.length)))
    answers = answers_of(task, tokens, targets)
    asked = answers >= 0
    return (np.arange(task.length) - answers)[asked], answers[asked]


def as_stack(patterns) -> list[Pattern]:
    """Return the union of each layer's patterns; TypeError unless every entry is a Pattern or several."""
    if not isinstance(patterns, (list, tuple)):  # an iterator would be empty the next time
        raise TypeError(f"patterns: expected a list with a pattern for each layer, got {patterns!r}")
    stack = []
    for layer in patterns:
        heads = list(layer) if isinstance(layer, (list, tuple)) else [layer]
        for head in heads or [None]:
            if not isinstance(head, Pattern):
                raise TypeError(f"patterns: expected a Pattern, or one for each head, got {layer!r}")
        stack.append(reduce(or_, heads))
    if not stack:
        raise ValueError("patterns: expected a pattern for each layer, got none")
    return stack


def within_hops(patterns, length):
    """Distances that the layers connect by relays, bool (length,)."""
    stack = as_stack(patterns)
    return receptive_field(stack, len(stack), length)


def in_one_layer(patterns, length):
    """Distances that a layer connects directly, bool (length,)."""
    reached = np.zeros(length, bool)
    for layer in as_stack(patterns):
        reached[layer.offsets(length)] = True
    return reached


def share(reach, patterns, distances, answers):
    """Share of the questions that are reached by distance, or because the answer is a global token."""
    leading = max(layer.global_tokens for layer in as_stack(patterns))
    return float((reach[distances] | (answers < leading)).mean())


def check_draw(rng, batch) -> int:
    """Return ``batch`` as an int; raise unless it is at least 1 and ``rng`` is a generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    return as_int("batch", batch, minimum=1)


def as_part(name) -> str:
    """Return ``name`` if it is a part of data; ValueError otherwise."""
    if name not in PARTS:
        raise ValueError(f"part: expected one of {', '.join(PARTS)}, got {name!r}")
    return name


def freeze_distance(task, most):
    """Store ``task.distance`` as an int, or None; raise unless it is in 1, ..., ``most``."""
    if task.distance is not None:
        distance = as_int(f"{type(task).__name__}: distance", task.distance, minimum=1, maximum=most)
        object.__setattr__(task, "distance", distance)
