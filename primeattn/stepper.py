"""Training, one step after another: any model that gives logits, any tokens and targets."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from primeattn.checks import as_int
from primeattn.losses import cross_entropy
from primeattn.nn import setup
from primeattn.optim import AdamW, clip_by_global_norm, warmup_cosine
from primeattn.tree import map as map_tree
from primeattn.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from primeattn.nn import Layer
    from primeattn.typing import Array

__all__ = ["DivergedError", "Stepper"]


class DivergedError(RuntimeError):
    """A loss or a gradient is not finite.

    See Also
    --------
    Stepper : Raises it.

    Examples
    --------
    >>> import primeattn as pa
    >>> issubclass(pa.stepper.DivergedError, RuntimeError)
    True
    """


class Stepper:
    """A model between two training steps.

    They are steps of AdamW, with gradients clipped to norm 1, at a rate that rises for 5 % of the steps and
    then falls.

    Parameters
    ----------
    model : Layer
        Tokens (batch, length) -> logits (batch, length, vocabulary).
    draw : callable
        ``draw(step)`` returns tokens and targets (batch, length) of a step; targets of -100 are not counted.
    lr : float
        Largest learning rate.
    steps : int
        All steps to be taken, at least 1.
    seed : int
        Of the initial parameters.

    Attributes
    ----------
    ps, st : nested dict
        Parameters (two sets of arrays take turns) and states.
    step : int
        Steps taken.
    losses : ndarray of float64, shape (steps,)
        Loss of each step in nats per target; 0 for steps to come.
    seconds : float
        Time that the steps took.

    Raises
    ------
    TypeError, ValueError
        If ``draw`` is no function, or ``steps`` no such number.

    See Also
    --------
    primeattn.train.Trainer : Trains on a text, with checkpoints.
    primeattn.study.train : Trains on a task.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> task = pa.tasks.copy(length=16, distance=3, symbols=4)
    >>> model = pa.Chain(pa.Embedding(4, 8), pa.Dense(8, 4))
    >>> draw = lambda step: task.draw(np.random.default_rng(step), batch=8)
    >>> stepper = pa.stepper.Stepper(model, draw, lr=1e-2, steps=5, seed=0)
    >>> while stepper.step < 5:
    ...     loss = stepper.advance()
    >>> bool(loss < stepper.losses[0])
    True
    """

    def __init__(
        self, model: Layer, draw: Callable[[int], tuple[Array, Array]], *, lr: float, steps: int, seed: int
    ) -> None:
        if not callable(draw):
            raise TypeError(f"draw: expected a function of the step, got {type(draw).__name__}")
        steps = as_int("steps", steps, minimum=1)
        self.model, self._draw, self._lr = model, draw, lr
        self.ps, self.st = setup(np.random.default_rng(seed), model)
        self.optimizer = AdamW(lr, betas=(0.9, 0.99))
        self.moments = self.optimizer.init(self.ps)
        self.step, self.losses, self.seconds = 0, np.zeros(steps), 0.0
        self._workspace = Workspace()
        self._spare = map_tree(np.empty_like, self.ps), map_tree(np.empty_like, self.moments)

    def advance(self) -> float:
        """Take one step; return its loss in nats per target.

        DivergedError if it or the gradient is not finite, RuntimeError if all steps are taken. After an
        exception, even from a signal handler, the model is still between two steps.
        """
        start = time.perf_counter()
        if self.step == len(self.losses):
            raise RuntimeError(f"Stepper: all {self.step} steps are taken")
        drawn = self._draw(self.step)
        if not isinstance(drawn, (tuple, list)) or len(drawn) != 2:
            raise TypeError(f"draw: expected it to return tokens and targets, got {type(drawn).__name__}")
        tokens, targets = drawn
        self._workspace.reset()
        logits, st, pullback = self.model.pullback(tokens, self.ps, self.st, workspace=self._workspace)
        loss, dlogits = cross_entropy(logits, targets, workspace=self._workspace)
        _, grads = pullback(dlogits)
        grads, norm = clip_by_global_norm(grads, 1.0, out=grads)
        if not math.isfinite(loss + norm):
            raise DivergedError(
                f"training: loss {loss} and gradient norm {norm} at step {self.step}; lower lr"
            )
        steps = len(self.losses)
        rate = warmup_cosine(self.step, base_lr=self._lr, warmup=steps // 20, total=steps)
        self.losses[self.step] = loss
        ps, moments = self.optimizer.update(self.ps, grads, self.moments, lr=rate, out=self._spare)
        vars(self).update(  # one step for Python
            {"ps": ps, "moments": moments, "_spare": (self.ps, self.moments), "st": st, "step": self.step + 1}
            | {"seconds": self.seconds + time.perf_counter() - start}
        )
        return loss
