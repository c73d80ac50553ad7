"""Gradient checker: hand-written pullbacks against central differences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from primeattn import tree
from primeattn.checks import is_array
from primeattn.nn import setup

if TYPE_CHECKING:
    from primeattn.nn import Layer
    from primeattn.typing import Array, Params, States

__all__ = ["check_gradients"]

# The first step is the best for smooth functions; a smaller one crosses fewer kinks, such as relu's.
STEPS = (1e-5, 1e-6, 1e-7)
DIRECTIONS = 2
ROUNDING = 32  # units in the last place by which rounding may change f
# Of what rounding may cause: less is a gradient of 0 that rounding moved, more is one that can be checked.
LOST = (1e-4, 10)


def check_gradients(
    layer: Layer,
    x: Array,
    ps: Params | None = None,
    st: States | None = None,
    *,
    rng: np.random.Generator | None = None,
    tol: float = 1e-6,
    max_entries: int = 64,
) -> dict[str, float]:
    """Compare ``layer.pullback`` with central differences of ``f(x, ps) = sum(c * layer(x, ps, st))``.

    c is random. Everything is done in float64. For x and every parameter array w, the derivative along an
    entry is ``(f(w + h e) - f(w - h e)) / 2h``, compared with the entry of the gradient g that the pullback
    gives; an array with more than ``max_entries`` entries is checked at that many random ones. Two random
    directions e with entries ±1 follow, which test all entries at once. The error of an entry is relative to
    max|g|, that of a direction to the norm of g, less what rounding of f may cause. Also checked: g has the
    structure, shapes and dtypes of x and ps; a call and the pullback give the same y; no argument is written
    to; the pullback gives the same when called twice.

    Parameters
    ----------
    layer : Layer
        The layer to check.
    x : array
        Input, of floats (converted to float64) or integers (dx must then be None).
    ps, st : nested dicts, optional
        Parameters (converted to float64) and state. By default those of `setup`, with noise on parameters,
        since scales of 1 and biases of 0 hide mistakes.
    rng : numpy.random.Generator, optional
        For parameters, c, entries and directions; by default ``np.random.default_rng(0)``.
    tol : float
        Largest relative error.
    max_entries : int
        Number of entries checked per array.

    Returns
    -------
    dict
        Largest relative error by path: ``x``, and ``ps/...`` for each parameter.

    Raises
    ------
    AssertionError
        Names the path, the index (or direction), the analytic and the numeric value.
    ValueError
        If x, the parameters or the output are not finite, or a gradient is so small beside the output that
        rounding hides it: nothing can be said of it then.

    See Also
    --------
    primeattn.Layer : What a layer of your own defines.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> errors = pa.check_gradients(pa.Dense(3, 2), np.random.default_rng(1).standard_normal((5, 3)))
    >>> list(errors), max(errors.values()) < 1e-6
    (['x', 'ps/weight', 'ps/bias'], True)
    """
    rng = np.random.default_rng(0) if rng is None else rng
    if not is_array(x):
        raise TypeError(f"x: expected a numpy array, got {type(x).__name__}")
    if ps is None:
        ps, fresh_st = setup(rng, layer, dtype=np.float64)
        ps = tree.map(lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape), ps)
        st = fresh_st if st is None else st
    if st is None:
        raise TypeError("st: give it together with ps, or neither")
    ps = tree.map(lambda leaf: leaf.astype(np.float64), ps)
    x = x.astype(np.float64 if x.dtype.kind == "f" else x.dtype)

    values = {"x": x, **{f"ps/{path}": leaf for path, leaf in tree.flatten(ps).items()}}
    for path, value in values.items():
        _require_finite(path, value)
    before = {path: value.copy() for path, value in values.items()}
    y, _, pullback = layer.pullback(x, ps, st)
    _require_finite("y", y)
    c = rng.standard_normal(y.shape)
    given = c.copy()
    gradients = _named_gradients(pullback(c), x, ps)
    for path, value in values.items():
        _require(_same(value, before[path]), f"{path}: written to by the layer or its pullback")
    _require(_same(c, given), "dy: written to by the pullback")
    again = _named_gradients(pullback(c), x, ps)
    for path, gradient in gradients.items():
        _require(_same(gradient, again[path]), f"{path}: the pullback gives something else when called again")
    _require(_same(layer(x, ps, st)[0], y), "y: the call and the pullback give different outputs")

    def f():
        return float(np.vdot(c, layer(x, ps, st)[0]))

    rounding = ROUNDING * np.finfo(np.float64).eps * float(np.linalg.norm(c * y)) / STEPS[0]
    return {
        path: _compare(f, path, values[path], g, rng, tol, max_entries, rounding)
        for path, g in gradients.items()
    }


def _named_gradients(result, x, ps):
    """Gradients by path, after a check of their structure; x has one only if it is float."""
    dx, dps = result
    try:
        tree.check(dps, ps, "dps")
        if x.dtype.kind == "f":
            tree.check({"dx": dx}, {"dx": x}, "gradients")
    except (TypeError, ValueError) as error:
        raise AssertionError(str(error)) from None
    _require(x.dtype.kind == "f" or dx is None, "dx: expected None for an integer x")
    named = {f"ps/{path}": leaf for path, leaf in tree.flatten(dps).items()}
    return named if dx is None else {"x": dx, **named}


def _compare(f, path, value, gradient, rng, tol, max_entries, rounding):
    """Largest relative error of ``gradient``; ``value`` is moved in place and restored."""
    base, worst = value.copy(), 0.0
    largest, norm = float(np.abs(gradient).max(initial=0)), float(np.linalg.norm(gradient))
    if LOST[0] * rounding < largest < LOST[1] * rounding:
        raise ValueError(
            f"{path}: its gradient, at most {largest:.2g}, is lost in the rounding of differences, "
            f"{rounding:.2g}; make the output smaller beside it"
        )
    entries = np.arange(value.size)
    if value.size > max_entries:
        entries = np.sort(rng.choice(value.size, max_entries, replace=False))
    directions = [(f"direction {i}", rng.choice([-1.0, 1.0], value.shape)) for i in range(DIRECTIONS)]
    probes = [(str(tuple(map(int, np.unravel_index(i, value.shape)))), i) for i in entries.tolist()]
    for where, direction in probes + directions:
        if isinstance(direction, int):
            analytic, scale = float(gradient.flat[direction]), largest
        else:
            analytic, scale = float(np.vdot(gradient, direction)), norm
        for step in STEPS:
            numeric = _central_difference(f, value, base, direction, step)
            beyond = abs(analytic - numeric) - rounding
            error = 0.0 if beyond <= 0 else beyond / max(scale, abs(numeric))
            if error <= tol:
                break
        _require(
            error <= tol,
            f"{path}: at {where} the pullback gives {analytic:.9g}, central differences give {numeric:.9g} "
            f"(relative error {error:.2g}, tolerance {tol:.2g})",
        )
        worst = max(worst, error)
    return float(worst)


def _central_difference(f, value, base, direction, step):
    results = []
    for h in (step, -step):
        if isinstance(direction, int):
            value.flat[direction] = base.flat[direction] + h
        else:
            value[...] = base + h * direction
        results.append(f())
        value[...] = base
    return (results[0] - results[1]) / (2 * step)


def _same(a, b):
    return a is b or (a is not None and b is not None and np.array_equal(a, b))


def _require_finite(name, value):
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise ValueError(f"{name}: expected finite numbers, got {value[~np.isfinite(value)][0]}")


def _require(condition, message):
    if not condition:
        raise AssertionError(message)
