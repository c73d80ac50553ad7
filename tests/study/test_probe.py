"""Tasks of a user's that cannot be trained are refused before anything is."""

from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest

import primeattn as pa
from primeattn.study.probe import probe
from primeattn.tasks import IGNORED, Task

numbers = count()


def even(self, rng, batch):
    tokens = rng.integers(4, size=(batch, 12))
    return tokens, tokens


def targets(make):
    """A draw with these targets."""

    def draw(self, rng, batch):
        tokens, _ = even(self, rng, batch)
        return tokens, make(tokens)

    return draw


def task(**members):
    """One of a new class."""
    members = {"length": 12, "vocab": 4, "chance": 0.25, "draw": even, "__module__": __name__} | members
    members = {name: value for name, value in members.items() if value is not None}
    return dataclass(frozen=True, repr=False)(type(f"task_{next(numbers)}", (Task,), members))()


@dataclass(frozen=True, repr=False)
class named(Task):
    name: str = "x"
    length, vocab, chance, draw = 12, 4, 0.25, even


@dataclass(frozen=True, repr=False)
class arrays(Task):
    of: object = None
    length, vocab, chance, draw = 12, 4, 0.25, even


class plain(Task):
    length, vocab, chance, draw = 12, 4, 0.25, even


BAD = [
    (lambda: task(length=None), TypeError, "length: expected an integer"),
    (lambda: task(vocab=4.0), TypeError, "vocab: expected an integer"),
    (lambda: task(chance=None), TypeError, "chance: expected a number, got None"),
    (lambda: task(chance="half"), TypeError, "chance: expected a number, got 'half'"),
    (lambda: task(metric="acc"), ValueError, "metric: expected 'accuracy' or 'bits', got 'acc'"),
    (lambda: task(draw=lambda *_: None), TypeError, "draw: expected a pair of .*, got NoneType"),
    (lambda: task(draw=lambda s, r, b: even(s, r, b + 1)), ValueError, r"length\) = \(4, 12\), got \(5"),
    (lambda: task(draw=lambda s, r, b: even(s, r, b)[0][0]), TypeError, "a pair of tokens and targets"),
    (lambda: task(length=13), ValueError, r"expected tokens of shape .* got \(4, 12\)"),
    (lambda: task(vocab=3), ValueError, r"draw: expected tokens in \[0, 3\), got 3"),
    (lambda: task(draw=targets(lambda t: t - 1)), ValueError, r"draw: expected targets in \[0, 4\), got -1"),
    (lambda: task(draw=targets(lambda t: t / 2)), TypeError, "targets in an array of integers, got float64"),
    (lambda: task(draw=targets(lambda t: t.tolist())), TypeError, "targets in an array of .*, got list"),
    (lambda: task(draw=targets(lambda t: t * 0 + IGNORED)), ValueError, "expected targets, got none"),
    (lambda: task(draw=lambda s, r, b: even(s, np.random.default_rng(next(numbers)), b)), ValueError,
     "expected the same for equal generators"),
    (lambda: task(answers=lambda s, t, y: np.zeros(3, int)), TypeError, "answers: expected integers"),
    (lambda: task(answers=lambda s, t, y: t * 0 + 5), ValueError, r"at 0 a place in \[0, 0\], got 5"),
    (lambda: task(answers=lambda s, t, y: t * 0 - 1), ValueError, "at 0 a place .* got -1"),
    (lambda: task(reach=lambda s, p: np.ones(12, bool)), ValueError, "expected answers where"),
    (lambda: task(reach=lambda s, p: [True], answers=lambda s, t, y: t * 0), TypeError, "expected a bool"),
    (named, TypeError, "named: expected no field 'name'"),
    (plain, TypeError, "plain: expected a dataclass"),
    (lambda: arrays(np.ones(2)), TypeError, "arrays: expected fields of JSON types"),
    (lambda: arrays((1, 2)), TypeError, "arrays: expected fields that JSON gives back as they were"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "match"), BAD)
