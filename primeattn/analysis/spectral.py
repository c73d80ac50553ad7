"""How well the graph of a pattern mixes: eigenvalues of its normalised Laplacian."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from primeattn.analysis.reach import as_pattern
from primeattn.checks import as_int

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from primeattn.patterns import Pattern

__all__ = ["Extremes", "extreme_eigenvalues", "laplacian", "spectrum"]

_MAX_SPECTRUM = 4096  # takes a dense matrix of 128 MiB, and seconds
_MAX_DENSE = 256  # up to here, all eigenvalues are faster than the extreme ones alone
_MAX_BAND = 128  # narrow bands mix too slowly for Lanczos, but L - shift I is easy to factor
_BELOW = 1e-8  # distance of the shift below the least value that the gap can have


class Extremes(NamedTuple):
    """The spectral gap, which is the second smallest eigenvalue, and the largest eigenvalue.

    Parameters
    ----------
    gap : float
        The second smallest eigenvalue.
    largest : float
        The largest eigenvalue.

    See Also
    --------
    extreme_eigenvalues : Makes it for a pattern.

    Examples
    --------
    >>> import primeattn as pa
    >>> gap, largest = pa.analysis.extreme_eigenvalues(pa.Pattern("primes", window=3), 1024)
    >>> round(largest, 3)
    1.979
    """

    gap: float
    largest: float


def laplacian(pattern: Pattern, n: int) -> csr_matrix:
    """Return the normalised Laplacian of the pattern's graph on ``n`` tokens,

        L = I - K^(-1/2) (A + A^T) K^(-1/2),

    A the pattern without its diagonal, K the diagonal matrix of degrees; rows of isolated tokens are 0.
    Its eigenvalues lie in [0, 2]: 0 once for each connected component, 2 where the graph is bipartite.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Number of tokens.

    Returns
    -------
    scipy.sparse.csr_matrix, float64, shape (n, n)
        Indices sorted.

    See Also
    --------
    spectrum : All its eigenvalues.
    extreme_eigenvalues : Its second and its last, for long sequences.

    Examples
    --------
    >>> import primeattn as pa
    >>> pa.analysis.laplacian(pa.Pattern(None, window=1), 3).toarray().round(2)
    array([[ 1.  , -0.71,  0.  ],
           [-0.71,  1.  , -0.71],
           [ 0.  , -0.71,  1.  ]])
    """
    from scipy import sparse

    n = as_int("n", n, minimum=1)
    below = sparse.tril(as_pattern(pattern).to_csr(n), -1)
    graph = (below + below.T).astype(np.float64)
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = sparse.diags(np.where(degrees > 0, np.maximum(degrees, 1) ** -0.5, 0.0))
    return (sparse.diags((degrees > 0).astype(float)) - scale @ graph @ scale).tocsr()


def spectrum(pattern: Pattern, n: int) -> np.ndarray:
    """Return all eigenvalues of ``laplacian(pattern, n)``, ascending.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Number of tokens, at most 4096.

    Returns
    -------
    float64 array, shape (n,)
        The eigenvalues, from 0 to at most 2.

    Raises
    ------
    ValueError
        If ``n`` is above 4096.

    See Also
    --------
    extreme_eigenvalues : Two of them, for long sequences.
    primeattn.plot.spectrum : A picture of them.

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


