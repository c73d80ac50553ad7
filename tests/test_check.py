from dataclasses import dataclass

import numpy as np
import pytest

from primeattn.check import check_gradients
from primeattn.nn import (
    Chain,
    Dense,
    Dropout,
    Embedding,
    Layer,
    LayerNorm,
    Parameter,
    gelu,
    relu,
    setup,
    zeros,
)


@dataclass(frozen=True, repr=False)
class Wrong(Dense):
    """Dense with one mistake."""

    mistake: str = ""

    def backward(self, dy, saved, ps, memory):
        dx, dps = super().backward(dy, saved, ps, memory)
        if self.mistake == "x":
            dx *= -1
        elif self.mistake in dps:
            dps[self.mistake] *= -1
        elif self.mistake == "one entry":
            dps["weight"][2, 1] *= 1.001
        elif self.mistake == "dx missing":
            dx = None
        elif self.mistake == "dps missing":
            del dps["bias"]
        elif self.mistake == "dtype":
            dx = dx.astype(np.float32)
        elif self.mistake == "writes dy":
            dy += 1
        elif self.mistake == "writes x":
            saved[0][...] *= 1 + 1e-12
        elif self.mistake == "once":
            dx += next(COUNTER)
        return dx, dps

    def forward(self, x, ps, st, memory):
        y, st, saved = super().forward(x, ps, st, memory)
        if self.mistake == "forward" and memory.saving:
            y = y + 1
        return y, st, saved


COUNTER = iter(range(1, 100))


def test_right_layers_pass_and_report_by_path(rng):
    errors = check_gradients(Wrong(4, 3), rng.standard_normal((5, 4)))
    assert list(errors) == ["x", "ps/weight", "ps/bias"]
    assert all(0 <= error < 1e-7 for error in errors.values())


@pytest.mark.parametrize(
    ("mistake", "match"),
    [
        ("x", r"x: at \(0, 0\) the pullback gives .* central differences give"),
        ("weight", r"ps/weight: at \(0, 0\)"),
        ("bias", r"ps/bias: at \(0,\)"),
        ("one entry", r"ps/weight: at \(2, 1\)"),
        ("dx missing", "gradients/dx: expected an array"),
        ("dps missing", r"dps: expected keys .* missing \['bias'\]"),
        ("dtype", "gradients/dx: expected dtype float64, got float32"),
        ("writes dy", "dy: written to by the pullback"),
        ("writes x", "x: written to by the layer"),
        ("once", "when called again"),
        ("forward", "the call and the pullback give different outputs"),
    ],
)
def test_mistakes_are_found(rng, mistake, match):
    with pytest.raises(AssertionError, match=match):
        check_gradients(Wrong(4, 3, mistake=mistake), rng.standard_normal((5, 4)))


def test_a_mistake_inside_a_chain_is_named(rng):
    model = Chain(Dense(4, 6), gelu, LayerNorm(6), head=Wrong(6, 2, mistake="bias"))
    with pytest.raises(AssertionError, match=r"ps/head/bias: at \(0,\)"):
        check_gradients(model, rng.standard_normal((3, 4)))


@dataclass(frozen=True, repr=False)
class OneWrongEntry(Layer):
    """Identity whose dx is wrong at the last entry."""

    def forward(self, x, ps, st, memory):
        return memory.copy(x), st, None

    def backward(self, dy, saved, ps, memory):
        dx = memory.copy(dy)
        dx.reshape(-1)[-1] += 1
        return dx, {}


def test_directions_see_the_entries_that_are_not_sampled(rng):
    with pytest.raises(AssertionError, match="x: at direction 0"):
        check_gradients(OneWrongEntry(), rng.standard_normal((5, 20)), max_entries=1)


def test_integer_input(rng):
    assert list(check_gradients(Embedding(5, 3), rng.integers(0, 5, 7))) == ["ps/weight"]

    @dataclass(frozen=True, repr=False)
    class Gives(Embedding):
        def backward(self, dy, saved, ps, memory):
            return dy, super().backward(dy, saved, ps, memory)[1]

    with pytest.raises(AssertionError, match="dx: expected None for an integer x"):
        check_gradients(Gives(5, 3), rng.integers(0, 5, 7))


def test_float32_input_is_checked_in_float64(rng):
    layer = Dense(4, 3)
    ps, st = setup(rng, layer)
    x = rng.standard_normal((5, 4), dtype=np.float32)
    errors = check_gradients(layer, x, ps, st)
    assert max(errors.values()) < 1e-7 and x.dtype == np.float32 and ps["weight"].dtype == np.float32


def test_state_is_held_fixed(rng):
    assert check_gradients(Dropout(0.4), rng.standard_normal((6, 5)))["x"] < 1e-7


def test_a_kink_next_to_x_is_stepped_over():
    assert check_gradients(relu, np.array([2e-6, -2e-6, 1.0]))["x"] < 1e-6


def test_zero_gradients_and_empty_inputs_pass(rng):
    check_gradients(relu, np.full(3, -1.0))
    check_gradients(Dense(3, 2), np.zeros((0, 3)))


def test_bad_calls():
    with pytest.raises(TypeError, match="x: expected a numpy array, got list"):
        check_gradients(relu, [1.0])
    with pytest.raises(TypeError, match="st: give it together with ps"):
        check_gradients(relu, np.ones(1), ps={})


def test_what_is_not_finite_is_refused(rng):
    with pytest.raises(ValueError, match="x: expected finite numbers, got nan"):
        check_gradients(relu, np.array([1.0, np.nan]))
    ps, st = setup(rng, Dense(3, 2))
    ps["weight"][0, 0] = np.inf
    with pytest.raises(ValueError, match="ps/weight: expected finite numbers, got inf"):
        check_gradients(Dense(3, 2), np.ones((1, 3)), ps, st)


@dataclass(frozen=True, repr=False)
class Far(Layer):
    """1e6 x + size * shift, with a gradient of shift of the wrong sign."""

    size: float

    def parameters(self):
        return {"shift": Parameter((3,), zeros)}

    def forward(self, x, ps, st, memory):
        return 1e6 * x + self.size * ps["shift"], st, None

    def backward(self, dy, saved, ps, memory):
        return 1e6 * dy, {"shift": -self.size * dy.sum(axis=0)}


def test_a_gradient_that_rounding_hides_is_not_passed(rng):
    x = rng.standard_normal((4, 3))
    with pytest.raises(ValueError, match=r"ps/shift: its gradient, .*, is lost in the rounding"):
        check_gradients(Far(1e-4), x)
    with pytest.raises(AssertionError, match="ps/shift: at"):
        check_gradients(Far(1.0), x)


@dataclass(frozen=True, repr=False)
class Power(Layer):
    """factor * x^2, with a gradient ``error`` times too large."""

    factor: float
    error: float = 0.0

    def forward(self, x, ps, st, memory):
        return self.factor * x * x, st, x

    def backward(self, dy, saved, ps, memory):
        return (1 + self.error) * 2 * self.factor * saved * dy, {}


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e-10, 1, 1e10])
def test_errors_are_relative_to_the_gradient_however_small(factor, rng):
    x = rng.standard_normal((4, 5))
    assert check_gradients(Power(factor), x)["x"] < 1e-8
    for error in (-1, -2, 1e-5):  # a gradient of 0, of the wrong sign, a little off
        with pytest.raises(AssertionError, match="x: at"):
            check_gradients(Power(factor, error), x)
