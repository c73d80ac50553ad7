import json
from dataclasses import dataclass

import numpy as np
import pytest

from primeattn import sequences
from primeattn.patterns import Pattern
from primeattn.sequences import from_callable, register
from primeattn.study import check, grid, key, probe
from primeattn.study import runs as module
from primeattn.study.runs import code_version
from primeattn.tasks import Task, copy, mqar, text

PRIMES, SQUARES = Pattern("primes", window=3), Pattern("squares", global_tokens=1)


def test_a_grid_has_every_combination_once():
    patterns = {"primes": PRIMES, "mixed": [PRIMES, [SQUARES, PRIMES], SQUARES]}
    tasks = [copy(16, 5), mqar(length=32, pairs=4)]
    runs = grid(
        tasks, patterns, layers=(1, 2), lrs=(1e-3, np.float64(1e-2)), seeds=2, heads=2, steps=np.int64(7)
    )
    assert json.loads(json.dumps(runs)) == runs and len({key(run) for run in runs}) == len(runs) == 24
    seen = {(run["task"]["name"], run["pattern"], len(run["stack"]), run["lr"], run["seed"]) for run in runs}
    counts = {("primes", 1), ("primes", 2), ("mixed", 3)}
    expected = {
        (task, *pattern, lr, seed)
        for task in ("copy", "mqar")
        for pattern in counts
        for lr in (1e-3, 1e-2)
        for seed in (0, 1)
    }
    assert seen == expected
    made = check(runs[-1])
    assert grid(tasks, {"a": (PRIMES, SQUARES)}, seeds=1) == grid(tasks, {"a": [PRIMES, SQUARES]}, seeds=1)
    assert made.task == tasks[1] and made.stack == [PRIMES, [SQUARES, PRIMES], SQUARES]
    assert (made.heads, made.steps, made.width, made.lr, made.seed) == (2, 7, 64, 1e-2, 1)
    assert "previous=1" in repr(made.model) and "previous" not in repr(check(runs[0]).model)


def test_keys_change_with_all_but_the_name_of_the_pattern():
    [run] = grid([copy(16, 5)], {"a": PRIMES}, seeds=1)
    assert key(dict(run, pattern="b")) == key(dict(sorted(run.items()))) == key(run)
    changes = [("lr", 1e-4), ("seed", 1), ("stack", [SQUARES.to_json()]), ("task", copy(16, 6).to_json())]
    changes += [(name, run[name] + 1) for name in ("width", "steps", "batch", "examples")] + [("heads", 2)]
    assert len({key(run), *(key(run | {name: value}) for name, value in changes)}) == len(changes) + 1


