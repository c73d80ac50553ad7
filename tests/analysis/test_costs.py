from math import log

import numpy as np
import pytest

from primeattn import sequences
from primeattn.analysis import asymptotic_pairs, cost, flops, traffic
from primeattn.patterns import Pattern
from primeattn.sequences import from_array, strided


def test_flops_and_bytes_of_a_case_by_hand():
    """5 tokens, window 1: 9 pairs; each is 2 products of 8 features forward and 5 backward."""
    pattern = Pattern(None, window=1)
    assert flops(pattern, 5, 8) == 9 * 2 * 2 * 8
    assert flops(pattern, 5, 8, backward=True) == 9 * 5 * 2 * 8
    assert traffic(pattern, 5, 8) == (5 * 4 * 8 * 4, (5 * 2 + 9 * 2) * 8 * 4)
    assert traffic(pattern, 5, 8, np.float16).most == traffic(pattern, 5, 8).most // 2
    assert flops(pattern, 0, 8) == 0 == traffic(pattern, 0, 8).most


@pytest.mark.parametrize(
    "window, global_tokens, n", [(0, 0, 50), (7, 0, 50), (99, 0, 50), (7, 9, 50), (3, 60, 50)]
)
def test_without_a_sequence_the_law_is_exact(window, global_tokens, n):
    pattern = Pattern(None, window, global_tokens)
    assert asymptotic_pairs(pattern, n) == pattern.num_pairs(n)
    assert asymptotic_pairs(pattern, 0) == 0


def test_closed_forms():
    n = 10**6
    assert asymptotic_pairs(Pattern("squares"), n) == pytest.approx(n + 2 / 3 * n**1.5, rel=1e-4)
    assert asymptotic_pairs(Pattern("triangular"), n) == pytest.approx(n + 8**0.5 / 3 * n**1.5, rel=1e-4)
    assert asymptotic_pairs(Pattern(strided(100)), n) == pytest.approx(n + n * n / 200, rel=1e-4)
    # Window 1000, ten strides: beyond it only further multiples count.
    expected = n + 1000 * n - 1000**2 / 2 + (n - 1000) ** 2 / 200
    assert asymptotic_pairs(Pattern(strided(100), window=1000), n) == pytest.approx(expected, rel=1e-5)
    assert asymptotic_pairs(Pattern("primes"), n) == pytest.approx(n * n / (2 * log(n)), rel=0.05)


@pytest.mark.parametrize("name", sequences.names())
@pytest.mark.parametrize("window, global_tokens", [(0, 0), (40, 3)])
def test_the_law_is_near_the_pairs(name, window, global_tokens):
    pattern = Pattern(name, window, global_tokens)
    assert asymptotic_pairs(pattern, 65536) == pytest.approx(pattern.num_pairs(65536), rel=0.16)


def test_unknown_laws():
    pattern = Pattern(from_array([2, 3]))
    assert np.isnan(asymptotic_pairs(pattern, 100)) and cost(pattern, [100])[0]["asymptotic_pairs"] is None


def test_table():
    pattern = Pattern("primes", window=3, global_tokens=2)
    lengths = np.array([100, 1000, 4096])
    table = cost(pattern, lengths, head_dim=32, dtype="float64")
    assert table.column("n").tolist() == [100, 1000, 4096]
    assert table.column("pairs").tolist() == [pattern.num_pairs(n) for n in lengths]
    assert table[2]["pairs"] == 1255303 and table[2]["flops"] == 4 * 32 * 1255303
    assert table[2]["bytes_least"] == 4 * 4096 * 32 * 8
    assert table[0]["density"] == pattern.density(100)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: flops("primes", 10, 8), TypeError, "pattern: expected a Pattern"),
        (lambda: flops(Pattern("primes"), 10, 0), ValueError, "head_dim: expected an integer >= 1, got 0"),
        (lambda: flops(Pattern("primes"), 10.0, 8), TypeError, "n: expected an integer"),
        (lambda: traffic(Pattern("primes"), -1, 8), ValueError, "n: expected an integer >= 0, got -1"),
        (lambda: asymptotic_pairs("primes", 10), TypeError, "pattern: expected a Pattern"),
        (lambda: cost(Pattern("primes"), 10), TypeError, "lengths: expected several lengths, got 10"),
        (lambda: cost(Pattern("primes"), [0]), ValueError, "n: expected an integer >= 1, got 0"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
