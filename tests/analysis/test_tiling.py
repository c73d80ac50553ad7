import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.analysis import tile_occupancy, wheel_fraction
from primeattn.patterns import Pattern
from primeattn.sequences import from_array

patterns = some.builds(
    Pattern,
    some.sets(some.integers(1, 90), max_size=6).map(from_array),
    some.integers(0, 4),
    some.integers(0, 20),
)


def live_tiles(mask, block):
    """Tiles of a mask, the last ones cut, that hold a pair."""
    rows, columns = mask.shape
    return sum(
        mask[i : i + block, j : j + block].any()
        for i in range(0, rows, block)
        for j in range(0, columns, block)
    )


def causal_tiles(n, block):
    tiles = -(-n // block)
    return tiles * (tiles + 1) // 2


@settings(deadline=None, max_examples=150, derandomize=True)
@given(pattern=patterns, n=some.integers(1, 90), block=some.integers(1, 24))
def test_occupancy_against_the_mask(pattern, n, block):
    expected = live_tiles(pattern.to_dense(n), block) / causal_tiles(n, block)
    assert tile_occupancy(pattern, n, block) == expected


@settings(deadline=None, max_examples=150, derandomize=True)
@given(pattern=patterns, n=some.integers(1, 90), wheel=some.integers(1, 100), block=some.integers(1, 12))
def test_wheel_against_the_regrouped_mask(pattern, n, wheel, block):
    query, key = np.indices((n, n))
    mask = np.isin(query - key, pattern.offsets(n)[pattern.window + 1 :])
    live = sum(
        live_tiles(mask[a::wheel, b::wheel], block)
        for a in range(min(wheel, n))
        for b in range(min(wheel, n))
    )
    assert wheel_fraction(pattern, n, wheel, block) == live / causal_tiles(n, block)


def test_literal_cases():
    assert tile_occupancy(Pattern(None), 8, 2) == 4 / 10
    assert tile_occupancy(Pattern(None, window=1), 8, 2) == 7 / 10
    assert tile_occupancy(Pattern([7]), 8, 2) == 5 / 10
    assert tile_occupancy(Pattern(None, global_tokens=3), 8, 2) == (4 + 3 + 2) / 10
    assert wheel_fraction(Pattern([2, 4, 6]), 8, 2, 4) == 2 / 3  # even and odd tokens, two whole tiles
    assert wheel_fraction(Pattern(None, window=9), 8, 2, 4) == 0


@pytest.mark.parametrize(
    "name, n, shares",  # blocks of 16, 32, 64, 128; window 3
    [
        ("primes", 4096, (0.995, 1, 1, 1)),
        ("squares", 4096, (0.492, 0.828, 1, 1)),
        ("mian_chowla", 4096, (0.387, 0.615, 0.855, 1)),
        ("primes", 65536, (0.990, 1, 1, 1)),
        ("squares", 65536, (0.140, 0.286, 0.517, 0.841)),
        ("mian_chowla", 65536, (0.088, 0.165, 0.296, 0.497)),
        ("powers_of_two", 16384, (0.020, 0.035, 0.062, 0.109)),
        ("moser_de_bruijn", 16384, (0.078, 0.104, 0.155, 0.206)),
        ("stanley", 16384, (0.197, 0.251, 0.331, 0.399)),
        ("three_smooth", 16384, (0.119, 0.214, 0.362, 0.572)),
    ],
)
def test_measured_occupancy(name, n, shares):
    found = [tile_occupancy(Pattern(name, window=3), n, block) for block in (16, 32, 64, 128)]
    assert found == pytest.approx(shares, abs=6e-4)


@pytest.mark.parametrize(
    "name, window, wheel, fractions",  # n = 4096, 16384, 65536; the window holds the primes of the wheel
    [
        ("primes", 0, 1, (1, 1, 1)),
        ("primes", 2, 2, (0.508, 0.502, 0.5005)),
        ("primes", 3, 6, (0.381, 0.345, 0.336)),
        ("primes", 5, 30, (0.692, 0.328, 0.288)),
        ("primes", 7, 210, (4.85, 0.919, 0.288)),
        ("squares", 0, 16, (0.308, None, 0.249)),
        ("squares", 0, 144, (None, 0.210, 0.156)),
    ],
)
def test_measured_wheels(name, window, wheel, fractions):
    for n, expected in zip((4096, 16384, 65536), fractions, strict=True):
        if expected is not None:
            found = wheel_fraction(Pattern(name, window=window), n, wheel)
            assert found == pytest.approx(expected, abs=6e-4 if expected < 4 else 6e-3)


def test_half_a_million_tokens_without_a_mask():
    begin = time.perf_counter()
    assert tile_occupancy(Pattern("squares"), 500_000) < 0.25
    assert 8 / 30 < wheel_fraction(Pattern("primes", window=5), 500_000, 30) < 0.28
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: tile_occupancy("primes", 10), TypeError, "pattern: expected a Pattern"),
        (lambda: tile_occupancy(Pattern("primes"), 0), ValueError, "n: expected an integer >= 1, got 0"),
        (lambda: tile_occupancy(Pattern("primes"), 10, 0), ValueError, "block: expected an integer >= 1"),
        (lambda: wheel_fraction(Pattern("primes"), 10, 0), ValueError, "wheel: expected an integer >= 1"),
        (lambda: wheel_fraction(Pattern("primes"), 10, 2.0), TypeError, "wheel: expected an integer"),
        (lambda: wheel_fraction("primes", 10, 2), TypeError, "pattern: expected a Pattern"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
