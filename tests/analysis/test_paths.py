from collections import Counter
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.analysis import hops, redundancy, two_hop_paths
from primeattn.patterns import Pattern
from primeattn.sequences import from_array, golomb_ruler, matched_random, mian_chowla


@settings(deadline=None, max_examples=100, derandomize=True)
@given(offsets=some.sets(some.integers(1, 60)), window=some.integers(0, 5), n=some.integers(0, 80))
def test_against_all_pairs(offsets, window, n):
    pattern = Pattern(from_array(offsets), window)
    pairs = combinations_with_replacement(pattern.offsets(n)[1:].tolist(), 2)
    count = Counter(s + t for s, t in pairs if s + t < n)
    paths = two_hop_paths(pattern, n)
    assert paths.dtype == np.int64 and paths.tolist() == [count[d] for d in range(n)]
    total = sum(count.values())
    assert redundancy(pattern, n) == pytest.approx(1 - len(count) / total if total else 0)


@pytest.mark.parametrize(
    "name, mean, most, share",  # of the distances with a path; n = 4096
    [
        ("primes", 34.9, 163, 0.971),
        ("squares", 1.38, 4, 0.275),
        ("mian_chowla", 1, 1, 0),
        ("triangular", 1.54, None, None),
        ("stanley", 5.7, None, None),
        ("moser_de_bruijn", 2.8, None, None),
    ],
)
def test_measured_values(name, mean, most, share):
    paths = two_hop_paths(Pattern(name), 4096)
    assert paths[paths > 0].mean() == pytest.approx(mean, abs=0.05 if mean > 2 else 0.005)
    if most is not None:
        assert paths.max() == most
        assert redundancy(Pattern(name), 4096) == pytest.approx(share, abs=5e-4)


def test_goldbach_comet():
    paths = two_hop_paths(Pattern("primes"), 100_000)
    assert paths[[4, 6, 8, 10, 100, 1000, 10_000]].tolist() == [1, 1, 1, 2, 6, 28, 127]  # A045917
    assert paths[3::2].max() == 1  # an odd sum takes the prime 2


@pytest.mark.parametrize("sequence", [mian_chowla, golomb_ruler(20)], ids=repr)
def test_sidon_sets_waste_no_path(sequence):
    assert two_hop_paths(Pattern(sequence), 20_000).max() == 1
    assert redundancy(Pattern(sequence), 20_000) == 0


def test_a_random_control_of_a_sidon_set_wastes_some():
    shares = [redundancy(Pattern(matched_random(mian_chowla, seed)), 4096) for seed in range(8)]
    assert 0.05 < np.mean(shares) < 0.13


def test_a_path_is_a_distance_of_two_hops():
    paths, h = two_hop_paths(Pattern("ulam"), 5000), hops(Pattern("ulam"), 5000)
    np.testing.assert_array_equal((paths > 0) & (h != 1), h == 2)


def test_bad_input():
    with pytest.raises(TypeError, match="pattern: expected a Pattern, got 'primes'"):
        two_hop_paths("primes", 10)
    with pytest.raises(ValueError, match="n: expected an integer >= 0, got -1"):
        redundancy(Pattern("primes"), -1)
