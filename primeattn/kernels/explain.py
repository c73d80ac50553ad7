"""Which kernel a GPU would run, and why: the table behind the choice."""

from __future__ import annotations

from typing import NamedTuple

from primeattn.checks import as_int
from primeattn.patterns import Pattern
from primeattn.table import Table
from primeattn.wheel.cost import HEAD_DIMS, STORAGE, WHEELS, choose_wheel, divide, gather_cost

__all__ = ["KernelChoice", "explain_kernel"]

DTYPES = (*STORAGE, "float32", "float64")
_MOST = 2**24  # tokens: the cost model builds tables as long as the sequence
RATE = 5e11  # units a second; only for display


class KernelChoice(NamedTuple):
    """The kernel that the GPU would run, the reason, and the costs compared; ``str()`` prints them."""

    kernel: str  # "gather" or "wheel"
    wheel: int | None
    reason: str
    table: list  # a ``primeattn.analysis.Table``: tiles, pairs and cost of each kernel and wheel

    def __str__(self):
        return f"{self.reason}\n{self.table}"


def explain_kernel(pattern, n, head_dim=64, dtype="bfloat16") -> KernelChoice:
    """Compare the cost of the GPU kernels: forward, one head, one sequence of length ``n``.

    The costs come from a model fitted to times on an H200, by which ``kernel=None`` of
    :func:`primeattn.sparse_index_kernel` chooses.

    Parameters
    ----------
    pattern : Pattern
    n : int
    head_dim : int
    dtype : {"bfloat16", "float16", "float32", "float64"}
        The storage dtype.

    Returns
    -------
    KernelChoice
        ``table`` has a row for each kernel and wheel: live tiles of 16 queries, pairs that are scored one by
        one, units of cost, and the milliseconds that these take on an H200.

    Raises
    ------
    TypeError, ValueError
        For arguments of another kind.

    Examples
    --------
    >>> import primeattn as pa
    >>> choice = pa.kernels.explain_kernel(pa.Pattern("primes", window=5), 16384)
    >>> choice.kernel, choice.wheel
    ('wheel', 6)
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a Pattern, got {pattern!r}")
    n, head_dim = as_int("n", n, minimum=1, maximum=_MOST), as_int("head_dim", head_dim, minimum=1)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    gather = gather_cost(pattern, n, head_dim)
    table = Table([_row("gather", None, 0, pattern.num_pairs(n), gather)])
    if dtype not in STORAGE or head_dim not in HEAD_DIMS:
        served = f"{' and '.join(STORAGE)} with head_dim {' and '.join(map(str, HEAD_DIMS))}"
        reason = f"gather: the wheel kernel serves {served}, not {dtype} with {head_dim}"
        return KernelChoice("gather", None, reason, table)
    for wheel in WHEELS:
        division = divide(pattern, n, wheel, head_dim)
        met = (n - division.met).sum() + min(pattern.global_tokens, n) * n
        table.append(_row("wheel", wheel, division.tiles, int(met), division.cost))
    best = choose_wheel((pattern,), n, head_dim)
    if best is None:
        return KernelChoice("gather", None, "gather: no wheel is predicted to cost less", table)
    times = gather / divide(pattern, n, best, head_dim).cost
    return KernelChoice("wheel", best, f"wheel {best}: predicted {times:.3g} times faster than gather", table)


def _row(kernel, wheel, tiles, met, cost):
    milliseconds = 1e3 * cost / RATE
    row = {"kernel": kernel, "wheel": wheel, "tiles": tiles, "met": met, "instructions": round(cost)}
    return row | {"milliseconds": milliseconds}
