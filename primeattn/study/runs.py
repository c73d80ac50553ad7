"""A run as plain data: made, checked, and named by a key."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from primeattn.checks import as_int, is_real
from primeattn.language_model import make_model
from primeattn.nn import Layer
from primeattn.patterns import Pattern
from primeattn.study.probe import probe
from primeattn.tasks import Task, from_json

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Run", "check", "code_version", "grid", "key"]

_SIZES = {"width": 64, "heads": 1, "steps": 600, "batch": 32, "examples": 1024}
_KEYS = {"pattern", "task", "stack", "lr", "seed", *_SIZES}

# What decides a run's numbers, relative to the package.
_CODE = (
    *("_config.py", "tree.py", "workspace.py", "compiled", "sequences", "patterns.py", "kernels"),
    *("nn", "losses.py", "optim.py", "stepper.py", "data.py", "language_model.py", "tasks"),
    "study/training.py",
)


class Run(NamedTuple):
    """A run with its values made: what ``check`` returns.

    Examples
    --------
    >>> from primeattn.study.runs import Run
    >>> Run._fields[:3]
    ('pattern', 'task', 'stack')
    """

    pattern: str  # what tables call its patterns
    task: Task
    stack: list  # for each layer a Pattern, or a list with one for each head
    lr: float
    seed: int
    width: int
    heads: int
    steps: int
    batch: int
    examples: int
    model: Layer


def grid(
    tasks: Iterable[Task],
    patterns: Mapping[str, Any],
    *,
    layers: Iterable[int] = (1,),
    lrs: Iterable[float] = (3e-3,),
    seeds: int = 3,
    **sizes: int,
) -> list[dict]:
    """Return all runs of tasks × patterns × layers × learning rates × seeds, as dicts of JSON types.

    Parameters
    ----------
    tasks : list of Task
        What is to be learned.
    patterns : dict
        By a name for tables: a Pattern for every layer, or a list with an entry for each, a Pattern or a list
        of one for each head. A list sets its own number of layers.
    layers : iterable of int
        Numbers of layers for those that are one Pattern.
    lrs : iterable of float
        Learning rates.
    seeds : int
        Seeds 0, ..., seeds - 1.
    **sizes
        ``width`` (64) and ``heads`` (1) of the model, ``steps`` (600) and sequences in a ``batch`` (32) of
        the training, and ``examples`` (1024), sequences for validation and again for the test.

    Returns
    -------
    list of dict
        One for each run.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    See Also
    --------
    run : Trains them.
    check : Whether a run can be trained.

    Examples
    --------
    >>> import primeattn as pa
    >>> primes = pa.Pattern("primes", window=3)
    >>> mixed = [primes, pa.Pattern("squares", window=3)]
    >>> runs = pa.study.grid([pa.tasks.needle()], {"primes": primes, "mixed": mixed}, layers=(1, 2), seeds=1)
    >>> [(run["pattern"], len(run["stack"])) for run in runs]
    [('primes', 1), ('primes', 2), ('mixed', 2)]
    """
    if not isinstance(patterns, Mapping):
        raise TypeError(f"patterns: expected a dict of patterns by name, got {patterns!r}")
    if unknown := sizes.keys() - _SIZES.keys():
        known = f"{', '.join(_SIZES)}, besides layers, lrs and seeds"
        raise TypeError(f"sizes: expected {known}, got {min(unknown)}")
    for name, several in (("tasks", tasks), ("layers", layers), ("lrs", lrs)):
        if isinstance(several, (str, Task)) or not np.iterable(several):
            raise TypeError(f"{name}: expected a list, got {several!r}")
    layers = [as_int("layers", count, minimum=1) for count in layers]
    lrs, seeds = list(lrs), range(as_int("seeds", seeds, minimum=1))
    runs = []
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(f"tasks: expected tasks, got {task!r}")
        probe(task)
        for name, pattern in patterns.items():
            several = isinstance(pattern, (list, tuple))
            stacks = [list(pattern)] if several else [[pattern] * count for count in layers]
            for stack in stacks:
                shared = {"pattern": name, "task": task.to_json(), "stack": _stack_to_json(name, stack)}
                for lr in lrs:
                    runs += [shared | {"lr": lr, "seed": seed} | _SIZES | sizes for seed in seeds]
    if not runs:
        raise ValueError("runs: expected at least one task, pattern, number of layers and learning rate")
    for run in runs:
        made = check(run)
        run.update({name: getattr(made, name) for name in ("lr", "seed", *_SIZES)})  # no NumPy numbers
    return runs


def _stack_to_json(name, stack):
    try:
        return [_to_json(layer) for layer in stack]
    except TypeError as error:
        raise TypeError(f"patterns[{name!r}]: {error}") from None


def _to_json(layer):
    if isinstance(layer, (list, tuple)):
        return [_to_json(head) for head in layer]
    if not isinstance(layer, Pattern):
        raise TypeError(f"expected a Pattern, got {layer!r}")
    return layer.to_json()


def _from_json(layer):
    return [_from_json(head) for head in layer] if isinstance(layer, list) else Pattern.from_json(layer)


def check(run: Mapping[str, Any]) -> Run:
    """Return a run with its values made; raise if it cannot be trained.

    Parameters
    ----------
    run : dict
        See ``grid``.

    Returns
    -------
    Run
        The task, the patterns of each layer, the sizes and the model.

    Raises
    ------
    TypeError, ValueError
        If the run cannot be trained; names what is wrong.

    See Also
    --------
    grid : Makes runs.

    Examples
    --------
    >>> import primeattn as pa
    >>> [run] = pa.study.grid([pa.tasks.copy(16, 5)], {"squares": pa.Pattern("squares")}, seeds=1)
    >>> pa.study.check(run).task
    copy(16, 5)
    """
    if not isinstance(run, dict) or run.keys() != _KEYS:
        got = sorted(run) if isinstance(run, dict) else run
        raise ValueError(f"run: expected a dict with keys {', '.join(sorted(_KEYS))}, got {got}")
    if not isinstance(run["pattern"], str):
        raise TypeError(f"pattern: expected a name, got {run['pattern']!r}")
    if not isinstance(run["stack"], list) or not run["stack"]:
        raise ValueError(f"stack: expected a list of patterns, got {run['stack']!r}")
    sizes = {name: as_int(name, run[name], minimum=1) for name in _SIZES}
    seed, lr = as_int("seed", run["seed"], minimum=0), run["lr"]
    if not (is_real(lr) and 0 < lr <= sys.float_info.max):
        raise ValueError(f"lr: expected a number above 0, got {lr!r}")
    task, stack = from_json(run["task"]), [_from_json(layer) for layer in run["stack"]]
    options = {"width": sizes["width"], "heads": sizes["heads"], "previous": task.previous}
    model = make_model(stack, context=task.length, vocab=task.vocab, **options)
    return Run(run["pattern"], task, stack, float(lr), seed, **sizes, model=model)


def key(run: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that name a run: equal for equal runs, whatever tables call the pattern.

    They cover the offsets of the patterns, the data of the task (its ``digest``), and its source code and
    first sequences if it is not one of the library's.

    Parameters
    ----------
    run : dict
        See ``grid``.

    Returns
    -------
    str
        16 hexadecimal digits.

    See Also
    --------
    run : Finds by it what is trained already.

    Examples
    --------
    >>> import primeattn as pa
    >>> one, two = pa.study.grid([pa.tasks.copy(16, 5)], {"squares": pa.Pattern("squares")}, seeds=2)
    >>> pa.study.key(one) == pa.study.key(dict(one, pattern="A")) != pa.study.key(two)
    True
    """
    made = check(run)
    heads = [head for layer in made.stack for head in (layer if isinstance(layer, list) else [layer])]
    offsets = [head.offsets(made.task.length).tolist() for head in heads]  # a name may come to mean others
    told = {name: value for name, value in run.items() if name != "pattern"}
    content = json.dumps([told, offsets, made.task.digest, probe(made.task)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def code_version() -> str:
    """Return 16 hexadecimal digits of the library's code, as far as it decides a run's numbers.

    Comments and docstrings have no part in it; the version of Python has.

    Examples
    --------
    >>> from primeattn.study.runs import code_version
    >>> len(code_version())
    16
    """
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for name in _CODE:
        paths = sorted((root / name).rglob("*.py")) if (root / name).is_dir() else [root / name]
        for path in paths:
            place = path.relative_to(root).as_posix()
            if not place.startswith("kernels/gpu/"):  # runs are on the CPU
                digest.update(f"{place}\n{_digest(path.read_bytes())}\n".encode())
    return digest.hexdigest()[:16]


@cache
def _digest(source):
    """Digest of Python code without its comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
