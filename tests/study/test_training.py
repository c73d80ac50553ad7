import json

import numpy as np
import pytest

from primeattn.language_model import make_model
from primeattn.losses import cross_entropy
from primeattn.patterns import Pattern
from primeattn.stepper import Stepper
from primeattn.study import grid, train, training
from primeattn.tasks import copy, mqar, needle, pixels, text

SIZES = {"width": 16, "steps": 8, "batch": 4, "examples": 10}


def one(task, stack=None, **options):
    [run] = grid([task], {"a": stack or [Pattern("squares", window=1)]}, seeds=1, **{**SIZES, **options})
    return run


@pytest.mark.parametrize(
    "task", [mqar(length=16, pairs=2, vocab=8), text(length=12), pixels(width=4, height=3)], ids=repr
)
def test_a_result_is_what_the_parts_give(task):
    run = one(task)
    result = train(run)
    model = make_model(
        [Pattern("squares", window=1)], width=16, heads=1, context=task.length, vocab=task.vocab, previous=1
    )
    stepper = Stepper(
        model, lambda step: task.draw(np.random.default_rng([3, 0, step]), 4), lr=3e-3, steps=8, seed=0
    )
    while stepper.step < 8:
        stepper.advance()
    assert result["losses"] == stepper.losses.tolist() and result["error"] is None
    for part, stream in (("validation", 1), ("test", 2)):
        tokens, targets = task.part(part).draw(np.random.default_rng([stream]), 10)
        logits, _ = model(tokens, stepper.ps, stepper.st)
        if task.metric == "bits":
            expected = cross_entropy(logits.astype(np.float64), targets)[0] / np.log(2)
        else:
            expected = (logits.argmax(axis=2) == targets)[targets >= 0].mean()
        assert result[part] == pytest.approx(expected, rel=1e-6)
    weights = np.array(result["asked"])
    assert (weights * result["score"]).sum() / weights.sum() == pytest.approx(result["test"])
    if task.metric == "bits":
        assert result["by"] == "position" and result["at"] == list(range(task.length))
        assert result["asked"] == [10] * task.length
    else:
        answers = task.answers(tokens, targets)
        distances = (np.arange(task.length) - answers)[answers >= 0]
        assert result["by"] == "distance" and result["at"] == np.unique(distances).tolist()
        assert result["asked"] == np.unique(distances, return_counts=True)[1].tolist()
    assert json.loads(json.dumps(result)) == result


@pytest.mark.parametrize("count", [1, 2, 3])
def test_equal_runs_give_equal_numbers_with_any_threads(threads, count):
    run = one(mqar(length=64, pairs=8, vocab=64), width=32, batch=32, steps=3, examples=40)
    expected = train(run)
    threads(count)
    assert train(run) == expected
    assert train(run | {"seed": 1}) != expected


def test_a_curve_has_fifty_points():
    assert len(train(one(copy(12, 3), steps=120))["losses"]) == 50


def test_a_run_that_diverges_says_so():
    result = train(one(copy(12, 3), steps=20) | {"lr": 1e30})
    assert "training: loss" in result["error"] and result["validation"] is result["test"] is None


def test_a_metric_that_is_no_number_is_a_failure(monkeypatch):
    monkeypatch.setattr(training, "_metric", lambda metric, logits, targets: targets * np.nan)
    result = train(one(copy(12, 3), steps=3))
    assert result["error"] == "the accuracy of the trained model is no finite number"
    assert result["validation"] is result["test"] is None


@pytest.mark.slow
def test_a_needle_within_reach_is_found():
    task = needle(length=24, distance=9, values=4, noise=2)
    sizes = {"width": 32, "steps": 100, "batch": 16, "examples": 200}
    assert train(one(task, [Pattern("squares")], **sizes))["test"] == 1
    missed = train(one(task, [Pattern("powers_of_two")], **sizes))["test"]
    assert missed == pytest.approx(0.25, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("sequence", "layers"), [("squares", 1), ("primes", 2)])  # figures/STUDY.md has more
def test_needles_are_found_exactly_within_hops(sequence, layers):
    task, stack = needle(length=64), [Pattern(sequence, window=3)] * layers
    result = train(one(task, stack, width=64, heads=2, steps=600, batch=32, examples=4000))
    reach = task.reach(stack)
    at, asked, score = (np.array(result[name]) for name in ("at", "asked", "score"))
    right = asked * score
    near, far = reach[at], ~reach[at]
    assert right[near].sum() / asked[near].sum() >= 0.99
    assert right[far].sum() / asked[far].sum() == pytest.approx(task.chance, abs=0.03)
