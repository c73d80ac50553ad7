"""What holds for every task."""

import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import primeattn as pa
from primeattn.analysis import hops
from primeattn.patterns import Pattern
from primeattn.tasks import IGNORED, Task, copy, from_json, induction, mqar, needle, pixels, text

RECALL = [
    needle(length=24),
    needle(length=24, distance=9, values=3, noise=2),
    copy(length=20, distance=7),
    copy(length=20, distance=19, symbols=2),
    induction(length=24),
    induction(length=24, distance=22, symbols=4),
    mqar(length=32, pairs=4, vocab=32),
    mqar(length=33, pairs=8, vocab=18, layout="zoology", power=1.0),
]
ALL = [*RECALL, text(length=12), pixels(width=5, height=4)]


def ids(task):
    return repr(task)


@pytest.mark.parametrize("task", ALL, ids=ids)
def test_draws(task):
    tokens, targets = task.draw(np.random.default_rng(3), 50)
    assert tokens.shape == targets.shape == (50, task.length)
    assert tokens.dtype == targets.dtype == np.int64
    assert tokens.min() >= 0 and tokens.max() < task.vocab
    asked = targets != IGNORED
    assert asked.any(axis=1).all() and targets[asked].min() >= 0 and targets[asked].max() < task.vocab
    again = task.draw(np.random.default_rng(3), 50)
    np.testing.assert_array_equal(again, (tokens, targets))
    other, _ = task.draw(np.random.default_rng(4), 50)
    assert not np.array_equal(tokens, other)


@pytest.mark.parametrize("task", ALL, ids=ids)
def test_values(task):
    again = from_json(json.loads(json.dumps(task.to_json())))
    assert again == task == eval(repr(task)) == pickle.loads(pickle.dumps(task))
    assert hash(again) == hash(task) and type(again) is type(task)
    assert task.metric == ("bits" if isinstance(task, (text, pixels)) else "accuracy")
    with pytest.raises(AttributeError):
        task.length = 3


@pytest.mark.parametrize("task", RECALL, ids=ids)
def test_every_answer_is_where_it_is_said_to_be(task):
    tokens, targets = task.draw(np.random.default_rng(1), 200)
    answers = task.answers(tokens, targets)
    for row in range(200):
        for i in range(task.length):
            if targets[row, i] == IGNORED:
                assert answers[row, i] == -1
            else:
                assert answers[row, i] < i and tokens[row, answers[row, i]] == targets[row, i]
                if getattr(task, "distance", None):
                    assert i - answers[row, i] == task.distance


@pytest.mark.parametrize("task", RECALL, ids=ids)
def test_chance_is_what_guessing_gives(task):
    rng = np.random.default_rng(2)
    tokens, targets = task.draw(rng, 4000)
    asked = targets != IGNORED
    guesses = np.unique(targets[asked])  # what answers can be
    given = rng.choice(guesses, size=targets.shape)
    if isinstance(task, induction):  # the last token is never its own answer
        given[:, -1] = (tokens[:, -1] + rng.integers(1, task.symbols, size=4000)) % task.symbols
    right = (given == targets)[asked]
    assert right.mean() == pytest.approx(task.chance, abs=4 / np.sqrt(right.size))
    most = np.bincount(targets[asked]).max() / asked.sum()  # no fixed answer does better
    assert most < task.chance + 4 / np.sqrt(right.size) or isinstance(task, induction)


STACKS = [
    [Pattern("primes", window=3)],
    [Pattern("squares", window=1), Pattern("mian_chowla")],
    [(Pattern("squares"), Pattern("powers_of_two")), Pattern(None, window=2, global_tokens=2)],
]


@pytest.mark.parametrize("stack", STACKS, ids=repr)
@pytest.mark.parametrize("task", RECALL, ids=ids)
def test_predictions_count_paths_in_masks(task, stack):
    """Relays multiply the masks of the layers; where none can help, one mask must have the pair."""
    n = task.length
    masks = [
        np.any([head.to_dense(n) for head in (layer if isinstance(layer, tuple) else (layer,))], axis=0)
        for layer in stack
    ]
    reached = np.eye(n, dtype=int)
    for mask in masks:
        reached = (mask.astype(int) @ reached > 0).astype(int)
    if isinstance(task, (induction, mqar)):
        reached = np.any(masks, axis=0)
    tokens, targets = task.draw(np.random.default_rng(5), 4000)
    rows, asked = np.nonzero(targets != IGNORED)
    share = reached[asked, task.answers(tokens, targets)[rows, asked]].mean()
    assert task.predict(stack) == pytest.approx(share, abs=0.025)


