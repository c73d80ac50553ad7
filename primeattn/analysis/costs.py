"""What a pattern costs: pairs, floating-point operations, bytes, and the law they follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int
from primeattn.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from primeattn.patterns import Pattern
    from primeattn.typing import DTypeLike

__all__ = ["Traffic", "asymptotic_pairs", "cost", "flops", "traffic"]


def flops(pattern: Pattern, n: int, head_dim: int, *, backward: bool = False) -> int:
    """Return the floating-point operations of one head on one sequence of length ``n``.

    Forward 4 · pairs · head_dim: a multiplication and an addition for each feature of q·k and of p v.
    Backward 10 · pairs · head_dim: the five products q·k again, dout·v, dv, dq, dk. The softmax is left out.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Length of the sequence.
    head_dim : int
        Features of a query and a key.
    backward : bool
        Whether to count the backward pass, rather than the forward.

    Returns
    -------
    int
        The number of operations.

    See Also
    --------
    traffic : The bytes that they move.
    cost : A table over lengths.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.flops(pa.Pattern("primes", window=3), 4096, 64)
    319550464
    """
    head_dim = as_int("head_dim", head_dim, minimum=1)
    return (10 if backward else 4) * as_pattern(pattern).num_pairs(n) * head_dim


class Traffic(NamedTuple):
    """Least bytes moved (each array once), and most (keys and values once per pair).

    Parameters
    ----------
    least : int
        Bytes if each array is moved once.
    most : int
        Bytes if keys and values are moved once per pair.

    See Also
    --------
    traffic : Makes it for a pattern.

    Examples
    --------
    >>> import primeattn as pa
    >>> moved = pa.analysis.traffic(pa.Pattern(None, window=7), 1024, 64)
    >>> moved.most / moved.least
    4.486328125
    """

    least: int
    most: int


def traffic(pattern: Pattern, n: int, head_dim: int, dtype: DTypeLike = np.float32) -> Traffic:
    """Return the bytes that the forward pass of one head on one sequence moves, without and with no reuse,

        least = 4 n head_dim itemsize (q, k, v, out),    most = (2 n + 2 pairs) head_dim itemsize.

    The real number lies between; it depends on how many queries a cached key serves.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Length of the sequence.
    head_dim : int
        Features of a query and a key.
    dtype : dtype
        That of the arrays, for the size of a number.

    Returns
    -------
    Traffic
        ``least`` and ``most``, in bytes.

    See Also
    --------
    flops : The operations.
    cost : A table over lengths.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.traffic(pa.Pattern("squares", window=3), 4096, 64)
    Traffic(least=4194304, most=96810496)
    """
    head_dim = as_int("head_dim", head_dim, minimum=1)
    n, pairs = as_int("n", n, minimum=0), as_pattern(pattern).num_pairs(n)
    row = head_dim * np.dtype(dtype).itemsize
    return Traffic(4 * n * row, (2 * n + 2 * pairs) * row)


def asymptotic_pairs(pattern: Pattern, n: int) -> float:
    """Return the pairs that the sequence's counting function A(x) predicts; NaN if it has none,

        n + ∫_0^n A_D(x) dx,    A_D(x) = x for x <= W,  W + A(x) - A(W) beyond,

    which would be exact if A_D counted the offsets D exactly; global tokens as in ``Pattern.num_pairs``. For
    the primes it is n² / (2 ln n) to leading order, for the squares (2/3) n^1.5.

    Parameters
    ----------
    pattern : Pattern
        One whose sequence has a counting function.
    n : int
        Length of the sequence.

    Returns
    -------
    float
        The number of pairs by the law.

    See Also
    --------
    primeattn.Pattern.num_pairs : The exact number.
    primeattn.plot.pairs : A picture of both.

    Examples
    --------
    >>> import primeattn as pa
    >>> pattern = pa.Pattern("squares")
    >>> round(pa.analysis.asymptotic_pairs(pattern, 65536)), pattern.num_pairs(65536)
    (11250339, 11217536)
    """
    n = as_int("n", n, minimum=0)
    columns = min(as_pattern(pattern).global_tokens, n)
    beyond = n - columns
    window = min(pattern.window, max(beyond - 1, 0))
    pairs = columns * n - columns * (columns - 1) / 2
    pairs += (window + 1) * beyond - window * (window + 1) / 2
    if pattern.sequence is None or beyond <= window + 1:
        return float(pairs)
    if pattern.sequence.estimate(beyond) is None:
        return float("nan")
    x = np.geomspace(max(window, 1), beyond, 2000)
    count = np.array([pattern.sequence.estimate(value) for value in x.tolist()])
    count -= count[0] if window else 0
    return float(pairs + ((count[1:] + count[:-1]) / 2 * np.diff(x)).sum())


def cost(
    pattern: Pattern, lengths: Iterable[int], head_dim: int = 64, dtype: DTypeLike = np.float32
) -> Table:
    """Return a table over ``lengths``: pairs, the law's prediction, density, forward flops, bytes.

    One head on one sequence; see ``asymptotic_pairs``, ``flops`` and ``traffic``.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    lengths : iterable of int
        A row of the table for each.
    head_dim : int
        Features of a query and a key.
    dtype : dtype
        That of the arrays, for the size of a number.

    Returns
    -------
    Table
        Of the columns above.

    Raises
    ------
    TypeError
        If ``lengths`` is one number.

    See Also
    --------
    compare : What patterns cost and achieve at one length.

    Examples
    --------
    >>> import primeattn as pa
    >>> print(pa.analysis.cost(pa.Pattern("primes", window=3), [1024, 4096, 16384]))
        n     pairs  asymptotic_pairs  density       flops  bytes_least  bytes_most
     1024     97986             83434   0.1867    25084416      1048576    50693120
     4096   1248244           1083417   0.1488   319550464      4194304   641198080
    16384  16577726          14652568   0.1235  4243897856     16777216  8496184320
    """
    if not np.iterable(lengths):
        raise TypeError(f"lengths: expected several lengths, got {lengths!r}")
    table = Table()
    for n in lengths:
        pairs, bytes_moved = as_pattern(pattern).num_pairs(n), traffic(pattern, n, head_dim, dtype)
        law = asymptotic_pairs(pattern, n)
        table.append(
            {
                "n": int(n),
                "pairs": pairs,
                "asymptotic_pairs": None if np.isnan(law) else round(law),
                "density": pattern.density(n),
                "flops": flops(pattern, n, head_dim),
                "bytes_least": bytes_moved.least,
                "bytes_most": bytes_moved.most,
            }
        )
    return table