def test_keys_cover_data_and_the_users_code(tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_bytes(b"abcdefghij" * 30)
    [run] = grid([text(length=8, path=str(path))], {"a": PRIMES}, seeds=1)
    before = key(run)
    path.write_bytes(b"jihgfedcba" * 30)
    assert key(run) != before

    @dataclass(frozen=True, repr=False)
    class theirs(Task):
        length: int = 8
        vocab, chance = 2, 0.5

        def draw(self, rng, batch):
            tokens = rng.integers(2, size=(batch, self.length))
            return tokens, tokens

    [run] = grid([theirs()], {"a": PRIMES}, seeds=1)
    before = key(run)
    monkeypatch.setattr(probe.inspect, "getsource", lambda cls: "changed")
    assert key(run) != before


def test_keys_cover_what_a_name_means():
    rule = {"title": "T", "oeis": None, "count": lambda x: 1, "asymptotic": "1", "why": "a test"}

    def named(term):
        register("theirs", **rule)(lambda known, start, stop: [t for t in (term,) if start < t <= stop])
        [run] = grid([copy(16, 5)], {"a": Pattern("theirs")}, seeds=1)
        found = run, key(run)
        registry = sequences.registry._registry
        del registry["theirs"], vars(sequences)["theirs"]
        sequences.__all__.remove("theirs")
        return found

    (one, key_of_one), (two, key_of_two), (_, again) = named(3), named(4), named(3)
    assert one == two and key_of_one == again != key_of_two


def test_the_version_is_that_of_code_which_decides_numbers(tmp_path, monkeypatch):
    root = tmp_path / "primeattn"
    original = module.Path(module.__file__).parent.parent
    for name in module._CODE:
        assert (original / name).exists()
        for path in (original / name).rglob("*.py") if (original / name).is_dir() else [original / name]:
            copied = root / path.relative_to(original)
            copied.parent.mkdir(parents=True, exist_ok=True)
            copied.write_bytes(path.read_bytes())
    (root / "study").mkdir(exist_ok=True)
    before = code_version()
    monkeypatch.setattr(module, "__file__", str(root / "study" / "runs.py"))
    assert code_version() == before
    (root / "plot.py").write_text("x = 1")
    (root / "kernels" / "gpu" / "more.py").write_text("x = 1")
    assert code_version() == before
    norm = (root / "nn" / "norm.py").read_text()
    told = norm.replace("Each token has", "Every token has").replace(
        "class RMSNorm", "# why\n\n\nclass RMSNorm"
    )
    (root / "nn" / "norm.py").write_text(told)
    assert told.count("Every token has") and code_version() == before
    (root / "nn" / "norm.py").write_text(norm.replace("eps: float = ", "eps: float = 2 * "))
    assert code_version() != before


@pytest.mark.parametrize(
    "change, error, match",
    [
        ({"lr": 0}, ValueError, "lr: expected a number above 0, got 0"),
        ({"lr": 10**400}, ValueError, "lr: expected a number above 0, got 1000"),
        ({"lr": "fast"}, ValueError, "lr: expected a number above 0, got 'fast'"),
        ({"seed": -1}, ValueError, "seed: expected an integer >= 0, got -1"),
        ({"steps": 0}, ValueError, "steps: expected an integer >= 1, got 0"),
        ({"stack": []}, ValueError, r"stack: expected a list of patterns, got \[\]"),
        ({"stack": ["primes"]}, TypeError, "obj: expected a dict made by Pattern.to_json"),
        ({"heads": 3}, ValueError, "heads must divide dims"),
        ({"task": {"name": "copy", "length": 4, "distance": 4}}, ValueError, "copy: distance"),
        ({"pattern": None}, TypeError, "pattern: expected a name, got None"),
        ({"depth": 1}, ValueError, "run: expected a dict with keys batch, examples, heads"),
    ],
)
def test_runs_that_cannot_be_trained(change, error, match):
    [run] = grid([copy(16, 5)], {"a": PRIMES}, seeds=1)
    with pytest.raises(error, match=match):
        check(run | change)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: grid(["copy"], {"a": PRIMES}), TypeError, "tasks: expected tasks, got 'copy'"),
        (lambda: grid([copy(8, 2)], [PRIMES]), TypeError, "patterns: expected a dict of patterns by name"),
        (
            lambda: grid([copy(8, 2)], {"a": "primes"}),
            TypeError,
            r"patterns\['a'\]: expected a Pattern, got 'primes'",
        ),
        (
            lambda: grid([copy(8, 2)], {"a": PRIMES}, depth=2),
            TypeError,
            "sizes: expected width, .*, besides layers, lrs and seeds, got depth",
        ),
        (lambda: grid([copy(8, 2)], {"a": PRIMES}, seeds=0), ValueError, "seeds: expected an integer >= 1"),
        (
            lambda: grid([copy(8, 2)], {"a": PRIMES}, layers=[0]),
            ValueError,
            "layers: expected an integer >= 1",
        ),
        (lambda: grid([copy(8, 2)], {"a": PRIMES}, width=0), ValueError, "width: expected an integer >= 1"),
        (
            lambda: grid([copy(8, 2)], {"a": Pattern(from_callable(lambda n: range(1, n + 1)))}),
            TypeError,
            r"patterns\['a'\]: from_callable.*: a callable cannot be written as JSON",
        ),
    ],
)
def test_bad_grids(call, error, match):
    with pytest.raises(error, match=match):
        call()
