"""Which kernel a GPU would run, and why: the table behind the choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from primeattn.checks import as_int, shown
from primeattn.patterns import Pattern
from primeattn.table import Table
from primeattn.wheel.cost import HEAD_DIMS, STORAGE, WHEELS, choose_wheel, divide, gather_cost

__all__ = ["KernelChoice", "explain_kernel"]

DTYPES = (*STORAGE, "float32", "float64")
TERMS = ("offset_bias", "global_bias", "slopes", "softcap", "dropout")
_MOST = 2**24  # tokens: the cost model builds tables as long as the sequence


class KernelChoice(NamedTuple):
    """The kernel that the GPU would run, the reason, and the costs compared; ``str()`` prints them."""

    kernel: str  # "gather" or "wheel"
    wheel: int | None
    reason: str
    table: list  # a ``primeattn.analysis.Table``: tiles, pairs and time of each kernel and wheel

    def __str__(self) -> str:
        return f"{self.reason}\n{self.table}"


def explain_kernel(
    pattern: Pattern,
    n: int,
    head_dim: int = 64,
    dtype: str = "bfloat16",
    backward: bool = False,
    terms: Sequence[str] = (),
) -> KernelChoice:
    """Compare the cost of the GPU kernels in one pass: one head, one sequence of length ``n``.

    The costs come from a model fitted to times on an H200, by which ``kernel=None`` of
    :func:`primeattn.sparse_index_kernel` and of :func:`primeattn.sparse_index_kernel_backward` chooses, each
    for itself.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Length of the sequence.
    head_dim : int
        Features of a query and a key.
    dtype : {"bfloat16", "float16", "float32", "float64"}
        The storage dtype.
    backward : bool
        Whether to compare the backward pass, rather than the forward.
    terms : sequence of {"offset_bias", "global_bias", "slopes", "softcap", "dropout"}
        What the call has of these.

    Returns
    -------
    KernelChoice
        ``table`` has a row for each kernel and wheel: live tiles of 16 queries, pairs that are scored one by
        one, and the milliseconds of an H200.

    Raises
    ------
    TypeError, ValueError
        For arguments of another kind.

    See Also
    --------
    primeattn.analysis.wheel_fraction : The tiles that a wheel leaves.

    Examples
    --------
    >>> import primeattn as pa
    >>> choice = pa.kernels.explain_kernel(pa.Pattern("primes", window=5), 16384)
    >>> choice.kernel, choice.wheel
    ('wheel', 6)
    >>> print(pa.kernels.explain_kernel(pa.Pattern("primes", window=5), 16384, terms=["slopes"]).reason)
    gather: the wheel kernel serves scores of q·k alone and no dropout, not slopes
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern: expected a Pattern, got {shown(pattern)}")
    n, head_dim = as_int("n", n, minimum=1, maximum=_MOST), as_int("head_dim", head_dim, minimum=1)
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(map(repr, DTYPES))}, got {dtype!r}")
    shape, name = (n, head_dim, backward), "backward" if backward else "forward"
    gather = gather_cost(pattern, *shape)
    table = Table([_row("gather", None, 0, pattern.num_pairs(n), gather)])
    if not isinstance(terms, (tuple, list)) or not all(term in TERMS for term in terms):
        known = ", ".join(map(repr, TERMS))
        raise ValueError(f"terms: expected a sequence of some of {known}, got {terms!r}")
    if terms:
        reason = f"gather: the wheel kernel serves scores of q·k alone and no dropout, not {terms[0]}"
        return KernelChoice("gather", None, reason, table)
    if dtype not in STORAGE or head_dim not in HEAD_DIMS:
        served = f"{' and '.join(STORAGE)} with head_dim {' and '.join(map(str, HEAD_DIMS))}"
        reason = f"gather: the wheel kernel serves {served}, not {dtype} with {head_dim}"
        return KernelChoice("gather", None, reason, table)
    divisions = {wheel: divide(pattern, n, wheel, head_dim, backward) for wheel in WHEELS}
    table.extend(_row("wheel", wheel, d.tiles, d.met, d.cost) for wheel, d in divisions.items())
    best = choose_wheel((pattern,), *shape)
    if best is None:
        reason = f"gather: no wheel is predicted to cost less in the {name}"
        return KernelChoice("gather", None, reason, table)
    times = gather / divisions[best].cost
    reason = f"wheel {best}: predicted {times:.3g} times faster than gather in the {name}"
    return KernelChoice("wheel", best, reason, table)


def _row(kernel, wheel, tiles, met, nanoseconds):
    return {"kernel": kernel, "wheel": wheel, "tiles": tiles, "met": met, "milliseconds": nanoseconds / 1e6}
