"""Attention on Dask arrays: computed block by block, by threads, processes or machines.

A block of the batch, of heads, and of queries is a task, which runs the kernels of this package on NumPy
arrays. It reads the blocks of keys that its queries attend, and no others. So sequences that no machine
could hold are attended from files, and clusters share the work. Needs ``pip install 'primeattn[dask]'``; no
cluster, and no client, is needed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from functools import partial
from itertools import product
from math import isnan
from operator import add, getitem
from typing import Any

from primeattn._extras import require

require("dask")

import dask.array as da
import numpy as np

from primeattn import kernels
from primeattn.checks import as_int
from primeattn.dask.tasks import BIASES, Part, backward, forward, merge_two
from primeattn.kernels.call import DTYPES, lse_dtype
from primeattn.patterns import Pattern
from primeattn.typing import Patterns

__all__ = ["attention", "attention_backward", "chunks_of_equal_pairs"]

BY_HEAD = (*BIASES, "slopes")
OF_ALL = ("scale", "softcap", "dropout", "dropout_seed", "kernel")
OPTIONS = ("q_start", "k_start", *BY_HEAD, *OF_ALL)


def attention(
    q: da.Array, k: da.Array, v: da.Array, pattern: Patterns, *, merge: bool = False, **options: Any
) -> tuple[da.Array, da.Array]:
    """Sparse causal attention on Dask arrays, computed when the results are: ``out, lse``.

    The formula is that of :func:`primeattn.sparse_index_kernel`. Each chunk of q is a task, or with ``merge``
    several. So the chunks of q say how the work is shared: cut batch and heads first, as these share nothing,
    then queries by :func:`chunks_of_equal_pairs`. k and v are cut as q is along batch and heads, where a key
    head and its query heads stay together. Along the keys they are cut as k is or, if that is one chunk,
    where the queries are. A task waits for those chunks that its queries attend, and no others.

    Parameters
    ----------
    q : (batch, heads, n_q, head_dim) Dask array
        Of NumPy arrays, float32 or float64, which may have any strides and addresses.
    k, v : (batch, kv_heads, n_k, head_dim) Dask array
        Like q in dtype.
    pattern : Pattern or sequence of Pattern
        One for all query heads, or one per query head.
    merge : bool
        False: a task holds all chunks of keys that its queries attend, side by side. If there is a key at
        the position of each query, the results are bitwise those of :func:`primeattn.attention` on whole
        arrays. True: a task holds one chunk of keys, and :func:`primeattn.merge` joins the results. That
        takes the memory of a few chunks, and rounds differently: by some 1e-6 in float32.
    **options
        As for the kernels: scale, q_start and k_start (one int for all the batch), offset_bias, global_bias
        and slopes (NumPy arrays), softcap, dropout, dropout_seed, kernel. Which pairs dropout drops depends
        on the number of the head, so it needs batch and heads in one chunk.

    Returns
    -------
    out, lse
        Dask arrays (batch, heads, n_q, head_dim) and (batch, heads, n_q) with the chunks of q.

    Raises
    ------
    TypeError, ValueError
        Before anything is computed; names the argument, what was expected and what came.

    See Also
    --------
    attention_backward : The gradients.
    chunks_of_equal_pairs : How to cut the queries.

    Examples
    --------
    >>> import dask.array as da, numpy as np, primeattn as pa, primeattn.dask
    >>> q, k, v = np.random.default_rng(0).standard_normal((3, 1, 2, 100, 16), dtype=np.float32)
    >>> blocks = [da.from_array(array, chunks=(1, 1, 25, 16)) for array in (q, k, v)]
    >>> out, lse = pa.dask.attention(*blocks, pa.Pattern("primes", window=3))
    >>> out.numblocks
    (1, 2, 4, 1)
    >>> bool((out.compute() == pa.attention(q, k, v, pa.Pattern("primes", window=3))[0]).all())
    True
    """
    blocks = _Blocks(q, k, v, pattern, merge, options)
    layer = _Layer("attention", blocks, {})
    outs, lses = {}, {}
    for (h, i, parts), b in product(blocks.parts(), range(blocks.q.numblocks[0])):
        results = [
            layer.add(("part", b, h, i, p), partial(forward, part), *layer.reads(b, h, i, part))
            for p, part in enumerate(parts)
        ]
        result = layer.fold("merge", merge_two, results)
        outs[b, h, i, 0], lses[b, h, i] = (getitem, result, 0), (getitem, result, 1)
    chunks, dtype = blocks.q.chunks, blocks.q.dtype
    return layer.array("out", outs, chunks, dtype), layer.array("lse", lses, chunks[:3], lse_dtype(dtype))


def attention_backward(
    dout: da.Array,
    q: da.Array,
    k: da.Array,
    v: da.Array,
    out: da.Array,
    lse: da.Array,
    pattern: Patterns,
    *,
    dlse: da.Array | None = None,
    merge: bool = False,
    **options: Any,
) -> tuple[da.Array, ...]:
    """Gradients of :func:`attention` on Dask arrays, computed when they are: ``dq, dk, dv``.

    A task gives dq of its queries, and of dk and dv what its queries add to the keys that they attend; these
    summands are added in the order of the queries. So results are bitwise the same for any number of workers
    and any scheduler. Without ``merge`` dq is bitwise that of the kernels on whole arrays; dk and dv round
    differently, by some 1e-6 in float32, unless queries are one chunk.

    Parameters
    ----------
    dout : (batch, heads, n_q, head_dim) Dask array
        Gradient with respect to out.
    q, k, v, out, lse
        Arguments and results of the forward.
    pattern
        As in the forward.
    dlse : (batch, heads, n_q) Dask array, optional
        Gradient with respect to lse.
    merge, **options
        As in the forward. With ``merge``, dq is a sum over the chunks of keys.

    Returns
    -------
    dq, dk, dv
        Dask arrays like q, k and v. They are followed by the gradients of offset_bias and of global_bias, of
        those that are given.

    Raises
    ------
    TypeError, ValueError
        Before anything is computed; names the argument, what was expected and what came.

    See Also
    --------
    attention : The forward.

    Examples
    --------
    >>> import dask.array as da, primeattn as pa, primeattn.dask
    >>> pattern = pa.Pattern("squares", window=1)
    >>> q, k, v = (da.random.default_rng(i).standard_normal((1, 2, 100, 8)) for i in range(3))
    >>> q = q.rechunk({2: pa.dask.chunks_of_equal_pairs(pattern, 100, 3)})
    >>> out, lse = pa.dask.attention(q, k, v, pattern)
    >>> dq, dk, dv = pa.dask.attention_backward(da.ones_like(out), q, k, v, out, lse, pattern)
    >>> abs(float(dv.sum()) - out.size) < 1e-9  # every row of p sums to one
    True
    """
    blocks = _Blocks(q, k, v, pattern, merge, options)
    given = blocks.like_queries(dout=dout, out=out, lse=lse, dlse=dlse)
    layer = _Layer("attention_backward", blocks, given)
    chunks = {"dq": blocks.q.chunks, "dk": blocks.k.chunks, "dv": blocks.k.chunks}
    for name in BIASES:
        if name in blocks.by_head:
            chunks[f"d{name}"] = blocks.q.chunks[1], (blocks.by_head[name].shape[1],)
    biases = list(chunks)[3:]
    summands = {name: {} for name in chunks}  # of each block, in the order in which they are added
    for (h, i, parts), b in product(blocks.parts(), range(blocks.q.numblocks[0])):
        rows = [(array.name, b, h, i, 0)[: 1 + array.ndim] for array in given.values()]
        for p, part in enumerate(parts):
            reads = layer.reads(b, h, i, part)
            task = layer.add(("part", b, h, i, p), partial(backward, part, tuple(given)), rows, *reads)
            results = [("dq", (b, h, i, 0))]
            results += [(name, (b, h, c, 0)) for name in ("dk", "dv") for c in part.chunks]
            results += [(name, (h, 0)) for name in biases]
            for number, (name, block) in enumerate(results):
                summand = layer.add((f"{name}_part", *block, b, i, p), getitem, task, number)
                summands[name].setdefault(block, []).append(summand)
    return tuple(
        layer.array(
            name,
            {block: layer.fold(f"{name}_sum", add, keys) for block, keys in summands[name].items()},
            chunks[name],
            blocks.q.dtype,
        )
        for name in chunks
    )


def chunks_of_equal_pairs(pattern: Patterns, n: int, blocks: int) -> tuple[int, ...]:
    """Sizes of at most ``blocks`` chunks of queries, of about equally many pairs of query and key.

    Late queries have more keys, so that later chunks are shorter.

    Parameters
    ----------
    pattern : Pattern or sequence of Pattern
        As for :func:`attention`.
    n : int
        Length of the sequence, which begins at position 0.
    blocks : int
        Most chunks.

    Returns
    -------
    tuple of int
        Their sizes, which add up to n.

    Raises
    ------
    TypeError
        If ``pattern`` holds something else.

    See Also
    --------
    attention : Takes arrays in these chunks.

    Examples
    --------
    >>> import primeattn as pa, primeattn.dask
    >>> pa.dask.chunks_of_equal_pairs(pa.Pattern("primes", window=3), 10000, 4)
    (4751, 2147, 1676, 1426)
    """
    n, blocks = as_int("n", n, minimum=1), as_int("blocks", blocks, minimum=1)
    patterns = [pattern] if isinstance(pattern, Pattern) else list(pattern)
    for one in patterns:
        if not isinstance(one, Pattern):
            raise TypeError(f"pattern: expected a Pattern or a sequence of them, got {pattern!r}")

    def pairs(rows):
        return sum(count * one.num_pairs(rows) for one, count in Counter(patterns).items())

    total = pairs(n)
    ends = {bisect_left(range(n), total * part / blocks, key=pairs) for part in range(1, blocks)} | {n}
    return tuple(np.diff([0, *sorted(ends)]).tolist())


class _Blocks:
    """The checked arguments, cut into the blocks of tasks."""

    def __init__(self, q, k, v, pattern, merge, options):
        for name in options:
            if name not in OPTIONS:
                raise TypeError(f"{name}: Dask arrays have no such option; they have {', '.join(OPTIONS)}")
        if not isinstance(merge, bool):
            raise TypeError(f"merge: expected True or False, got {merge!r}")
        for name, array in (("q", q), ("k", k), ("v", v)):
            _check(name, array)
            if array.ndim != 4:
                raise ValueError(f"{name}: expected 4 axes, got shape {array.shape}")
            if array.dtype not in DTYPES:
                raise TypeError(f"{name}: expected float32 or float64, got {array.dtype}")
            if array.shape[0] != q.shape[0]:
                raise ValueError(f"{name}: expected batch {q.shape[0]} as in q, got {array.shape[0]}")
        self.q_start, self.k_start = (as_int(name, options.get(name, 0)) for name in ("q_start", "k_start"))
        # An empty batch goes through the checks of the kernels, and computes nothing.
        empty = [np.empty((0, *array.shape[1:]), array.dtype) for array in (q, k, v)]
        kernels.attention(*empty, pattern, **options)
        self._patterns = (pattern,) * q.shape[1] if isinstance(pattern, Pattern) else tuple(pattern)
        self.by_head = {name: options[name] for name in BY_HEAD if options.get(name) is not None}
        self.options = {name: value for name, value in options.items() if name in OF_ALL}
        self._merge = merge
        self._cut(q, k, v)
        self._check_lengths()

    def _cut(self, q, k, v):
        """Cut k and v as q is, heads where a key head ends, and keys where queries are unless k is cut."""
        group = q.shape[1] // k.shape[1]
        ends = np.unique(np.cumsum(q.chunks[1]))
        heads = np.diff(ends[ends % group == 0], prepend=0)
        q = q.rechunk({1: tuple(heads.tolist()), 3: -1})
        keys = k.chunks[2]
        if len(keys) == 1:
            ends = np.cumsum(q.chunks[2]) + self.q_start - self.k_start
            ends = np.unique(np.append(ends[(ends > 0) & (ends < k.shape[2])], k.shape[2]))
            keys = tuple(np.diff(ends, prepend=0).tolist())
        chunks = q.chunks[0], tuple((heads // group).tolist()), keys, (k.shape[3],)
        self.q, self.k, self.v = q, k.rechunk(chunks), v.rechunk(chunks)
        self.heads = _ranges(q.chunks[1])

    def _check_lengths(self):
        """Raise where an empty batch does not tell what is wrong."""
        if "offset_bias" in self.by_head and self.q.shape[2] and self.k.shape[2]:
            distances = max(self.q_start + self.q.shape[2], 0) - max(self.k_start, 0)
            least = max(pattern.offsets(max(distances, 0)).size for pattern in set(self._patterns))
            if self.by_head["offset_bias"].shape[1] < least:
                raise ValueError(
                    f"offset_bias: expected shape ({self.q.shape[1]}, {least}) or longer, got "
                    f"{self.by_head['offset_bias'].shape}"
                )
        if self.options.get("dropout") and self.q.numblocks[:2] != (1, 1):
            raise ValueError(
                "dropout: expected q in one chunk along batch and heads, as their numbers decide which pairs "
                f"are dropped, got chunks {self.q.chunks[:2]}"
            )

    def like_queries(self, **arrays):
        """The arrays that are given, cut as q is."""
        arrays = {name: array for name, array in arrays.items() if array is not None or name != "dlse"}
        for name, array in arrays.items():
            _check(name, array)
            axes, dtype = (3, lse_dtype(self.q.dtype)) if name.endswith("lse") else (4, self.q.dtype)
            if array.shape != self.q.shape[:axes]:
                raise ValueError(f"{name}: expected shape {self.q.shape[:axes]}, got {array.shape}")
            if array.dtype != dtype:
                raise TypeError(f"{name}: expected {dtype}, got {array.dtype}")
        return {name: array.rechunk(self.q.chunks[: array.ndim]) for name, array in arrays.items()}

    def parts(self):
        """By block of heads and of queries: (number of the first, number of the second, parts)."""
        queries, keys = _ranges(self.q.chunks[2]), _ranges(self.k.chunks[2])
        for (h, (low, high)), (i, rows) in product(enumerate(self.heads), enumerate(queries)):
            patterns = self._patterns[low:high]
            wanted = [c for c, columns in enumerate(keys) if self._attends(set(patterns), rows, columns)]
            wanted = wanted or [0]  # a row without keys has results, too
            groups = [[c] for c in wanted] if self._merge else [wanted]
            yield h, i, [self._part(patterns, rows[0], group, [keys[c] for c in group]) for group in groups]

    def _part(self, patterns, row, chunks, keys):
        first = keys[0][0]
        rows = tuple((begin - first, end - first) for begin, end in keys)
        starts = self.q_start + row, self.k_start + first
        return Part(patterns, *starts, tuple(chunks), rows, self.options)

    def _attends(self, patterns, rows, columns):
        """Whether a query of these rows attends a key of these columns."""
        i, rows_end = (max(self.q_start + row, 0) for row in rows)
        j, columns_end = (max(self.k_start + column, 0) for column in columns)
        if i == rows_end or j == columns_end or j >= rows_end:
            return False
        # The distances of these pairs are all integers between the least and the largest.
        between = max(i - columns_end + 1, 0), rows_end - j
        return any(
            pattern.offsets_between(*between).size or j < pattern.global_tokens for pattern in patterns
        )


class _Layer:
    """Tasks of one call, and the Dask arrays of their results."""

    def __init__(self, name, blocks, given):
        from dask.base import tokenize

        self._arrays = blocks.q, blocks.k, blocks.v, *given.values()
        names = [array.name for array in self._arrays]
        self._name, self._tasks = name, {}
        self._token = tokenize(name, names, list(given), list(blocks.parts()), blocks.by_head)
        for h, (low, high) in enumerate(blocks.heads):
            by_head = {name: array[low:high] for name, array in blocks.by_head.items()}
            self.add(("by_head", h), partial(dict, by_head))

    def _key(self, name, *numbers):
        return f"{self._name}_{name}-{self._token}", *numbers

    def add(self, key, *task):
        """Add a task; return its key in the graph."""
        key = self._key(*key)
        self._tasks[key] = task
        return key

    def reads(self, b, h, i, part):
        """Keys of the blocks of q, k, v and of what is given by head."""
        q, k, v, *_ = self._arrays
        chunks = [[(array.name, b, h, c, 0) for c in part.chunks] for array in (k, v)]
        return (q.name, b, h, i, 0), *chunks, self._key("by_head", h)

    def fold(self, name, function, keys):
        """Join results from left to right; return the key of the last one."""
        total = keys[0]
        for key in keys[1:]:
            total = self.add((name, *key[1:]), function, total, key)
        return total

    def array(self, name, ends, chunks, dtype):
        """A Dask array of the blocks ``ends``, and of zeros where there is none."""
        from dask.highlevelgraph import HighLevelGraph

        (own,), (tasks,) = self._key(name), self._key("tasks")
        sizes = [dict(enumerate(along)) for along in chunks]
        blocks = {}
        for block in product(*sizes):
            shape = tuple(along[number] for along, number in zip(sizes, block, strict=True))
            blocks[(own, *block)] = ends.get(block, (partial(np.zeros, shape, dtype),))
        graph = HighLevelGraph.from_collections(tasks, self._tasks, self._arrays)
        graph = HighLevelGraph({**graph.layers, own: blocks}, {**graph.dependencies, own: {tasks}})
        return da.Array(graph, own, chunks, dtype=dtype)


def _check(name, array):
    if not isinstance(array, da.Array):
        raise TypeError(f"{name}: expected a Dask array, got {type(array).__name__}")
    if any(map(isnan, array.shape)):
        raise ValueError(f"{name}: expected chunks of known sizes, got {array.chunks}")


def _ranges(sizes):
    """Where chunks of these sizes begin and end."""
    ends = np.cumsum(sizes)
    return list(zip((ends - sizes).tolist(), ends.tolist(), strict=True))
