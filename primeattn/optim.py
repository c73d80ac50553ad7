"""Optimisers, gradient clipping and a learning-rate schedule: pure functions on nested dicts.

An optimiser is configuration; its state is a nested dict of arrays::

    opt = pa.optim.AdamW(lr=1e-3)
    state = opt.init(ps)
    ps, state = opt.update(ps, grads, state)                      # new trees
    ps, state = opt.update(ps, grads, state, out=(ps, state))     # the same numbers, written in place
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn import tree
from primeattn._config import Config, check_callable, freeze_real
from primeattn.checks import extent, is_array, share_memory
from primeattn.compiled import loops
from primeattn.compiled.parallel import row_blocks, share
from primeattn.nn._parameter import DTYPES

if TYPE_CHECKING:
    from primeattn.typing import Array, Params, Tree

__all__ = ["SGD", "Adam", "AdamW", "clip_by_global_norm", "warmup_cosine"]


class _Optimiser(Config):
    """``init`` and ``update`` for optimisers that keep some moments per parameter and count their steps."""

    moments = ()

    def init(self, ps: Params) -> Tree:
        """State before the first step: zero moments shaped like ps, and the number of steps taken."""
        return {"step": np.zeros((), np.int64), **{name: tree.zeros_like(ps) for name in self.moments}}

    def update(
        self,
        ps: Params,
        grads: Params,
        state: Tree,
        *,
        lr: float | None = None,
        out: tuple[Params, Tree] | None = None,
    ) -> tuple[Params, Tree]:
        """One step.

        Parameters
        ----------
        ps, grads : nested dicts
            Parameters and their gradients, of one structure.
        state : nested dict
            From `init` or the step before.
        lr : float, optional
            Learning rate of this step, instead of the optimiser's.
        out : (ps, state), optional
            Trees to write the result to, for example those passed in; by default new ones. A leaf may be the
            one that it replaces, but must not share memory with any other. Results are bitwise the same.

        Returns
        -------
        ps, state : nested dicts

        Raises
        ------
        TypeError, ValueError
            If ps is not float32 or float64, a tree lacks the keys, shapes and dtypes of ps, or leaves share
            memory, such as one array at two places of ps (see `Tied`); nothing is written then.
        """
        lr = self.lr if lr is None else _non_negative("lr", lr)
        for path, p in tree.flatten(ps).items():
            if not is_array(p) or p.dtype not in DTYPES:
                got = p.dtype if is_array(p) else type(p).__name__
                raise TypeError(f"ps/{path}: expected float32 or float64, got {got}")
            if lr > float(np.finfo(p.dtype).max):
                raise ValueError(f"lr: expected a finite number of {p.dtype}, got {lr}")
        tree.check(grads, ps, "grads")
        like = {"step": np.empty((), np.int64), **dict.fromkeys(self.moments, ps)}
        tree.check(state, like, "state")
        new_ps, new_state = (tree.map(np.empty_like, t) for t in (ps, state)) if out is None else out
        tree.check(new_ps, ps, "out[0]")
        tree.check(new_state, like, "out[1]")
        if out is None:
            _refuse_shared("ps", tree.flatten(ps), {})
        else:
            written = tree.flatten({"ps": new_ps, "state": new_state})
            for path, leaf in written.items():
                if not leaf.flags.writeable:
                    raise ValueError(f"out: {path} is read-only")
            _refuse_shared("out", written, tree.flatten({"ps": ps, "state": state, "grads": grads}))

        step = int(state["step"]) + 1
        olds, news = ([t[name] for name in self.moments] for t in (state, new_state))

        def step_leaf(path, g, *arrays):
            old, new = arrays[: len(arrays) // 2], arrays[len(arrays) // 2 :]
            # Rules work on contiguous arrays; one may read and write the same.
            work = [a if a.flags.c_contiguous else np.empty(a.shape, a.dtype) for a in new]
            flat = [*map(_flat, (g, *old)), *(a.reshape(-1) for a in work)]
            rule = self.rule(path, old[0], step, lr)
            share(row_blocks(g.size, 1), lambda _, block: rule(*(a[block] for a in flat)))
            for target, source in zip(new, work, strict=True):
                if target is not source:
                    np.copyto(target, source)

        tree.map_with_path(step_leaf, grads, ps, *olds, new_ps, *news)
        new_state["step"][...] = step
        return new_ps, new_state


@dataclass(frozen=True, repr=False)
class SGD(_Optimiser):
    """``v = momentum v + g;  p = p - lr v``

    Parameters
    ----------
    lr : float
        Learning rate.
    momentum : float
        In [0, 1).

    See Also
    --------
    Adam : With a rate for each parameter.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> opt, ps = pa.optim.SGD(lr=0.5), {"w": np.array([1.0, 2.0])}
    >>> ps, state = opt.update(ps, {"w": np.array([1.0, -1.0])}, opt.init(ps))
    >>> ps
    {'w': array([0.5, 2.5])}
    """

    lr: float
    _: KW_ONLY
    momentum: float = 0.0

    moments = ("velocity",)

    def __post_init__(self) -> None:
        freeze_real(self, "lr", 0)
        freeze_real(self, "momentum", 0, 1)

    def rule(self, path: str, p: Array, step: int, lr: float) -> Any:
        """Return the function that updates this leaf from its gradient, in place."""
        numbers = _typed(p, self.momentum, lr)
        return lambda g, *arrays: loops.sgd(g, numbers, *arrays)


@dataclass(frozen=True, repr=False)
class Adam(_Optimiser):
    """Gradient descent with a rate for each parameter, from moments of its gradient.

    At step t = 1, 2, ...::

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g**2
        p = p - lr (m / (1 - b1**t)) / (sqrt(v / (1 - b2**t)) + eps)

    Kingma and Ba, Adam: a method for stochastic optimization (2015).

    Parameters
    ----------
    lr : float
        Learning rate.
    betas : (float, float)
        b1 and b2, in [0, 1).
    eps : float
        Keeps the step finite if the gradient is 0.

    See Also
    --------
    AdamW : With weight decay.
    SGD : Without second moments.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> opt, ps = pa.optim.Adam(lr=0.1), {"w": np.array([1.0, 2.0])}
    >>> ps, state = opt.update(ps, {"w": np.array([5.0, -0.01])}, opt.init(ps))
    >>> ps["w"].round(4), int(state["step"])
    (array([0.9, 2.1]), 1)
    """

    lr: float
    _: KW_ONLY
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    moments = ("m", "v")

    def __post_init__(self) -> None:
        freeze_real(self, "lr", 0)
        freeze_real(self, "eps", 0)
        pair = isinstance(self.betas, (tuple, list)) and len(self.betas) == 2
        if not pair or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(
                f"{type(self).__name__}: betas must be two numbers in [0, 1), got {self.betas!r}"
            )
        object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))

    def decay_rate(self, path: str, p: Array) -> float:
        """Return what this leaf loses in a step, relative to the learning rate."""
        return 0.0

    def rule(self, path: str, p: Array, step: int, lr: float) -> Any:
        """Return the function that updates this leaf from its gradient, in place."""
        b1, b2 = self.betas
        keep, scale = 1 - lr * self.decay_rate(path, p), lr / (1 - b1**step)
        root = 1 / math.sqrt(1 - b2**step)
        numbers = _typed(p, b1, 1 - b1, b2, 1 - b2, keep, scale, root, self.eps)
        return lambda g, *arrays: loops.adam(g, numbers, *arrays)


def _typed(p, *numbers):
    """The numbers in the dtype of p."""
    return tuple(p.dtype.type(number) for number in numbers)


def matrices(path: str, p: Array) -> bool:
    """Default choice of leaves that decay: those with at least two axes, so no biases and scales."""
    return p.ndim >= 2


@dataclass(frozen=True, repr=False)
class AdamW(Adam):
    """`Adam` after ``p = p (1 - lr weight_decay)`` for the parameters that ``decay`` chooses.

    Loshchilov and Hutter, Decoupled weight decay regularization (2019).

    Parameters
    ----------
    lr, betas, eps
        As in `Adam`.
    weight_decay : float
        Rate of decay, relative to lr.
    decay : callable
        ``decay(path, p) -> bool``; by default leaves with at least two axes decay, biases and scales do not.

    See Also
    --------
    Adam : Without weight decay.
    warmup_cosine : A learning rate for each step.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> opt, ps = pa.optim.AdamW(lr=0.1, weight_decay=0.5), {"w": np.ones((1, 2)), "b": np.ones(2)}
    >>> ps, state = opt.update(ps, pa.tree.zeros_like(ps), opt.init(ps))
    >>> ps
    {'w': array([[0.95, 0.95]]), 'b': array([1., 1.])}
    """

    _: KW_ONLY
    weight_decay: float = 0.01
    decay: Callable = matrices

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze_real(self, "weight_decay", 0)
        check_callable(self, "decay")

    def decay_rate(self, path: str, p: Array) -> float:
        """Return what this leaf loses in a step, relative to the learning rate."""
        return self.weight_decay if self.decay(path, p) else 0.0


def clip_by_global_norm(grads: Params, max_norm: float, out: Params | None = None) -> tuple[Params, float]:
    """``g = g * min(1, max_norm / norm)`` with the norm of all leaves together, ``norm = sqrt(sum g**2)``.

    Parameters
    ----------
    grads : nested dict
        Gradients.
    max_norm : float
        Largest norm that passes unchanged, above 0.
    out : nested dict, optional
        Tree to write to, for example ``grads``; by default a new one.

    Returns
    -------
    grads : nested dict
        The clipped gradients.
    norm : float
        Norm before clipping, summed in float64. If it is not finite, the gradients are left unchanged:
        check the norm before taking the step.

    Raises
    ------
    TypeError, ValueError
        If a leaf is no array of floats, or ``max_norm`` is not above 0.

    See Also
    --------
    warmup_cosine : A learning rate for each step.
    AdamW : Takes the step.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> pa.optim.clip_by_global_norm({"w": np.array([3.0, 4.0])}, 1.0)
    ({'w': array([0.6, 0.8])}, 5.0)
    """
    max_norm = _non_negative("max_norm", max_norm)
    if max_norm == 0:
        raise ValueError("max_norm: expected a number above 0, got 0")
    for path, leaf in tree.flatten(grads).items():
        if not is_array(leaf):
            raise TypeError(f"grads/{path}: expected a NumPy array, got {type(leaf).__name__}")
    norm = math.sqrt(sum(loops.sum_squares(_flat(leaf)) for leaf in tree.flatten(grads).values()))
    if out is None:
        out = tree.map(np.empty_like, grads)
    else:
        tree.check(out, grads, "out")
        _refuse_shared("out", tree.flatten(out), tree.flatten(grads))
    scale = max_norm / norm if max_norm < norm < math.inf else 1.0
    return tree.map(lambda g, new: np.multiply(g, scale, out=new), grads, out), norm


def _refuse_shared(name, written, read):
    """Raise if a leaf of ``written`` shares memory with any but the one of ``read`` that it replaces."""
    places = {path: extent(leaf) for path, leaf in written.items()}
    leaves = [(*places[path], path, leaf, True) for path, leaf in written.items()]
    for path, leaf in read.items():
        place = extent(leaf)
        if path not in written or (places[path], written[path].strides) != (place, leaf.strides):
            leaves.append((*place, path, leaf, False))
    near = []  # in the order of addresses, only neighbours can share memory
    for one in sorted(leaves, key=lambda entry: entry[0]):
        begin, _, path, leaf, is_written = one
        near = [entry for entry in near if entry[1] > begin]
        for _, _, other, leaf2, other_written in near:
            if (is_written or other_written) and share_memory(leaf, leaf2):
                raise ValueError(f"{name}: {path} shares memory with {other}")
        near.append(one)


def _flat(array):
    """``array`` as one contiguous axis: a view if it is contiguous, else a copy."""
    return np.ascontiguousarray(array).reshape(-1)


def warmup_cosine(step: int, *, base_lr: float, warmup: int, total: int, final: float = 0.1) -> float:
    """Learning rate of a step: a line up to ``base_lr``, then half a cosine down to ``final * base_lr``.

    ``base_lr (step + 1) / warmup`` while ``step < warmup``; then, with u = (step - warmup) / (total -
    warmup), at most 1, ``base_lr (final + (1 - final) (1 + cos(pi u)) / 2)``. Loshchilov and Hutter, SGDR
    (2017).

    Parameters
    ----------
    step : int
        Steps taken so far.
    base_lr : float
        Largest rate.
    warmup, total : int
        Number of steps of the rise, and of all; ``0 <= warmup < total``.
    final : float
        Last rate, as a fraction of base_lr.

    Returns
    -------
    float
        The rate.

    Raises
    ------
    ValueError
        If a number of steps is out of its range.

    See Also
    --------
    AdamW : Takes it as ``lr`` of ``update``.

    Examples
    --------
    >>> import primeattn as pa
    >>> [round(pa.optim.warmup_cosine(s, base_lr=1.0, warmup=2, total=6, final=0.0), 3) for s in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    base_lr, final = _non_negative("base_lr", base_lr), _non_negative("final", final)
    if not 0 <= warmup < total:
        raise ValueError(f"warmup: expected 0 <= warmup < total, got warmup={warmup}, total={total}")
    if step < 0:
        raise ValueError(f"step: expected at least 0, got {step}")
    if step < warmup:
        return base_lr * (step + 1) / warmup
    u = min(1.0, (step - warmup) / (total - warmup))
    return base_lr * (final + (1 - final) * (1 + math.cos(math.pi * u)) / 2)


def _non_negative(name, value):
    value = float(value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number of at least 0, got {value}")
    return value