def test_what_cannot_be_trained_is_refused(make, error, match):
    with pytest.raises(error, match=match):
        pa.study.grid([make()], {"a": pa.Pattern("squares")}, seeds=1)


def test_a_class_that_is_no_dataclass_still_prints():
    assert repr(plain()) == "plain()"


def test_the_digest_follows_what_is_drawn():
    """As from helpers, which the source of the class does not show."""
    shift = 0

    def draw(self, rng, batch):
        tokens, _ = even(self, rng, batch)
        return tokens, (tokens + shift) % 4

    one = task(draw=draw)
    before = probe(one)
    assert probe(one) == before
    shift = 1
    assert probe(one) != before
    assert probe(pa.tasks.needle()) == ""


def test_nothing_at_all_is_refused(tmp_path):
    patterns = {"a": pa.Pattern("squares")}
    for tasks, options in (([], {"lrs": 0.1}), ([], {"layers": 2}), (None, {}), (pa.tasks.copy(16, 4), {})):
        with pytest.raises(TypeError, match="expected a list, got"):
            pa.study.grid(tasks, patterns, **options)
    for options in ({"lrs": []}, {"layers": []}):
        with pytest.raises(ValueError, match="runs: expected at least one task, pattern"):
            pa.study.grid([pa.tasks.copy(16, 4)], patterns, **options)
    with pytest.raises(ValueError, match="runs: expected at least one, got none"):
        pa.study.run([], out=tmp_path / "out")
    (tmp_path / "file").write_text("")
    runs = pa.study.grid([pa.tasks.copy(16, 4)], patterns, seeds=1)
    with pytest.raises(ValueError, match="out: expected a folder, got the file"):
        pa.study.run(runs, out=tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def repeated(self, rng, batch):
    return even(self, rng, 4)  # however many are asked for


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: task(draw=repeated),
            ValueError,
            r"draw: expected tokens of shape .* \(5, 12\), got \(4, 12\)",
        ),
        (lambda: task(chance=float("nan")), TypeError, "chance: expected a number, got nan"),
        (lambda: task(part=lambda self, name: None), ValueError, "part: expected a task of the same length"),
        (
            lambda: pa.tasks.pixels(4, 100),
            ValueError,
            "pixels: expected a patch of at most 512 × 75, got 4 × 100",
        ),
        (lambda: pa.tasks.text(16, "gone"), FileNotFoundError, "text: expected a file, found none at 'gone'"),
    ],
)
def test_data_that_do_not_suffice_are_refused(make, error, match):
    with pytest.raises(error, match=match):
        pa.study.grid([make()], {"a": pa.Pattern("squares")}, seeds=1)


def test_every_part_of_a_text_must_suffice(tmp_path):
    """Of 3000 bytes 150 each are for validation and test, which are drawn after the training alone."""
    path = tmp_path / "text"
    path.write_bytes(bytes(range(250)) * 12)
    patterns = {"a": pa.Pattern("squares")}
    assert pa.study.grid([pa.tasks.text(149, str(path))], patterns, seeds=1)
    with pytest.raises(ValueError, match="expected more than length = 256 bytes of validation, got 150"):
        pa.study.grid([pa.tasks.text(256, str(path))], patterns, seeds=1)


@pytest.mark.parametrize("kind", [np.uint64, np.int8, list])
def test_answers_of_any_integers(kind):
    def answers(self, tokens, targets):
        places = np.zeros_like(tokens)
        return places.tolist() if kind is list else places.astype(kind)

    reach = {"reach": lambda self, patterns: np.ones(12, bool)}
    sizes = {"width": 8, "steps": 2, "batch": 4, "examples": 8}
    runs = pa.study.grid([task(answers=answers, **reach)], {"a": pa.Pattern("squares")}, seeds=1, **sizes)
    result = pa.study.train(runs[0])
    assert result["by"] == "distance" and result["at"] == list(range(12))
    [row] = pa.study.summary([{"run": runs[0], "result": result}])
    assert row["predicted"] == 1