def extreme_eigenvalues(pattern: Pattern, n: int) -> Extremes:
    """Return the spectral gap lambda_2 and the largest eigenvalue of ``laplacian(pattern, n)``.

    A wide gap means that no part of the sequence is cut off from the rest: information spreads in few layers.
    A largest eigenvalue near 2 means nearly bipartite: with the primes, all odd but one, an even and an odd
    number of hops lead to different halves of the past. The gap is exact to 1e-11, the largest to 1e-4,
    or to 1e-3 beyond 10^5 tokens.
    Takes O(n) memory: apart from global tokens the graph is a Toeplitz matrix, applied by Fourier transforms.

    Parameters
    ----------
    pattern : Pattern
        Which keys a query attends.
    n : int
        Number of tokens.

    Returns
    -------
    Extremes
        ``gap`` and ``largest``.

    See Also
    --------
    spectrum : All eigenvalues, of short sequences.
    laplacian : The matrix.

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

    degrees = _degrees(as_pattern(pattern), n)
    if not degrees.any():
        return Extremes(0.0, 0.0)
    scale = np.where(degrees > 0, np.maximum(degrees, 1) ** -0.5, 0.0)
    neighbours = _sum_of_neighbours(pattern, n)
    null = np.sqrt(degrees / degrees.sum())  # L null = 0

    def apply(x):
        return np.where(degrees > 0, x, 0.0) - scale * neighbours(scale * x)

    options = dict(v0=np.random.default_rng(0).standard_normal(n), return_eigenvectors=False)
    matrix = LinearOperator((n, n), lambda x: apply(x.reshape(n)), dtype=np.float64)
    columns = min(pattern.global_tokens, n)
    if n - columns > _MAX_DENSE and 0 < pattern.offsets(n - columns)[-1] <= _MAX_BAND:
        shift = columns / degrees[columns:].max() - _BELOW
        inverse = LinearOperator((n, n), _inverse(pattern, n, degrees, scale, shift), dtype=np.float64)
        values = eigsh(matrix, k=2, sigma=shift, OPinv=inverse, **options)
        gap = values[values > shift].min() if columns else values.max()
    else:
        # As the largest of 2 I - L, deflated: a tolerance relative to 2 can be met even if the gap is 0.
        turned = LinearOperator(
            (n, n), lambda x: 2 * (x.reshape(n) - null * (null @ x)) - apply(x.reshape(n)), dtype=np.float64
        )
        gap = 2 - eigsh(turned, k=1, which="LA", tol=1e-12, **options)[0]
    largest = eigsh(matrix, k=1, which="LA", tol=min(2e-10 * n, 1e-4), ncv=40, **options)[0]
    return Extremes(max(0.0, float(gap)), float(largest))


def _degrees(pattern, n):
    """Number of neighbours: all others for a global token, else the globals and the tokens at offsets."""
    columns = min(pattern.global_tokens, n)
    place = np.arange(n - columns)
    steps = pattern.offsets(n - columns)[1:]
    earlier = np.searchsorted(steps, place, side="right")
    return np.concatenate([np.full(columns, n - 1), columns + earlier + earlier[::-1]]).astype(np.float64)


def _sum_of_neighbours(pattern, n):
    """Return the product with A + A^T: apart from globals, a Toeplitz matrix applied by Fourier transform."""
    from scipy import fft

    columns = min(pattern.global_tokens, n)
    rest = n - columns
    size = fft.next_fast_len(max(2 * rest, 1), real=True)
    around = np.zeros(size)
    steps = pattern.offsets(rest)[1:]
    around[steps] = around[-steps] = 1
    transformed = fft.rfft(around).real

    def product(x):
        leading = x[:columns].sum()
        by_offset = fft.irfft(transformed * fft.rfft(x[columns:], size), size)[:rest]
        return np.concatenate([x.sum() - x[:columns], by_offset + leading])

    return product


def _inverse(pattern, n, degrees, scale, shift):
    """Return the product with the inverse of L - shift I, where L is a narrow band apart from the globals.

    Globals have 1 - shift on the diagonal, -s² off it, and -s u towards the rest, with u the rest's ``scale``
    and s theirs. Eliminating the rest leaves a I - b J, J all ones.

    The eigenvalues of the band are at least columns / (the largest degree), by its row sums. Apart from 0,
    those of L below 1 are at least the band's. So a shift just below that bound gives the gap.
    """
    from scipy.linalg import cho_solve_banded, cholesky_banded

    columns = min(pattern.global_tokens, n)
    u, s = scale[columns:], (n - 1) ** -0.5
    steps = pattern.offsets(u.size)
    band = np.zeros((steps[-1] + 1, u.size))
    band[0] = (degrees[columns:] > 0) - shift
    for d in steps[1:].tolist():
        band[d, : u.size - d] = -u[d:] * u[:-d]
    factor = cholesky_banded(band, lower=True, overwrite_ab=True), True
    through = cho_solve_banded(factor, u)
    a, b = 1 - shift + s * s, s * s * (1 + u @ through)

    def product(x):
        x = x.reshape(n)
        rest = cho_solve_banded(factor, x[columns:])
        leading = x[:columns] + s * (u @ rest)
        leading = (leading + b / (a - b * columns) * leading.sum()) / a
        return np.concatenate([leading, rest + s * leading.sum() * through])

    return product
