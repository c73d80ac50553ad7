"""Self-attention over one named sequence."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

from primeattn._config import freeze_size
from primeattn.nn.attention import SparseIndexAttention
from primeattn.patterns import Pattern

__all__ = ["MianChowlaSelfAttention", "PrimeSelfAttention", "SquareSelfAttention"]


@dataclass(frozen=True, repr=False)
class _SequenceSelfAttention(SparseIndexAttention):
    sequence: ClassVar[str]

    pattern: Pattern = field(init=False, compare=False)
    _: KW_ONLY
    window: int = 3
    global_tokens: int = 2

    def __post_init__(self, seq_len_max: None) -> None:
        freeze_size(self, "window", minimum=0)
        freeze_size(self, "global_tokens", minimum=0)
        pattern = Pattern(self.sequence, window=self.window, global_tokens=self.global_tokens)
        object.__setattr__(self, "pattern", pattern)
        super().__post_init__(seq_len_max)


@dataclass(frozen=True, repr=False)
class PrimeSelfAttention(_SequenceSelfAttention):
    """`SparseIndexAttention` over ``Pattern("primes", window=window, global_tokens=global_tokens)``.

    Parameters
    ----------
    dims : int
        Size of the last axis of x and y.
    heads, kv_heads, head_dim, v_dim, scale, rotary, rotary_dims, qk_norm, offset_bias, alibi, softcap
        As in `SparseIndexAttention`.
    dropout, sinks, bias, init, device, seq_len_max
        As there, too.
    window : int
        Number of tokens just before a query that it sees, 3 by default.
    global_tokens : int
        Number of leading tokens that every query sees, 2 by default.

    See Also
    --------
    SparseIndexAttention : Over any pattern, or one per head.
    SquareSelfAttention : Over the squares.
    MianChowlaSelfAttention : Over a Sidon set.

    Examples
    --------
    >>> import primeattn as pa
    >>> layer = pa.PrimeSelfAttention(64, heads=4, window=3)
    >>> layer
    PrimeSelfAttention(64, heads=4)
    >>> layer.pattern.offsets(12)
    array([ 0,  1,  2,  3,  5,  7, 11])
    """

    sequence = "primes"


@dataclass(frozen=True, repr=False)
class SquareSelfAttention(_SequenceSelfAttention):
    """As `PrimeSelfAttention`, with the squares 1, 4, 9, 16, ... (OEIS A000290).

    Parameters
    ----------
    dims, heads, kv_heads, head_dim, v_dim, scale, rotary, rotary_dims, qk_norm, offset_bias
        As in `PrimeSelfAttention`.
    alibi, softcap, dropout, sinks, bias, init, device, seq_len_max, window, global_tokens
        As there, too.

    See Also
    --------
    PrimeSelfAttention : Over the primes.
    SparseIndexAttention : Over any pattern, or one per head.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.SquareSelfAttention(64).pattern.offsets(17)
    array([ 0,  1,  2,  3,  4,  9, 16])
    """

    sequence = "squares"


@dataclass(frozen=True, repr=False)
class MianChowlaSelfAttention(_SequenceSelfAttention):
    """As `PrimeSelfAttention`, with the Mian-Chowla sequence 1, 2, 4, 8, 13, ... (OEIS A005282).

    Parameters
    ----------
    dims, heads, kv_heads, head_dim, v_dim, scale, rotary, rotary_dims, qk_norm, offset_bias
        As in `PrimeSelfAttention`.
    alibi, softcap, dropout, sinks, bias, init, device, seq_len_max, window, global_tokens
        As there, too.

    See Also
    --------
    PrimeSelfAttention : Over the primes.
    SparseIndexAttention : Over any pattern, or one per head.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.MianChowlaSelfAttention(64).pattern.offsets(22)
    array([ 0,  1,  2,  3,  4,  8, 13, 21])
    """

    sequence = "mian_chowla"
