"""How well the graph of a pattern mixes: eigenvalues of its normalised Laplacian."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.sequences.value import as_int

__all__ = ["Extremes", "extreme_eigenvalues", "laplacian", "spectrum"]

_MAX_SPECTRUM = 4096  # a dense matrix of 128 MiB, and seconds
_MAX_DENSE = 256  # up to here all of them at once are faster than the extreme ones
_MAX_BAND = 128  # chains mix so slowly that Lanczos fails; but L - sigma I is easily factored


class Extremes(NamedTuple):
    """The spectral gap, which is the second smallest eigenvalue, and the largest eigenvalue.

    Examples
    --------
    >>> import primeattn as pa
    >>> gap, largest = pa.analysis.extreme_eigenvalues(pa.Pattern("primes", window=3), 1024)
    >>> round(largest, 3)
    1.979
    """

    gap: float
    largest: float


def laplacian(pattern, n):
    """Return the normalised Laplacian of the pattern's graph on ``n`` tokens,

        L = I - K^(-1/2) (A + A^T) K^(-1/2),

    A the pattern without its diagonal, K the diagonal matrix of degrees; rows of isolated tokens are 0.
    Its eigenvalues lie in [0, 2]: 0 once for each connected component, 2 where the graph is bipartite.

    Returns
    -------
    scipy.sparse.csr_matrix, float64, shape (n, n)

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.laplacian(pa.Pattern(None, window=1), 3).toarray().round(2)
    array([[ 1.  , -0.71,  0.  ],
           [-0.71,  1.  , -0.71],
           [ 0.  , -0.71,  1.  ]])
    """
    return _laplacian_and_degrees(pattern, as_int("n", n, minimum=1))[0]


def _laplacian_and_degrees(pattern, n):
    from scipy import sparse

    below = sparse.tril(as_pattern(pattern).to_csr(n), -1)
    graph = (below + below.T).astype(np.float64)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = sparse.diags(np.where(degrees > 0, np.maximum(degrees, 1) ** -0.5, 0.0))
    return (sparse.diags((degrees > 0).astype(float)) - scale @ graph @ scale).tocsr(), degrees


def spectrum(pattern, n) -> np.ndarray:
    """Return all eigenvalues of ``laplacian(pattern, n)``, ascending. ValueError for n > 4096.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.spectrum(pa.Pattern(None, window=1), 3).round(3) + 0
    array([0., 1., 2.])
    """
    n = as_int("n", n, minimum=1)
    if n > _MAX_SPECTRUM:
        raise ValueError(f"n: expected at most {_MAX_SPECTRUM} for all eigenvalues, got {n}")
    return np.linalg.eigvalsh(laplacian(pattern, n).toarray())


def extreme_eigenvalues(pattern, n) -> Extremes:
    """Return the spectral gap lambda_2 and the largest eigenvalue of ``laplacian(pattern, n)``.

    A wide gap means that no part of the sequence is cut off from the rest: information spreads in few layers.
    A largest eigenvalue near 2 means nearly bipartite: with the primes, all odd but one, an even and an odd
    number of hops lead to different halves of the past. The gap is exact to rounding, the other to 1e-5.

    Examples
    --------
    >>> import primeattn as pa
    >>> primes = pa.Pattern("primes", window=3)
    >>> control = pa.Pattern(pa.sequences.matched_random(primes.sequence, seed=0), window=3)
    >>> round(pa.analysis.extreme_eigenvalues(primes, 1024).largest, 3)
    1.979
    >>> round(pa.analysis.extreme_eigenvalues(control, 1024).largest, 1)
    1.2
    """
    n = as_int("n", n, minimum=2)
    if n <= _MAX_DENSE:
        values = spectrum(pattern, n)
        return Extremes(float(values[1]), float(values[-1]))
    from scipy.sparse.linalg import LinearOperator, eigsh

    matrix, degrees = _laplacian_and_degrees(pattern, n)
    if not degrees.any():
        return Extremes(0.0, 0.0)
    options = dict(v0=np.random.default_rng(0).standard_normal(n), return_eigenvectors=False)
    if pattern.global_tokens == 0 and pattern.offsets(n)[-1] <= _MAX_BAND:
        gap = eigsh(matrix.tocsc(), k=2, sigma=-1e-8, **options).max()
    else:
        null = np.sqrt(degrees / degrees.sum())  # L null = 0; L + null null^T has this 0 moved to 1
        moved = LinearOperator(matrix.shape, lambda x: matrix @ x + null * (null @ x), dtype=np.float64)
        gap = eigsh(moved, k=1, which="SA", **options)[0]
    largest = eigsh(matrix, k=1, which="LA", tol=1e-6, **options)[0]
    return Extremes(max(0.0, float(gap)), float(largest))
