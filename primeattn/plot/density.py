"""How full each block of a mask is, for masks too large for memory."""

from __future__ import annotations

import numpy as np

__all__ = ["block_shares"]


def block_shares(pattern, edges) -> np.ndarray:
    """Return the share of the causal pairs of each block of the mask that the pattern attends,

        share[a, b] = #{ (i, j) attended in block (a, b) } / #{ (i, j) : j <= i in block (a, b) },

    with queries edges[a] <= i < edges[a + 1] and keys edges[b] <= j < edges[b + 1]; NaN where no pair is
    causal. Exact, in O(blocks² log n) time, without a mask.

    Let S(x) = sum_{d in D} max(0, x - d). There are S(x - y) attended pairs with i < x and j >= y, since
    offset d has x - y - d of them; a block is a second difference of that. With all distances in place of D,
    it counts causal pairs. Keys j < G are attended by all later queries, keys j >= G by offset.

    Parameters
    ----------
    pattern : Pattern
    edges : int array, shape (blocks + 1,)
        0 = edges[0] < edges[1] < ... < edges[-1] = n.

    Returns
    -------
    float64 array, shape (blocks, blocks)

    Examples
    --------
    >>> import numpy as np, primeattn as pa
    >>> from primeattn.plot.density import block_shares
    >>> block_shares(pa.Pattern("squares", global_tokens=1), np.array([0, 2, 4, 6]))
    array([[1.  ,  nan,  nan],
           [0.75, 1.  ,  nan],
           [0.75, 0.25, 1.  ]])
    """
    offsets = pattern.offsets(edges[-1])
    sums = np.concatenate([[0], np.cumsum(offsets)])

    def by_offset(x):
        below = np.searchsorted(offsets, x)
        return below * np.maximum(x, 0) - sums[below]

    def causal(x):
        return np.maximum(x, 0) * (np.maximum(x, 0) + 1) // 2

    def in_blocks(count, keys):
        return -np.diff(np.diff(count(edges[:, None] - keys), axis=0), axis=1)

    leading = pattern.global_tokens
    attended = in_blocks(causal, np.minimum(edges, leading)) + in_blocks(
        by_offset, np.maximum(edges, leading)
    )
    total = in_blocks(causal, edges)
    return np.divide(attended, total, out=np.full(total.shape, np.nan), where=total > 0)
