"""The layer protocol: immutable configuration, explicit parameters and states, hand-written pullbacks.

As in Lux.jl, a layer holds no arrays. ``setup`` draws its parameters and states as nested dicts; a call takes
them and returns the output and the new state.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn import tree
from primeattn._config import Config
from primeattn.checks import is_array
from primeattn.nn._memory import Memory
from primeattn.nn._parameter import DTYPES, Parameter, Spec, specs

if TYPE_CHECKING:
    from primeattn.typing import Array, DTypeLike, Params, Pullback, States, Tree
    from primeattn.workspace import Workspace


class Layer(Config):
    """Base of all layers.

    A layer of your own is a frozen dataclass (``@dataclass(frozen=True, repr=False)``) that derives from
    Layer and defines

    - ``parameters()``: nested dict of `Parameter`; none by default,
    - ``states(rng)``: nested dict; empty by default,
    - ``check_input(x, ps)``: raises if the layer cannot take x; by default x must be a float array of the
      parameters' dtype,
    - ``forward(x, ps, st, memory) -> (y, st, saved)``: take new arrays from ``memory.take(shape, dtype)``;
      ``saved`` is whatever ``backward`` needs,
    - ``backward(dy, saved, ps, memory) -> (dx, dps)``: dps has the structure of ps; dx is None where a
      gradient has no meaning. It must not write to dy or ``saved``, since it may be called again,
    - ``with_cache(st, start, capacity, dtype)``: if the output of a token depends on other tokens, so that
      `primeattn.with_cache` and generation work (see `PositionalEmbedding`).

    A container runs its children with ``child.apply(x, ps, st, memory)`` and ``child.backward``.

    See Also
    --------
    primeattn.setup : Draws parameters and states.
    primeattn.check_gradients : Checks a layer of your own.
    SparseIndexAttention : Attention with places to change it.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np, primeattn as pa
    >>> @dataclass(frozen=True, repr=False)
    ... class Scale(pa.nn.Layer):
    ...     dim: int
    ...
    ...     def parameters(self):
    ...         return {"scale": pa.nn.Parameter((self.dim,), pa.nn.ones)}
    ...
    ...     def forward(self, x, ps, st, memory):
    ...         return np.multiply(x, ps["scale"], out=memory.take(x.shape, x.dtype)), st, x
    ...
    ...     def backward(self, dy, saved, ps, memory):
    ...         dscale = memory.take((self.dim,), dy.dtype)
    ...         np.sum((dy * saved).reshape(-1, self.dim), axis=0, out=dscale)
    ...         return np.multiply(dy, ps["scale"], out=memory.take(dy.shape, dy.dtype)), {"scale": dscale}
    >>> errors = pa.check_gradients(Scale(3), np.random.default_rng(0).standard_normal((2, 5, 3)))
    >>> list(errors)
    ['x', 'ps/scale']
    """

    def parameters(self) -> Tree:
        """Return the declarations of the parameters, a nested dict of `Parameter`.

        Returns
        -------
        nested dict
            By default none.
        """
        return {}

    def states(self, rng: np.random.Generator) -> States:
        """Return a new state; ``rng`` draws what is random in it.

        Parameters
        ----------
        rng : numpy.random.Generator
            Draws it.

        Returns
        -------
        nested dict
            By default none.
        """
        return {}

    def check_input(self, x: Array, ps: Params) -> None:
        """Raise TypeError or ValueError if the layer cannot take x.

        Parameters
        ----------
        x : array
            Input.
        ps : nested dict
            Parameters.
        """
        check_float(self, x, ps)

    def forward(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        """Return y, the new state, and what `backward` needs; see `Layer`.

        Parameters
        ----------
        x : array
            Input, checked.
        ps, st : nested dicts
            Parameters and state, checked.
        memory : Memory
            ``memory.take(shape, dtype)`` gives new arrays.

        Returns
        -------
        y : array
            Output.
        st : nested dict
            The new state.
        saved : object
            What `backward` needs.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def backward(self, dy: Array, saved: Any, ps: Params, memory: Memory) -> tuple[Any, Params]:
        """Return the gradients of x and of ps, given that of y; see `Layer`.

        Parameters
        ----------
        dy : array
            Gradient with respect to y.
        saved : object
            From `forward`.
        ps : nested dict
            Parameters.
        memory : Memory
            As in `forward`.

        Returns
        -------
        dx : array or None
            Gradient with respect to x.
        dps : nested dict
            Gradients with respect to ps.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no backward")

    def with_cache(self, st: States, start: Array, capacity: int, dtype: DTypeLike) -> States:
        """State with an empty cache, for :func:`primeattn.with_cache`, which checks the arguments.

        ``start`` (batch,) are the positions of the first tokens, ``capacity`` bounds the positions. A layer
        without positions keeps its state; a container passes this on to its children.

        Parameters
        ----------
        st : nested dict
            State without a cache.
        start : int array (batch,)
            Positions of the first tokens.
        capacity : int
            Most positions.
        dtype : dtype
            That of the parameters.

        Returns
        -------
        nested dict
            The state.
        """
        return st

    @property
    def parameter_count(self) -> int:
        """Number of trainable numbers; needs no setup."""
        return sum(math.prod(spec.shape) for spec in tree.flatten(self._specs[DTYPES[0]]).values())

    @cached_property
    def _specs(self):
        return specs(self.parameters(), f"{type(self).__name__}.parameters")

    @cached_property
    def _state_keys(self):
        return frozenset(self.states(np.random.default_rng(0)))

    def check(self, x: Array, ps: Params, st: States) -> None:
        """Raise TypeError or ValueError unless x, ps and st fit the layer, as a call does.

        Parameters
        ----------
        x : array
            Input.
        ps, st : nested dicts
            Parameters and state.
        """
        self.check_parameters(ps)
        self._check_call(x, ps, st)

    def check_parameters(self, ps: Params) -> None:
        """Raise TypeError or ValueError unless ps are parameters of the layer.

        Parameters
        ----------
        ps : nested dict
            Parameters.
        """
        dtype = parameter_dtype(ps) if isinstance(ps, dict) else None
        tree.check(ps, self._specs.get(dtype, self._specs[DTYPES[0]]), "ps")

    def _check_call(self, x, ps, st):
        if not isinstance(st, dict) or st.keys() - {"cache"} != self._state_keys:
            got = sorted(st) if isinstance(st, dict) else type(st).__name__
            raise ValueError(
                f"{type(self).__name__}: expected a state with keys {sorted(self._state_keys)}, got {got}"
            )
        self.check_input(x, ps)

    def apply(self, x: Array, ps: Params, st: States, memory: Memory) -> tuple[Array, States, Any]:
        """Check st and x, then run ``forward``; ``saved`` is None if no pullback will follow.

        Parameters
        ----------
        x : array
            Input.
        ps, st : nested dicts
            Parameters and state.
        memory : Memory
            That of the container.

        Returns
        -------
        y, st, saved
            As from `forward`.
        """
        self._check_call(x, ps, st)
        memory.called(self, x, ps, st)
        y, st, saved = self._forward(x, ps, st, memory)
        return y, st, saved if memory.saving else None

    def _forward(self, x, ps, st, memory):
        found = self.forward(x, ps, st, memory)
        if not isinstance(found, tuple) or len(found) != 3:
            got = f"{len(found)} values" if isinstance(found, tuple) else type(found).__name__
            raise TypeError(f"{type(self).__name__}.forward: expected it to return (y, st, saved), got {got}")
        return found

    def _run(self, x, ps, st, memory):
        self.check(x, ps, st)
        y, new_st, saved = self._forward(x, ps, st, memory)
        return (memory.copy(x) if y is x else y), new_st, saved if memory.saving else None

    def __call__(
        self, x: Array, ps: Params, st: States, workspace: Workspace | None = None
    ) -> tuple[Array, States]:
        """``y, st = layer(x, ps, st)``.

        Parameters
        ----------
        x : array
            Input; it is neither copied nor changed.
        ps, st : nested dicts
            Parameters and state, from `setup`.
        workspace : Workspace, optional
            Memory for y until ``workspace.reset()``. Without one, y is a new array.

        Returns
        -------
        y : array
            Output.
        st : nested dict
            The new state.

        Raises
        ------
        TypeError, ValueError
            If x, ps or st does not fit the layer.
        """
        memory = Memory(workspace, saving=False)
        with memory.hold():
            y, st, _ = self._run(x, ps, st, memory)
        return y, st

    def pullback(
        self, x: Array, ps: Params, st: States, workspace: Workspace | None = None
    ) -> tuple[Array, States, Pullback]:
        """``y, st, pullback = layer.pullback(x, ps, st)``; then ``dx, dps = pullback(dy)``.

        For a loss L with dy = ∂L/∂y, the pullback returns dx = ∂L/∂x (None for integer inputs) and
        dps = ∂L/∂ps. Do not change x or ps before you call it. Arguments are those of a call. With a
        workspace, y, saved activations, dx and dps live in it until its reset; after that, the pullback
        raises RuntimeError.

        Parameters
        ----------
        x : array
            Input.
        ps, st : nested dicts
            Parameters and state.
        workspace : Workspace, optional
            Memory of the step.

        Returns
        -------
        y : array
            Output.
        st : nested dict
            The new state.
        pullback : callable
            dy -> dx, dps.
        """
        memory = Memory(workspace)
        with memory.hold():
            y, st, saved = self._run(x, ps, st, memory)
            shape, dtype, generation = y.shape, y.dtype, memory.generation

        def pullback(dy):
            tree.check(dy, Spec(shape, dtype), "dy")
            with memory.hold():
                if memory.generation != generation:
                    raise RuntimeError("pullback: made before workspace.reset(), its activations are gone")
                dx, dps = self.backward(dy, saved, ps, memory)
                return (memory.copy(dy) if dx is dy else dx), dps

        return y, st, pullback


def setup(rng: np.random.Generator, layer: Layer, dtype: DTypeLike = np.float32) -> tuple[Params, States]:
    """Draw the parameters and states of a layer: ``ps, st = setup(rng, layer)``.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the parameters in the order of the layers, then the states.
    layer : Layer
        The layer to set up.
    dtype : float32 or float64
        Dtype of the parameters, and so of the layer's computations.

    Returns
    -------
    ps, st : nested dicts of arrays
        Nested by the names of the child layers.

    Raises
    ------
    TypeError
        If ``rng`` is no generator, ``layer`` no Layer, or ``dtype`` another one.

    See Also
    --------
    primeattn.Layer : What a layer is.
    primeattn.with_cache : A state that remembers earlier tokens.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> ps, st = pa.setup(np.random.default_rng(0), pa.Chain(pa.Dense(2, 3), pa.LayerNorm(3)))
    >>> {path: leaf.shape for path, leaf in pa.tree.flatten(ps).items()}
    {'layer_0/weight': (2, 3), 'layer_0/bias': (3,), 'layer_1/scale': (3,), 'layer_1/bias': (3,)}
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: expected a Layer, got {type(layer).__name__}")
    dtype = np.dtype(dtype)
    if dtype not in DTYPES:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype}")

    def draw(declared):
        if isinstance(declared, Parameter):
            return declared.init(rng, declared.shape, dtype)
        return {name: draw(child) for name, child in declared.items()}

    of_dtype = layer._specs[dtype]
    ps = draw(layer.parameters())
    tree.check(ps, of_dtype, "ps")  # a user's initialiser may return anything
    return ps, layer.states(rng)