def test_predicted_distances():
    stack = [Pattern("primes", window=3), Pattern("squares")]
    np.testing.assert_array_equal(needle(50).reach(stack), hops(stack, 50) >= 0)
    np.testing.assert_array_equal(copy(50, 3).reach(stack), hops(stack, 50) >= 0)
    for task in (induction(50), mqar(50, pairs=4)):
        union = Pattern("primes", window=3) | Pattern("squares")
        assert np.flatnonzero(task.reach(stack)).tolist() == union.offsets(50).tolist()
    assert text().predict(stack) is None and pixels().predict(stack) is None


def test_only_data_has_parts():
    assert needle().part("test") == needle()
    assert text().part("test") == text(data="test") and pixels().part("train") == pixels()
    for task in (needle(), text(), pixels()):
        with pytest.raises(ValueError, match="part: expected one of train, validation, test, got 'dev'"):
            task.part("dev")


def test_a_task_of_your_own():
    @dataclass(frozen=True, repr=False)
    class last_bit(Task):
        length: int = 4
        vocab, chance = 2, 0.5

        def draw(self, rng, batch):
            tokens = rng.integers(2, size=(batch, self.length))
            return tokens, tokens

    task = from_json(last_bit(length=5).to_json())
    assert task == last_bit(length=5) and task.predict(STACKS[0]) is None and task.digest == ""


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: needle(length=1), ValueError, "needle: length must be at least 2, got 1"),
        (lambda: needle(length=9, distance=9), ValueError, "needle: distance: expected an integer <= 8"),
        (lambda: needle(values=1), ValueError, "needle: values must be at least 2"),
        (lambda: needle(noise=True), TypeError, "needle: noise must be an integer"),
        (lambda: copy(8, 8), ValueError, "copy: distance: expected an integer <= 7, got 8"),
        (lambda: copy(8, 0), ValueError, "copy: distance must be at least 1"),
        (lambda: copy(8, None), TypeError, "copy: distance must be an integer, got None"),
        (lambda: copy(8, 1, symbols=1), ValueError, "copy: symbols must be at least 2"),
        (lambda: induction(8, 7), ValueError, "induction: distance: expected an integer <= 6, got 7"),
        (lambda: induction(symbols=2), ValueError, "induction: symbols must be at least 3"),
        (lambda: mqar(length=63, pairs=16), ValueError, "mqar: length must be at least 64, got 63"),
        (lambda: mqar(pairs=16, vocab=33), ValueError, "mqar: vocab must be at least 34, got 33"),
        (lambda: mqar(vocab=129), ValueError, "mqar: vocab must be even, got 129"),
        (lambda: mqar(layout="paper"), ValueError, "mqar: layout must be 'free' or 'zoology', got 'paper'"),
        (lambda: mqar(power=0), ValueError, "mqar: power must be above 0, got 0"),
        (lambda: text(data="dev"), ValueError, "part: expected one of train, validation, test, got 'dev'"),
        (lambda: text(path=3), TypeError, "text: path must be a str or None, got 3"),
        (lambda: text(length=10**8).draw(np.random.default_rng(0), 1), ValueError, "text: expected more"),
        (lambda: pixels(levels=257), ValueError, "pixels: levels must be at most 256, got 257"),
        (lambda: pixels(height=76).draw(np.random.default_rng(0), 1), ValueError, "at most 512 × 75, got 28"),
        (lambda: needle().draw(0, 1), TypeError, "rng: expected a numpy.random.Generator, got int"),
        (lambda: needle().draw(np.random.default_rng(0), 0), ValueError, "batch: expected an integer >= 1"),
        (lambda: needle().predict(Pattern("primes")), TypeError, "patterns: expected a list with a"),
        (lambda: needle().predict(iter([Pattern("primes")])), TypeError, "patterns: expected a list with a"),
        (lambda: needle().predict([]), ValueError, "patterns: expected a pattern for each layer, got none"),
        (lambda: needle().predict([["primes"]]), TypeError, "patterns: expected a Pattern, or one for each"),
        (lambda: from_json({"length": 3}), TypeError, "obj: expected a dict made by Task.to_json"),
        (lambda: from_json({"name": "sort"}), ValueError, "name: expected a task among .*copy.*, got 'sort'"),
        (lambda: type("needle", (Task,), {}), ValueError, "needle: a task of primeattn.tasks.need"),
        (lambda: Task().draw(None, 1), NotImplementedError, "Task defines no draw"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_tasks_are_imported_at_first_use():
    assert pa.tasks.needle is needle
