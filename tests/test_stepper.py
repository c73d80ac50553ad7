import numpy as np
import pytest

from primeattn.language_model import make_model
from primeattn.losses import cross_entropy
from primeattn.nn import setup
from primeattn.optim import AdamW, clip_by_global_norm, warmup_cosine
from primeattn.patterns import Pattern
from primeattn.stepper import DivergedError, Stepper
from primeattn.tasks import mqar, needle
from primeattn.tree import flatten

TASK = mqar(length=16, pairs=2, vocab=12)
MODEL = make_model([Pattern("primes", window=3)], width=16, heads=2, context=16, vocab=12)


def draw(step):
    return TASK.draw(np.random.default_rng([7, step]), 4)


def test_steps_are_those_of_the_parts():
    stepper = Stepper(MODEL, draw, lr=0.01, steps=40, seed=5)
    (ps, st), optimizer = setup(np.random.default_rng(5), MODEL), AdamW(0.01, betas=(0.9, 0.99))
    moments = optimizer.init(ps)
    for step in range(40):
        tokens, targets = draw(step)
        logits, st, pullback = MODEL.pullback(tokens, ps, st)
        loss, dlogits = cross_entropy(logits, targets, ignore=-100)
        grads, _ = clip_by_global_norm(pullback(dlogits)[1], 1.0)
        rate = warmup_cosine(step, base_lr=0.01, warmup=2, total=40)
        ps, moments = optimizer.update(ps, grads, moments, lr=rate)
        assert stepper.advance() == loss == stepper.losses[step] and stepper.step == step + 1
    for one, other in ((stepper.ps, ps), (stepper.moments, moments)):
        one, other = flatten(one), flatten(other)
        assert all(np.array_equal(one[name], other[name]) for name in other)
    assert stepper.seconds > 0


def test_what_is_not_asked_teaches_nothing():
    """Targets that are ignored have no part in the gradient, whatever stands there."""
    task = needle(length=16)
    model = make_model([Pattern(None, window=15)], width=16, heads=2, context=16, vocab=task.vocab)

    def asked(step):
        return task.draw(np.random.default_rng(step), 4)

    def none(step):
        tokens, targets = asked(step)
        return tokens, np.full_like(targets, -100)

    stepper = Stepper(model, none, lr=0.01, steps=3, seed=0)
    assert stepper.advance() == 0 and not any(np.any(m) for m in flatten(stepper.moments["m"]).values())
    learns = Stepper(model, asked, lr=0.01, steps=60, seed=0)
    while learns.step < 60:
        learns.advance()
    assert learns.losses[-5:].mean() < 0.9 * learns.losses[0]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"draw": (1, 2)}, TypeError, "draw: expected a function of the step, got tuple"),
        (
            {"draw": lambda step: None},
            TypeError,
            "draw: expected it to return tokens and targets, got NoneType",
        ),
        ({"steps": 0}, ValueError, "steps: expected an integer >= 1, got 0"),
        ({"steps": 2.0}, TypeError, "steps: expected an integer, got 2.0"),
    ],
)
def test_bad_arguments(change, error, match):
    with pytest.raises(error, match=match):
        Stepper(**{"model": MODEL, "draw": draw, "lr": 0.01, "steps": 2, "seed": 0, **change}).advance()


def test_there_is_no_step_after_the_last():
    stepper = Stepper(MODEL, draw, lr=0.01, steps=1, seed=0)
    stepper.advance()
    with pytest.raises(RuntimeError, match="all 1 steps are taken"):
        stepper.advance()


def test_a_loss_that_is_not_finite_stops_it():
    stepper = Stepper(MODEL, draw, lr=1e30, steps=8, seed=0)
    with pytest.raises(DivergedError, match=r"training: loss nan .* lower lr"), np.errstate(all="ignore"):
        for _ in range(8):
            stepper.advance()
    assert stepper.step < 8