def parameter_dtype(ps):
    """Dtype of the first array of ps, or None if there is none."""
    for child in ps.values():
        dtype = parameter_dtype(child) if isinstance(child, dict) else getattr(child, "dtype", None)
        if dtype is not None:
            return dtype
    return None


def check_float(layer, x, ps, features=None, ranks=None):
    """Raise unless x is a float array of the dtype of ps, with ``features`` in its last axis."""
    if not is_array(x):
        raise TypeError(f"{_name(layer)}: x must be a numpy array, got {type(x).__name__}")
    dtype = parameter_dtype(ps)
    if x.dtype not in DTYPES:
        raise TypeError(f"{_name(layer)}: x must be {dtype or 'float32 or float64'}, got {x.dtype}")
    if dtype is not None and x.dtype != dtype:
        raise TypeError(
            f"{_name(layer)}: x is {x.dtype} but the parameters are {dtype}; "
            f"pass x.astype(np.{dtype}) or set up with dtype=np.{x.dtype}"
        )
    if x.ndim == 0 or (ranks is not None and x.ndim not in ranks):
        wanted = "at least one axis" if ranks is None else "shape (seq, dim) or (batch, seq, dim)"
        raise ValueError(f"{_name(layer)}: x must have {wanted}, got shape {x.shape}")
    if features is not None and x.shape[-1] != features:
        raise ValueError(f"{_name(layer)}: x must have last axis {features}, got shape {x.shape}")


def _name(layer):
    """The name of a layer in errors: its repr if that is one line, else its type."""
    shown = repr(layer)
    return shown if "\n" not in shown else type(layer).__name__
