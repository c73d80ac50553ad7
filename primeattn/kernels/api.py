"""The public kernels: check, then run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from primeattn.kernels.arguments import check_array, check_backward, check_forward, check_inputs
from primeattn.kernels.call import lse_dtype
from primeattn.kernels.device_arrays import device_interface, stream_handle
from primeattn.kernels.dispatch import locate, run
from primeattn.kernels.gpu import launch_cache
from primeattn.kernels.halves import rounded, widened
from primeattn.kernels.host_arrays import like, view_of_host

if TYPE_CHECKING:
    from collections.abc import Sequence as Several

    from primeattn.typing import AnyArray, ArrayT, OtherT, Patterns
    from primeattn.workspace import Workspace

__all__ = ["attention", "merge", "sparse_index_kernel", "sparse_index_kernel_backward"]


def sparse_index_kernel(
    out: ArrayT,
    lse: OtherT,
    q: AnyArray,
    k: AnyArray,
    v: AnyArray,
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
    dropout_seed: int = 0,
    workspace: Workspace | None = None,
    device: str | None = None,
    stream: Any = None,
    kernel: str | None = None,
) -> tuple[ArrayT, OtherT]:
    """Sparse causal attention into preallocated arrays.

    With keys(i) = { j : 0 <= j <= i and (j < G or i - j <= W or i - j in S) }, each key once::

        s_ij = cap(scale * q_i·k_j) + bias_ij - slope * (i - j);  p = softmax of s over keys(i)
        out_i = sum_j m_ij / (1 - dropout) p_ij v_j;  lse_i = log sum_j exp s_ij

    cap(s) = softcap * tanh(s / softcap); without softcap, cap(s) = s. Biases and slope are 0 unless given.
    m_ij is 0 with the probability ``dropout``, else 1; it is 1 unless given. Memory beyond the arguments is
    O(n · head_dim). Results are bitwise the same for any number of threads.

    Parameters
    ----------
    out : (batch, heads, n_q, head_dim) array
        Overwritten. It shares no element with any other argument.
    lse : (batch, heads, n_q) array or None
        float64 if q is float64, else float32. Overwritten. None skips it, but the backward needs it.
    q : (batch, heads, n_q, head_dim) array
        float16, bfloat16, float32 or float64, the same for all arrays but lse; those of 16 bits are computed
        in float32, and results are rounded once.
        Here and below, arrays are used in place, with any strides and a contiguous last axis. Either all are
        in the memory of the CPU (NumPy, torch, JAX, or what else has DLPack or ``__array_interface__``), or
        all in that of the GPU (Numba, CuPy, torch, JAX). On the CPU, inputs of another layout, unaligned ones
        included, are copied, and outputs are arrays of NumPy or torch: those of JAX are read-only. Tensors
        of torch that require a gradient are refused, as ``primeattn.torch.attention`` is for these.
    k, v : (batch, kv_heads, n_k, head_dim) array
        ``heads`` is a multiple of ``kv_heads``; query head h reads key head h // (heads // kv_heads).
    pattern : Pattern or sequence of Pattern
        One for all query heads, or one per query head.
    scale : float, optional
        1 / sqrt(head_dim) by default.
    q_start, k_start : int or (batch,) int array
        Positions of the first query and the first key: row r has position q_start + r, and attends keys in
        [k_start, k_start + n_k). A row left without keys gets out = 0 and lse = -inf. A position below 0 is
        padding: nobody sees such a key, no such query sees any, and what these rows hold does not matter.
        So ``q_start = k_start = -padding`` serves batches padded on the left.
    cu_seqlens : (sequences + 1,) int array, optional
        Boundaries, from 0 to n_q, of packed sequences in a batch of 1. Each sequence attends only itself and
        has its own globals. Not together with q_start or k_start.
    offset_bias : (heads, offsets) array, optional
        Here and for the next two, contiguous, of the dtype of q. Added to the score of a key j >= G by the
        distance: offset_bias[h, u], where i - j is number u of ``pattern.offsets(n)``. It is as long as these
        are for the farthest distance n - 1 of the call, or longer. With one pattern per head, rows are padded
        to the longest.
    global_bias : (heads, G) array, optional
        Added to the score of a key j < G: global_bias[h, j].
    slopes : (heads,) array, optional
        slope = slopes[h] for all keys, as in ALiBi (Press et al. 2022).
    softcap : float, optional
        Scores before biases stay between -softcap and softcap, as in Gemma 2.
    dropout : float
        Probability in [0, 1) that a pair of query and key is dropped. lse is that without dropout. A hash
        decides, of the seed, the entry of the batch (or the number of the packed sequence), the query head,
        and both positions modulo 2**32: not shapes, kernel, device or threads.
    dropout_seed : int
        In [0, 2**64). The backward needs that of the forward.
    workspace : Workspace, optional
        Keeps scratch memory between calls; on the GPU, use one per stream.
    device : {None, "cpu", "cuda", "auto"}
        Where to run. None: where the arrays are (on a GPU, the one that is current in Numba). "cuda" copies
        NumPy arrays to the GPU and the results back. "auto" does so if there is a GPU and the work justifies
        the copies (``dispatch.AUTO_RULE``). CPU and GPU round differently.
    stream : stream of Numba, CuPy or torch, or its handle, optional
        GPU stream to run on. By default the stream that the arrays carry (for torch tensors, the current
        one), or else the default stream. To capture calls in a graph of torch or CuPy, first run them once
        with the same ``workspace``: nothing can be planned or allocated during capture.
        Calls with arrays in the memory of the GPU return before the kernels have run.
    kernel : {None, "tiles", "scalar", "gather", "wheel"}
        Implementation; None chooses. On the CPU that is "tiles"; "scalar" takes the same calls, in plain
        loops to read and, with NUMBA_DISABLE_JIT=1, to step through. On the GPU, "gather" takes everything,
        and "wheel" uses tensor cores (see :mod:`primeattn.wheel`): it needs float16 or bfloat16, head_dim
        64 or 128, rows at multiples of 16 bytes, scale above 0, a key at the position of every query, none of
        them padding, and none of the terms from offset_bias to dropout: with these, None means "gather".
        With "wheel", a NaN or infinity may spread from one row to others of the same tile.

    Returns
    -------
    out, lse
        The arrays passed in.

    Raises
    ------
    TypeError, ValueError
        Before anything is written; names the argument, what was expected and what came.
    RuntimeError
        If a GPU is requested and none can be used; it says what to install.

    See Also
    --------
    attention : The same into new arrays.
    sparse_index_kernel_backward : The gradients.
    merge : Joins results over ranges of keys.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 100, 16), dtype=np.float32)
    >>> out, lse = np.empty_like(q), np.empty((1, 2, 100), np.float32)
    >>> out, lse = pa.sparse_index_kernel(out, lse, q, k, v, pa.Pattern("primes", window=3, global_tokens=2))
    >>> bool(np.allclose(out[0, 0, 0], v[0, 0, 0]))  # the first token sees itself only
    True
    """
    arrays = {"out": out, "q": q, "k": k, "v": v} | ({} if lse is None else {"lse": lse})
    biases = {"offset_bias": offset_bias, "global_bias": global_bias, "slopes": slopes}
    arrays |= {name: array for name, array in biases.items() if array is not None}
    options = {"pattern": pattern, "scale": scale, "softcap": softcap}
    options |= {"dropout": dropout, "dropout_seed": dropout_seed}
    options |= {"q_start": q_start, "k_start": k_start, "cu_seqlens": cu_seqlens}
    _run(False, arrays, options, device, stream, kernel, workspace)
    return out, lse


def _run(backward, arrays, options, device, stream, kernel, workspace):
    """Check a call and run it; on the GPU, relaunch the stored launch of an earlier call like it."""
    entry = None
    if type(arrays["q"]) is not np.ndarray:
        entry = launch_cache.lookup(backward, arrays, options, device, stream, kernel, workspace)
    if entry is None or not entry.relaunch():
        target, views = locate(arrays, device, stream, kernel)
        check = check_backward if backward else check_forward
        launch = run(check(target, views, options, workspace))
        if entry is not None:
            entry.store(launch, views)


def sparse_index_kernel_backward(
    dq: ArrayT,
    dk: ArrayT,
    dv: ArrayT,
    dout: AnyArray,
    q: AnyArray,
    k: AnyArray,
    v: AnyArray,
    out: AnyArray,
    lse: AnyArray,
    pattern: Patterns,
    *,
    dlse: AnyArray | None = None,
    scale: float | None = None,
    q_start: int | AnyArray = 0,
    k_start: int | AnyArray = 0,
    cu_seqlens: AnyArray | None = None,
    offset_bias: AnyArray | None = None,
    doffset_bias: AnyArray | None = None,
    global_bias: AnyArray | None = None,
    dglobal_bias: AnyArray | None = None,
    slopes: AnyArray | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    dropout_seed: int = 0,
    workspace: Workspace | None = None,
    device: str | None = None,
    stream: Any = None,
    kernel: str | None = None,
) -> tuple[ArrayT, ArrayT, ArrayT]:
    """Gradients of :func:`sparse_index_kernel` into preallocated arrays.

    P = exp(s - lse);  M = m / (1 - dropout);  dP = M * dout·v;  dS = P * (dP - rowsum(dout * out) + dlse)
    a bias has the sum of dS over all pairs that it is added to;  dT = dS * cap'(scale * q·k)
    dq = scale * dT k;  dk = scale * dTᵀ q;  dv = (M * P)ᵀ dout, summed over the query heads of a key head

    cap'(s) = 1 - tanh(s / softcap)²; without softcap, dT = dS.

    Rows of padding (positions below 0) get dq = dk = dv = 0, whatever dout holds there. If ``out`` and
    ``lse`` were merged from several ranges of keys (see :func:`merge`), a call per range gives its final dk
    and dv, and a dq to be added to those of the other ranges.

    Parameters
    ----------
    dq, dk, dv : arrays like q, k, v
        Overwritten. They may be slices of one buffer, and share no element with any other argument.
    dout : array like q
        Gradient with respect to out.
    q, k, v, out, lse
        Arguments and results of the forward.
    dlse : array like lse, optional
        Gradient with respect to lse.
    doffset_bias, dglobal_bias : arrays like offset_bias, global_bias, optional
        Overwritten with their gradients, which are 0 where no pair has the bias. None where a gradient is
        not wanted. There is none of slopes.
    pattern, scale, q_start, k_start, cu_seqlens, workspace, device, stream, kernel
        As in the forward.
    offset_bias, global_bias, slopes, softcap, dropout, dropout_seed
        As there, too.

    Returns
    -------
    dq, dk, dv
        The arrays passed in.

    Raises
    ------
    TypeError, ValueError
        Before anything is written; names the argument, what was expected and what came.

    See Also
    --------
    sparse_index_kernel : The forward.
    primeattn.torch.attention : Both as one differentiable function of torch.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 100, 16))
    >>> pat = pa.Pattern("squares", window=1)
    >>> out, lse = pa.attention(q, k, v, pat)
    >>> dq, dk, dv = (np.empty_like(a) for a in (q, k, v))
    >>> dq, dk, dv = pa.sparse_index_kernel_backward(dq, dk, dv, np.ones_like(out), q, k, v, out, lse, pat)
    >>> bool(np.isclose(dv.sum(), out.size))  # every row of p sums to one
    True
    """
    arrays = {"dq": dq, "dk": dk, "dv": dv, "dout": dout, "q": q, "k": k, "v": v, "out": out, "lse": lse}
    others = {"dlse": dlse, "offset_bias": offset_bias, "doffset_bias": doffset_bias}
    others |= {"global_bias": global_bias, "dglobal_bias": dglobal_bias, "slopes": slopes}
    arrays |= {name: array for name, array in others.items() if array is not None}
    options = {"pattern": pattern, "scale": scale, "softcap": softcap}
    options |= {"dropout": dropout, "dropout_seed": dropout_seed}
    options |= {"q_start": q_start, "k_start": k_start, "cu_seqlens": cu_seqlens}
    _run(True, arrays, options, device, stream, kernel, workspace)
    return dq, dk, dv


def attention(
    q: ArrayT, k: AnyArray, v: AnyArray, pattern: Patterns, **options: Any
) -> tuple[ArrayT, ArrayT]:
    """Sparse causal attention into new arrays: ``out, lse``.

    The formula, the arguments and the errors are those of :func:`sparse_index_kernel`. The new arrays belong
    to the same library as q: NumPy, torch, JAX (on the CPU), CuPy, or Numba.

    Parameters
    ----------
    q : (batch, heads, n_q, head_dim) array
        Queries.
    k, v : (batch, kv_heads, n_k, head_dim) array
        Keys and values.
    pattern : Pattern or sequence of Pattern
        One for all query heads, or one per query head.
    **options : optional
        The keyword arguments of :func:`sparse_index_kernel`.

    Returns
    -------
    out : array like q
        The attention of each query.
    lse : (batch, heads, n_q) array
        The logarithm of each softmax's denominator; the backward needs it.

    See Also
    --------
    sparse_index_kernel : The same into arrays of your own.
    sparse_index_kernel_backward : The gradients.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> q = k = v = np.random.default_rng(0).standard_normal((1, 1, 50, 8))
    >>> out, lse = pa.attention(q, k, v, pa.Pattern("mian_chowla", window=2))
    >>> out.shape, lse.shape
    ((1, 1, 50, 8), (1, 1, 50))
    """
    if device_interface(q) is not None:
        from primeattn.kernels.gpu import device

        device.require()  # before anything else imports CUDA
        from primeattn.kernels.gpu.memory import empty_results

        out, lse = empty_results(q, stream_handle(options.get("stream")))
        return sparse_index_kernel(out, lse, q, k, v, pattern, **options)
    seen = [view_of_host(name, array) for name, array in (("q", q), ("k", k), ("v", v))]
    check_inputs(*seen)
    shape, dtype = seen[0].shape, seen[0].dtype
    out, lse = np.empty(shape, dtype), np.empty(shape[:3], lse_dtype(dtype))
    sparse_index_kernel(out, lse, *seen, pattern, **options)
    return like(q, out, lse)


def merge(outs: Several[ArrayT], lses: Several[ArrayT]) -> tuple[ArrayT, ArrayT]:
    """Join partial results over disjoint ranges of keys.

    lse = log sum_p exp lse_p;  out = sum_p exp(lse_p - lse) out_p

    Parameters
    ----------
    outs : sequence of (..., n_q, head_dim) arrays
        On the CPU, as :func:`attention` takes them there.
    lses : sequence of (..., n_q) arrays
        float64 if outs are, else float32; -inf where a part has no keys for a row.

    Returns
    -------
    out, lse
        New arrays of the library of outs[0]; out has its dtype. A row without keys in any part has out = 0
        and lse = -inf.

    Raises
    ------
    TypeError, ValueError
        If the parts do not fit together.

    See Also
    --------
    attention : Makes the parts, with ``k_start``.

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, 40, 8))
    >>> pat = pa.Pattern("primes", window=1)
    >>> parts = [pa.attention(q, k[:, :, a:b], v[:, :, a:b], pat, k_start=a) for a, b in ((0, 7), (7, 40))]
    >>> out, lse = pa.merge(*zip(*parts))
    >>> bool(np.allclose(out, pa.attention(q, k, v, pat)[0]))
    True
    """
    outs, lses = list(outs), list(lses)
    if not outs or len(outs) != len(lses):
        raise ValueError(f"lses: expected one per entry of outs, got {len(outs)} outs and {len(lses)} lses")
    given = outs[0]
    outs = [view_of_host(f"outs[{i}]", out) for i, out in enumerate(outs)]
    lses = [view_of_host(f"lses[{i}]", lse) for i, lse in enumerate(lses)]
    first = outs[0]
    for i, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        check_array(f"outs[{i}]", out, getattr(first, "shape", None), getattr(first, "dtype", None))
        check_array(f"lses[{i}]", lse, first.shape[:-1], lse_dtype(first.dtype))
    top = np.maximum.reduce(lses)
    top = np.where(top == -np.inf, 0, top)
    weights = [np.exp(lse - top) for lse in lses]
    total = np.add.reduce(weights)
    with np.errstate(divide="ignore"):
        lse = (top + np.log(total)).astype(top.dtype)
    divisor = np.where(total == 0, 1, total)
    parts = zip(outs, weights, strict=True)
    out = np.add.reduce([widened(out) * (weight / divisor)[..., None] for out, weight in parts])
    return like(given, rounded(out, first.dtype), lse)
