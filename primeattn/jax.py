"""Sparse causal attention on arrays of JAX, computed on the CPU (``pip install 'primeattn[jax]'``)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from primeattn._extras import require

if TYPE_CHECKING:
    from primeattn.typing import AnyArray, Patterns

require("jax")

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from primeattn.checks import as_int
from primeattn.kernels import sparse_index_kernel, sparse_index_kernel_backward
from primeattn.kernels.arguments import check_forward
from primeattn.kernels.call import Target
from primeattn.patterns import Pattern

__all__ = ["attention"]

LEARNED = ("q", "k", "v", "offset_bias", "global_bias")  # what has gradients, where it is given


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    pattern: Patterns,
    *,
    scale: float | None = None,
    q_start: int | AnyArray = 0,
    k_start: int | AnyArray = 0,
    cu_seqlens: AnyArray | None = None,
    offset_bias: AnyArray | None = None,
    global_bias: AnyArray | None = None,
    slopes: AnyArray | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    dropout_seed: Any = 0,
    return_lse: bool = False,
) -> Any:
    """Sparse causal attention with gradients of q, k, v, offset_bias, global_bias, also through lse.

    out and lse are those of :func:`primeattn.sparse_index_kernel`, where the formula is. The kernels of the
    CPU are called back, from compiled programs and with arrays of a GPU, too, which are copied there and
    back. Works with ``jax.jit``, ``grad``, ``vmap`` and ``jacrev``. Second derivatives and forward mode raise
    an error.

    Parameters
    ----------
    q : (batch, heads, n_q, head_dim) array
        float32 or float64; float16 or bfloat16 are computed in float32.
    k, v : (batch, kv_heads, n_k, head_dim) arrays
        Like q in dtype.
    pattern : Pattern or sequence of Pattern
        One, or one per query head.
    scale, softcap, dropout : float, optional
        Known when a program is compiled.
    q_start, k_start : int, or (batch,) array of integers
        Positions of the first query and the first key.
    cu_seqlens : (sequences + 1,) array of integers, optional
        Boundaries of packed sequences in a batch of 1.
    offset_bias, global_bias, slopes : arrays, optional
        Of the dtype of q; slopes has no gradient.
    dropout_seed : int, or (2,) array of uint32
        Such as ``jax.random.key_data(key)``: the higher and the lower half of a seed.
    return_lse : bool
        Whether to return lse, too.

    Returns
    -------
    out : array like q
        The attention of each query.
    lse : (batch, heads, n_q) array
        Only with ``return_lse``; float64 if q is, else float32.

    Raises
    ------
    TypeError, ValueError
        As in the kernel. Where positions or the shapes of biases are wrong, the error is one of JAX that
        holds the message.

    See Also
    --------
    primeattn.sparse_index_kernel : The formula, and all that options mean.

    Examples
    --------
    >>> import jax, primeattn as pa
    >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 1, 2, 100, 16))
    >>> pattern = pa.Pattern("primes", window=3)
    >>> loss = jax.jit(lambda q: pa.jax.attention(q, k, v, pattern).sum())
    >>> jax.grad(loss)(q).shape
    (1, 2, 100, 16)
    """
    given = {"q": q, "k": k, "v": v, "offset_bias": offset_bias, "global_bias": global_bias, "slopes": slopes}
    given = {name: jnp.asarray(array) for name, array in given.items() if array is not None}
    dtype = given["q"].dtype
    for name, array in given.items():
        if array.dtype != dtype:
            raise TypeError(f"{name}: expected the dtype of q, {dtype}, got {array.dtype}")
    if dtype in (jnp.bfloat16, jnp.float16):
        given = {name: array.astype(jnp.float32) for name, array in given.items()}
    fixed = _Fixed(tuple(pattern) if isinstance(pattern, list) else pattern, scale, softcap, dropout)
    _check(given, fixed)
    other = {"cu_seqlens": cu_seqlens, "slopes": given.pop("slopes", None)}
    other |= {"dropout_seed": _halves(dropout_seed) if dropout else None}
    for name, start in (("q_start", q_start), ("k_start", k_start)):
        other[name] = None if type(start) is int and start == 0 else start
    other = {name: jnp.array(array) for name, array in other.items() if array is not None}
    out, lse = _attend(fixed, given, other)
    return (out.astype(dtype), lse) if return_lse else out.astype(dtype)


class _Fixed(NamedTuple):
    """What a compiled program does not change."""

    pattern: Pattern | tuple[Pattern, ...]
    scale: float | None
    softcap: float | None
    dropout: float


def _check(given, fixed):
    """Raise what a call would raise now, as errors of a callback come late and wrapped."""
    arrays = {name: np.empty(given[name].shape, given[name].dtype) for name in "qkv"}  # never touched
    check_forward(Target(False), arrays | {"out": np.empty_like(arrays["q"])}, fixed._asdict(), None)


def _halves(seed):
    if not isinstance(seed, (np.ndarray, jax.Array)):
        seed = as_int("dropout_seed", seed, minimum=0, maximum=2**64 - 1)
        return np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    if seed.shape != (2,) or seed.dtype != np.uint32:
        raise ValueError(f"dropout_seed: expected shape (2,) of uint32, got {seed.shape} of {seed.dtype}")
    return seed


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(fixed, learned, other):
    q = learned["q"]
    results = {"out": q, "lse": jax.ShapeDtypeStruct(q.shape[:3], q.dtype)}
    results = _call(sparse_index_kernel, fixed, results, learned, other)
    return results["out"], results["lse"]


def _forward(fixed, learned, other):
    if "slopes" in other and other["slopes"].perturbed:
        raise ValueError("slopes: expected an array of which no gradient is asked, as there is none")
    learned, other = ({name: array.value for name, array in some.items()} for some in (learned, other))
    out, lse = _attend(fixed, learned, other)
    return (out, lse), (learned, other, out, lse)


def _backward(fixed, saved, gradients):
    learned, other, out, lse = saved
    dout, dlse = (jnp.zeros(x.shape, x.dtype) if isinstance(x, SymbolicZero) else x for x in gradients)
    results = {f"d{name}": learned[name] for name in LEARNED if name in learned}
    given = learned | {"out": out, "lse": lse, "dout": dout, "dlse": dlse}
    results = _call(sparse_index_kernel_backward, fixed, results, given, other)
    return {name.removeprefix("d"): gradient for name, gradient in results.items()}, None


_attend.defvjp(_forward, _backward, symbolic_zeros=True)  # which tell what a gradient is asked of


def _call(kernel, fixed, results, arrays, other):
    """Call a kernel back with arrays by name; the results have the shapes of those in ``results``."""
    shapes = {name: jax.ShapeDtypeStruct(like.shape, like.dtype) for name, like in results.items()}

    def run(arrays, other):
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        options = {name: np.asarray(array) for name, array in other.items()}
        if "dropout_seed" in options:
            high, low = options["dropout_seed"].tolist()
            options["dropout_seed"] = (high << 32) + low
        # Where vmap has put axes before those of one call, they join the batch.
        more = arrays["q"].shape[:-4]
        made = {name: np.empty((*more, *shape.shape), shape.dtype) for name, shape in shapes.items()}
        joined = {name: array.reshape(-1, *array.shape[len(more) + 1 :]) if more else array
                  for name, array in (arrays | made).items()}  # fmt: skip
        kernel(**joined, **options, **fixed._asdict())
        return made

    # Only a batch can join a batch: what belongs to the whole call makes calls of their own.
    plain = not other and arrays.keys().isdisjoint(("offset_bias", "global_bias"))
    method = "broadcast_all" if plain else "sequential"
    return jax.pure_callback(run, shapes, arrays, other, vmap_method=method)
