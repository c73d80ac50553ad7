"""Which keys a query attends: a sequence of offsets, a window and leading global tokens, for any length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from primeattn import sequences
from primeattn.checks import as_int
from primeattn.sequences.value import EMPTY, Sequence
from primeattn.wheel.cost import choose_wheel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from scipy.sparse import csr_matrix
    from torch import Tensor
    from torch.nn.attention.flex_attention import BlockMask

    from primeattn.typing import SequenceLike

__all__ = ["Pattern"]

_MAX_DENSE = 32768  # a 1 GiB mask
_MAX_PAIRS = 2**28  # 1.25 GiB as CSR
_MAX_VIEWS = 64
_FAR = 2**20  # up to here, all distances from 0 on are generated and cached


@dataclass(frozen=True, repr=False)
class Pattern:
    """Causal sparse attention pattern: each key once,

        keys(i) = { j : 0 <= j <= i  and  ( j < G  or  i - j <= W  or  i - j in S ) }

    with G = ``global_tokens``, W = ``window`` and S = ``sequence``. In offset form a query attends the
    distances D = {0, ..., W} ∪ S and also the leading columns j < G. Positions count from 0.

    Immutable, hashable, compared by structure, and independent of any length.

    Parameters
    ----------
    sequence : str, Sequence, callable, array of int, or None
        S: a Sequence; text for ``sequences.parse``, such as "primes" or "2 * primes | powers(3)"; a function
        of a limit (see ``sequences.from_callable``); all offsets as integers >= 1 in any order (see
        ``sequences.from_array``); or None for no sequence.
    window : int
        Number of tokens attended just before the query, besides the query itself.
    global_tokens : int
        Number of leading tokens that every later token attends.

    See Also
    --------
    primeattn.sequences : The sequences, and their algebra.
    primeattn.plot.mask : A picture.
    primeattn.analysis.compare : What patterns cost and achieve.

    Examples
    --------
    >>> import primeattn as pa
    >>> pat = pa.Pattern("squares", window=1, global_tokens=1)
    >>> pat
    Pattern(squares, window=1, global_tokens=1)
    >>> pat.to_dense(6).astype(int)
    array([[1, 0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0, 0],
           [1, 1, 1, 0, 0, 0],
           [1, 0, 1, 1, 0, 0],
           [1, 0, 0, 1, 1, 0],
           [1, 1, 0, 0, 1, 1]])
    >>> pat | pa.Pattern([4, 2], window=3)
    Pattern(from_array([2, 4]) | squares, window=3, global_tokens=1)
    """

    sequence: Sequence | None
    window: int = 0
    global_tokens: int = 0
    # Set by the package, as what they lead to imports this file:
    _draw: ClassVar = None  # draws the notebook picture
    _masks: ClassVar = None  # returns the module that makes masks of torch

    if TYPE_CHECKING:  # the dataclass writes it; it takes more than the attribute then is

        def __init__(self, sequence: SequenceLike, window: int = 0, global_tokens: int = 0) -> None: ...

    def __post_init__(self) -> None:
        vars(self).update(
            sequence=_as_sequence(self.sequence),
            window=as_int("window", self.window, minimum=0),
            global_tokens=as_int("global_tokens", self.global_tokens, minimum=0),
            _known=(EMPTY, -1),  # (all of D up to bound, bound), replaced as a whole
            _views={},
        )

    def offsets(self, n: int) -> np.ndarray:
        """Return { d in D : d < n }: sorted int64, a read-only view of a cache.

        Repeated calls cost a dictionary look-up; a new ``n`` costs a binary search, and the cache grows
        whenever ``n`` doubles.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern("primes", window=3).offsets(12)
        array([ 0,  1,  2,  3,  5,  7, 11])
        """
        if type(n) is int and (view := self._views.get(n)) is not None:
            return view
        n = as_int("n", n, minimum=0)
        known, bound = self._known
        if bound < n - 1:
            vars(self)["_known"] = known, bound = self._distances(n)
        view = known[: np.searchsorted(known, n)]
        if len(self._views) >= _MAX_VIEWS:
            self._views.clear()
        self._views[n] = view
        return view

    def offsets_between(self, low: int, high: int) -> np.ndarray:
        """Return { d in D : low <= d < high }: sorted int64, read-only.

        For a far range, only its own terms are generated, if the sequence can (see ``Sequence.between``).

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern("primes", window=3).offsets_between(10**12, 10**12 + 100)
        array([1000000000039, 1000000000061, 1000000000063, 1000000000091])
        """
        low, high = as_int("low", low, minimum=0), as_int("high", high, minimum=0)
        far = high > max(self._known[1] + 1, _FAR) and low > max(high // 2, self.window)
        if far and self.sequence is not None:
            return self.sequence.between(low, high - 1)
        known = self.offsets(high)
        return known[np.searchsorted(known, low) :]

    def _distances(self, n):
        """Return (D up to bound, bound) with n - 1 <= bound <= 2n."""
        bound = 2 * n
        terms = EMPTY
        if self.sequence is not None:
            terms, known_to = self.sequence._reach(max(1, n - 1))
            bound = min(bound, known_to)
        near = np.arange(min(self.window, bound) + 1)
        far = terms[
            np.searchsorted(terms, near[-1], side="right") : np.searchsorted(terms, bound, side="right")
        ]
        distances = np.concatenate([near, far])
        distances.setflags(write=False)
        return distances, bound

    def keys(self, i: int) -> np.ndarray:
        """Return keys(i), sorted int64.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern("primes", window=1, global_tokens=2).keys(9)
        array([0, 1, 2, 4, 6, 7, 8, 9])
        """
        i = as_int("i", i, minimum=0)
        columns = np.arange(min(self.global_tokens, i + 1))
        by_offset = i - self.offsets(i + 1)[::-1]
        return np.concatenate([columns, by_offset[np.searchsorted(by_offset, len(columns)) :]])

    def num_pairs(self, n: int) -> int:
        """Return the number of attended (query, key) pairs of one sequence of length ``n``, without a mask.

        Offset d has n - d pairs, G of them in the leading columns, which are full anyway:

            sum_{d in D, d < n - G} (n - G - d)  +  sum_{j < min(G, n)} (n - j)

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern("primes", window=3, global_tokens=2).num_pairs(4096)
        1255303
        """
        n = as_int("n", n, minimum=0)
        columns = min(self.global_tokens, n)
        beyond = self.offsets(n - columns)
        return len(beyond) * (n - columns) - int(beyond.sum()) + columns * n - columns * (columns - 1) // 2

    def density(self, n: int) -> float:
        """Return ``num_pairs(n)`` as a fraction of the n(n+1)/2 causal pairs.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern(None, window=1).density(3)
        0.8333333333333334
        """
        n = as_int("n", n, minimum=1)
        return self.num_pairs(n) / (n * (n + 1) // 2)

    def to_dense(self, n: int) -> np.ndarray:
        """Return the mask: bool (n, n), row i true at keys(i). ValueError for n > 32768.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern(None, window=1).to_dense(3).sum(axis=1)
        array([1, 2, 2])
        """
        n = as_int("n", n, minimum=0)
        if n > _MAX_DENSE:
            raise ValueError(
                f"n: expected at most {_MAX_DENSE} for a dense mask, got {n}; use to_csr or offsets"
            )
        mask = np.zeros((n, n), bool)
        for d in self.offsets(n).tolist():
            mask.reshape(-1)[d * n :: n + 1] = True  # (d, 0), (d + 1, 1), ...
        columns = min(self.global_tokens, n)
        mask[:, :columns] |= np.tri(n, columns, dtype=bool)
        return mask

    def to_csr(self, n: int) -> csr_matrix:
        """Return the mask as scipy.sparse.csr_matrix, bool (n, n), indices sorted.

        ValueError for more than 2**28 pairs.

        Examples
        --------
        >>> import primeattn as pa
        >>> mask = pa.Pattern("primes").to_csr(1000)
        >>> mask.shape, mask.nnz
        ((1000, 1000), 92873)
        """
        from scipy.sparse import csr_matrix

        n = as_int("n", n, minimum=0)
        pairs = self.num_pairs(n)
        if pairs > _MAX_PAIRS:
            raise ValueError(f"n: expected at most {_MAX_PAIRS} pairs, got {pairs} for n = {n}; use offsets")
        # Row i: its leading columns, then the offsets d <= i - G from the largest to the smallest.
        offsets = self.offsets(n)
        columns = min(self.global_tokens, n)
        beyond = np.searchsorted(offsets, np.arange(n) - columns, side="right")
        indptr = np.concatenate([[0], np.cumsum(np.minimum(columns, np.arange(1, n + 1)) + beyond)])
        indices = np.empty(pairs, np.int32)
        leading = np.arange(columns)
        backwards = -offsets[::-1].astype(np.int32)
        for i, (begin, end, m) in enumerate(zip(indptr[:-1], indptr[1:], beyond, strict=True)):
            indices[begin : end - m] = leading[: i + 1]
            np.add(backwards[len(backwards) - m :], i, out=indices[end - m : end])
        mask = csr_matrix((np.ones(pairs, bool), indices, indptr.astype(np.int32)), shape=(n, n))
        mask.has_sorted_indices = True
        return mask

    def to_torch_csr(self, n: int, *, device: Any = None) -> Tensor:
        """Return the mask as a sparse CSR tensor of torch, bool (n, n); needs ``primeattn[torch]``.

        ValueError for more than 2**28 pairs.

        Examples
        --------
        >>> import torch, primeattn as pa
        >>> pa.Pattern("squares").to_torch_csr(6).to_dense().sum()
        tensor(13)
        """
        return Pattern._masks().to_torch_csr(self, n, device=device)

    def to_flex(
        self, n: int, *, wheel: int | None = 1, block_size: int = 128, device: Any = None
    ) -> BlockMask:
        """Return the mask as a BlockMask of torch's FlexAttention; needs ``primeattn[torch]``.

        It lists the blocks that hold an attended pair, of which FlexAttention skips the others, and apart
        from these the blocks that are attended in whole; its ``mask_mod`` says which pairs are attended.
        Nothing of size n × n is made, as ``create_block_mask`` does.

        In natural order nearly all blocks of the primes' mask hold a pair. With a ``wheel`` the mask is that
        of queries and keys in the order of :meth:`wheel_permutation`, and most blocks are empty.

        Parameters
        ----------
        n : int
            Length of the sequence.
        wheel : int, optional
            1 is the natural order; None the wheel that the GPU kernel would use.
        block_size : int
            Rows and columns of a block.
        device : torch.device, optional
            Where q, k and v are.

        Examples
        --------
        >>> import torch, primeattn as pa
        >>> from torch.nn.attention.flex_attention import flex_attention
        >>> pattern, n = pa.Pattern("primes", window=3), 16384
        >>> [round(pattern.to_flex(n, wheel=w).sparsity()) for w in (1, 6)]  # per cent of all blocks
        [50, 77]
        >>> mask, order = pattern.to_flex(512, wheel=6), torch.tensor(pattern.wheel_permutation(512, 6))
        >>> q, k, v = torch.randn(3, 1, 1, 512, 16)
        >>> out = torch.empty_like(q)
        >>> out[:, :, order] = flex_attention(q[:, :, order], k[:, :, order], v[:, :, order], block_mask=mask)
        >>> torch.allclose(out, pa.torch.attention(q, k, v, pattern), atol=1e-5)
        True
        """
        return Pattern._masks().to_flex(self, n, wheel=wheel, block_size=block_size, device=device)

    def wheel_permutation(self, n: int, wheel: int | None = None) -> np.ndarray:
        """Return the positions 0, ..., n - 1 as int64, grouped by residue modulo ``wheel``, each in order.

        No prime above 5 shares a factor with 30, so that in this order most square blocks of the primes' mask
        are empty (see :func:`primeattn.analysis.wheel_fraction`). This helps attention that skips empty
        blocks, such as torch's FlexAttention: of the blocks of 128 at n = 16384, all are in use in natural
        order, but 0.39 modulo 6, and fewer as n grows. (The GPU kernel "wheel" gains the same without a
        permutation.) :meth:`to_flex` has the mask for queries and keys in this order.

        Parameters
        ----------
        n : int
            Length of the sequence.
        wheel : int, optional
            By default the one that the GPU kernel would use: see :func:`primeattn.kernels.explain_kernel`.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern("primes", window=3).wheel_permutation(10, 3)
        array([0, 3, 6, 9, 1, 4, 7, 2, 5, 8])
        """
        n = as_int("n", n, minimum=0)
        if wheel is None:
            wheel = choose_wheel((self,), n, 64, forced=True)
        return np.argsort(np.arange(n) % as_int("wheel", wheel, minimum=1), kind="stable")

    def __or__(self, other: Pattern) -> Pattern:
        if not isinstance(other, Pattern):
            return NotImplemented
        s, t = self.sequence, other.sequence
        return Pattern(
            s if t is None else t if s is None else s | t,
            max(self.window, other.window),
            max(self.global_tokens, other.global_tokens),
        )

    def __bool__(self) -> NoReturn:
        raise TypeError("a Pattern has no truth value; the union is written a | b")

    def __reduce__(self) -> tuple[Any, ...]:
        return Pattern, (self.sequence, self.window, self.global_tokens)

    def __repr__(self) -> str:
        options = [
            f"{name}={getattr(self, name)}" for name in ("window", "global_tokens") if getattr(self, name)
        ]
        return f"Pattern({', '.join([repr(self.sequence), *options])})"

    def _repr_png_(self):
        """Return the mask as a PNG image for notebooks; None if a finite table is too short for it."""
        return None if Pattern._draw is None else Pattern._draw(self)

    def to_json(self) -> dict:
        """Return a structure of JSON types from which ``from_json`` makes an equal pattern.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern("primes", window=3).to_json()
        {'sequence': {'name': 'primes'}, 'window': 3, 'global_tokens': 0}
        """
        sequence = None if self.sequence is None else self.sequence.to_json()
        return {"sequence": sequence, "window": self.window, "global_tokens": self.global_tokens}

    @classmethod
    def from_json(cls, obj: Mapping[str, Any]) -> Pattern:
        """Return the pattern whose ``to_json()`` is ``obj``; ValueError for any other structure.

        Examples
        --------
        >>> import primeattn as pa
        >>> pa.Pattern.from_json(pa.Pattern("primes", window=3).to_json())
        Pattern(primes, window=3)
        """
        if not isinstance(obj, dict):
            raise TypeError(f"obj: expected a dict made by Pattern.to_json(), got {obj!r}")
        if set(obj) != {"sequence", "window", "global_tokens"}:
            raise ValueError(f"obj: expected a dict made by Pattern.to_json(), got the keys {list(obj)}")
        sequence = obj["sequence"]
        return cls(**{**obj, "sequence": sequence if sequence is None else sequences.from_json(sequence)})


def _as_sequence(sequence):
    if sequence is None or isinstance(sequence, Sequence):
        return sequence
    if isinstance(sequence, str):
        return sequences.parse(sequence)
    if isinstance(sequence, Pattern):
        raise TypeError(f"sequence: expected a Sequence, got {sequence!r}; the union of patterns is a | b")
    return sequences.from_callable(sequence) if callable(sequence) else sequences.from_array(sequence)
