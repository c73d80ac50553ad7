import numpy as np
import pytest

from primeattn.analysis import extreme_eigenvalues, laplacian, spectrum
from primeattn.patterns import Pattern
from primeattn.sequences import dilated, from_array, matched_random, primes, strided


def by_definition(pattern, n):
    graph = pattern.to_dense(n) & ~np.eye(n, dtype=bool)
    graph = (graph | graph.T).astype(float)
    degree = graph.sum(axis=1)
    matrix = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if graph[i, j]:
                matrix[i, j] = -1 / np.sqrt(degree[i] * degree[j])
        matrix[i, i] = degree[i] > 0
    return matrix


@pytest.mark.parametrize(
    "pattern",
    [Pattern("primes", 1, 2), Pattern("squares", 0, 1), Pattern([4]), Pattern(None), Pattern(None, 0, 3)],
    ids=repr,
)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_laplacian_against_the_definition(pattern, n):
    matrix = by_definition(pattern, n)
    np.testing.assert_allclose(laplacian(pattern, n).toarray(), matrix, atol=1e-15)
    values = spectrum(pattern, n)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix), atol=1e-12)
    assert values.min() > -1e-12 and values.max() < 2 + 1e-12


def test_graphs_with_known_spectrum():
    n = 50
    path = spectrum(Pattern(None, window=1), n)
    np.testing.assert_allclose(path, 1 - np.cos(np.pi * np.arange(n) / (n - 1)), atol=1e-12)
    complete = spectrum(Pattern(None, window=n), n)
    np.testing.assert_allclose(complete, [0] + [n / (n - 1)] * (n - 1), atol=1e-12)
    star = spectrum(Pattern(None, global_tokens=1), n)
    np.testing.assert_allclose(star, [0] + [1] * (n - 2) + [2], atol=1e-12)


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern("primes", 3),
        Pattern("squares", 1, 2),
        Pattern("powers_of_two"),
        Pattern(dilated(16, 4), 2),
        Pattern(None, 3),
        Pattern(None, 200),
        Pattern(None, 2, 1),
        Pattern([7]),
        Pattern([1, 399]),
        Pattern(None),
    ],
    ids=repr,
)
def test_extremes_are_those_of_the_spectrum(pattern):
    """Dense at 256; beyond, by factoring narrow bands and by Lanczos iteration."""
    for n in (2, 40, 256, 257, 400):
        values = spectrum(pattern, n)
        found = extreme_eigenvalues(pattern, n)
        assert found.gap == pytest.approx(values[1], rel=1e-6, abs=1e-9)
        assert found.largest == pytest.approx(values[-1], rel=1e-5, abs=1e-9)
        assert type(found.gap) is float and found == extreme_eigenvalues(pattern, n)


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 12))]
)
def test_extremes_of_random_patterns(seed):
    rng = np.random.default_rng(seed)
    for n in (257, 300, 601):
        offsets = 1 + rng.choice((20, 100, n)[seed % 3], int(rng.integers(0, 9)), replace=False)
        pattern = Pattern(offsets, int(rng.integers(0, 4)), int(rng.choice([0, 0, 1, 2, 5, n - 3, n])))
        values, found = spectrum(pattern, n), extreme_eigenvalues(pattern, n)
        assert found.gap == pytest.approx(values[1], rel=1e-6, abs=1e-9), (pattern, n)
        assert found.largest == pytest.approx(values[-1], rel=1e-4, abs=1e-9), (pattern, n)


@pytest.mark.slow
def test_extremes_of_many_tokens_take_seconds():
    """As a sparse matrix the first has 7 * 10^8 numbers; eigenvalues of the second lie close together."""
    found = extreme_eigenvalues(Pattern("primes", 3, 2), 65536)
    assert found == pytest.approx((0.5008517, 1.9991323), abs=1e-6)
    found = extreme_eigenvalues(Pattern(None, 3, 2), 4097)
    assert found == pytest.approx((0.250004087, 1.3288906), abs=1e-6)


@pytest.mark.parametrize(
    "pattern, gap, largest",  # n = 1024
    [
        (Pattern("primes", window=3), 0.525, 1.979),
        (Pattern("squares", window=3), 0.503, 1.413),
        (Pattern("mian_chowla", window=3), 0.410, 1.346),
        (Pattern("ulam", window=3), 0.731, 1.70),
        (Pattern("stanley", window=3), 0.591, 1.22),
        (Pattern(strided(32), window=32), 0.348, 1.17),
    ],
    ids=repr,
)
def test_measured_values(pattern, gap, largest):
    found = extreme_eigenvalues(pattern, 1024)
    assert found.gap == pytest.approx(gap, abs=6e-4)
    assert found.largest == pytest.approx(largest, abs=6e-4 if largest != round(largest, 2) else 6e-3)


def test_the_primes_are_nearly_bipartite_and_their_random_control_is_not():
    controls = [
        extreme_eigenvalues(Pattern(matched_random(primes, seed), window=3), 1024) for seed in range(4)
    ]
    for control in controls:
        assert control.largest == pytest.approx(1.2, abs=0.06) and control.gap > 0.7
    found = extreme_eigenvalues(Pattern("primes", window=3), 1024)
    assert found.largest == pytest.approx(1.979, abs=5e-4) and found.gap < 0.6


def test_long_chains():
    """The gap of a path of n tokens is 1 - cos(π / (n - 1)) = 1.2e-6: out of reach of plain iteration."""
    found = extreme_eigenvalues(Pattern(None, window=1), 2001)
    assert found.gap == pytest.approx(2 * np.sin(np.pi / 4000) ** 2, rel=1e-4)
    assert found.largest == pytest.approx(2, abs=1e-5)


def test_bad_input():
    with pytest.raises(TypeError, match="pattern: expected a Pattern"):
        laplacian(from_array([2]), 10)
    with pytest.raises(ValueError, match="n: expected at most 4096 for all eigenvalues, got 4097"):
        spectrum(Pattern("primes"), 4097)
    with pytest.raises(ValueError, match="n: expected an integer >= 2, got 1"):
        extreme_eigenvalues(Pattern("primes"), 1)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        laplacian(Pattern("primes"), 0)
