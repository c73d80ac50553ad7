import time
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn import sequences
from primeattn.analysis import hops, receptive_field
from primeattn.patterns import Pattern
from primeattn.sequences import cubes, from_array, mian_chowla, primes, squares, strided

N = 4097  # distances 0, ..., 4096


def coin_change(offsets, n):
    """h(d) = 1 + min h(d - s), distance by distance."""
    h = [0] + [-1] * (n - 1)
    for d in range(1, n):
        least = min((h[d - s] for s in offsets if 0 < s <= d and h[d - s] >= 0), default=None)
        h[d] = -1 if least is None else least + 1
    return h[:n]


def alone(name):
    """Hops to the distances 1, ..., 4096, without a window."""
    return hops(Pattern(name), N)[1:]


d = np.arange(1, N)


# --- against the recurrence and the graph ---------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, expected",
    [
        (Pattern(None), [0, -1, -1, -1, -1, -1, -1, -1]),
        (Pattern(None, window=1), [0, 1, 2, 3, 4, 5, 6, 7]),
        (Pattern(None, window=3), [0, 1, 1, 1, 2, 2, 2, 3]),
        (Pattern([3]), [0, -1, -1, 1, -1, -1, 2, -1]),
        (Pattern([2, 3]), [0, -1, 1, 1, 2, 2, 2, 3]),
        (Pattern("squares"), [0, 1, 2, 3, 1, 2, 3, 4]),
        (Pattern("squares", window=2, global_tokens=5), [0, 1, 1, 2, 1, 2, 2, 3]),
    ],
    ids=repr,
)
def test_literal_cases(pattern, expected):
    h = hops(pattern, 8)
    assert h.dtype == np.int64 and h.tolist() == expected
    assert [hops(pattern, n).tolist() for n in range(8)] == [expected[:n] for n in range(8)]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    offsets=some.sets(some.integers(1, 300), max_size=12),
    window=some.integers(0, 4),
    n=some.integers(0, 500),
)
def test_against_the_recurrence(offsets, window, n):
    pattern = Pattern(from_array(offsets), window)
    assert hops(pattern, n).tolist() == coin_change(pattern.offsets(n), n)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(offsets=some.sets(some.integers(1, 9), min_size=1, max_size=4), n=some.integers(0, 300))
def test_finite_sets_by_their_period(offsets, n):
    """Lengths far beyond the largest offset, with distances that stay out of reach."""
    assert hops(Pattern(from_array(offsets)), n).tolist() == coin_change(offsets, n)


@pytest.mark.parametrize("name", sequences.names())
def test_every_sequence_against_the_recurrence(name):
    """Long enough for sets that are added by bits."""
    pattern = Pattern(name, window=1)
    assert hops(pattern, 1200).tolist() == coin_change(pattern.offsets(1200).tolist(), 1200)


def levels(masks):
    """For each query, the key -> the fewest of the boolean ``masks``, applied in order, that reach it."""
    reached = np.eye(len(masks[0]), dtype=bool)
    least = np.where(reached, 0, -1)
    for layer, mask in enumerate(masks, 1):
        reached = (mask.astype(np.int64) @ reached) > 0
        least[reached & (least < 0)] = layer
    return least


@pytest.mark.parametrize("name", ["primes", "squares", None])
@pytest.mark.parametrize("global_tokens", [0, 4])
def test_against_the_graph_global_tokens_shorten_no_path_to_later_keys(name, global_tokens):
    n, layers = 80, 6
    pattern = Pattern(name, 1, global_tokens)
    least = levels([pattern.to_dense(n)] * layers)
    h = hops(pattern, n)
    for j in range(global_tokens, n):
        expected = np.where(h[: n - j] <= layers, h[: n - j], -1)
        np.testing.assert_array_equal(least[j:, j], expected)
    for j in range(global_tokens):
        assert (least[j + 1 :, j] == 1).all()


# --- stacks ---------------------------------------------------------------------------------------------


def test_a_stack_against_the_graph():
    n = 60
    stack = [Pattern([7], 1), Pattern("squares"), Pattern(None), Pattern("primes", 2)]
    least = levels([pattern.to_dense(n) for pattern in stack])
    h = hops(stack, n)
    for j in range(n):
        np.testing.assert_array_equal(least[j:, j], h[: n - j])
    for layers in range(5):
        np.testing.assert_array_equal(receptive_field(stack, layers, n), (h >= 0) & (h <= layers))


@pytest.mark.parametrize("name", ["primes", "squares", "powers_of_two"])
def test_a_stack_of_one_pattern_is_that_pattern(name):
    pattern = Pattern(name, window=1)
    h = hops(pattern, 2000)
    for layers in range(4):
        np.testing.assert_array_equal(hops([pattern] * layers, 2000), np.where(h <= layers, h, -1))


@pytest.mark.parametrize(
    "first, second, share",
    [
        ("primes", "primes", 0.749),
        ("primes", "squares", 0.998),
        ("primes", "mian_chowla", 0.999),
        ("primes", "powers_of_two", 0.740),
        ("squares", "squares", 0.320),
        ("squares", "mian_chowla", 0.491),
        ("triangular", "mian_chowla", 0.601),
        ("mian_chowla", "mian_chowla", 0.241),
    ],
)
def test_measured_shares_of_two_mixed_layers(first, second, share):
    a, b = Pattern(first, window=3), Pattern(second, window=3)
    for stack in ([a, b], [b, a]):
        assert (hops(stack, N)[1:] > 0).mean() == pytest.approx(share, abs=5e-4)


def test_exact_covers_by_two_layers():
    moser = sequences.moser_de_bruijn
    assert (hops([Pattern(moser), Pattern(2 * moser)], N) >= 0).all()  # d = a + 2b
    assert (hops([Pattern(None, window=63), Pattern(strided(64))], N) >= 0).all()
    assert not (hops([Pattern(None, window=62), Pattern(strided(64))], N) >= 0).all()


# --- theorems, to 4096 ----------------------------------------------------------------------------------


def test_primes_goldbach():
    """One hop to primes, two to even d >= 4 and to p + 2, three to the other odd ones."""
    h, p = alone("primes"), primes(N)
    is_prime = np.isin(d, p)
    two = ~is_prime & ((d % 2 == 0) & (d >= 4) | np.isin(d - 2, p))
    expected = np.select([is_prime, two, d > 1], [1, 2, 3], default=-1)
    np.testing.assert_array_equal(h, expected)
    assert (h == 3).sum() == 1028
    with_window = hops(Pattern("primes", window=1), N)[1:]
    assert with_window[0] == 1 and (with_window[1:] == h[1:]).all()


def test_squares_lagrange_and_legendre():
    h = alone("squares")

    def reduced(n):
        while n % 4 == 0:
            n //= 4
        return n

    four = np.array([reduced(n) % 8 == 7 for n in d.tolist()])
    assert four.sum() == 682
    np.testing.assert_array_equal(h == 4, four)
    assert h.max() == 4 and h.min() == 1
    np.testing.assert_array_equal(h == 1, np.isin(d, squares(N)))

    def sum_of_two(n):
        return any(isqrt(n - a * a) ** 2 == n - a * a for a in range(isqrt(n) + 1))

    np.testing.assert_array_equal(h <= 2, [sum_of_two(n) for n in d.tolist()])


def test_triangular_numbers_gauss():
    assert alone("triangular").max() == 3


def test_powers_of_two_popcount():
    np.testing.assert_array_equal(alone("powers_of_two"), [n.bit_count() for n in d.tolist()])


def test_fibonacci_zeckendorf():
    def parts(n):
        count = 0
        for f in sequences.fibonacci(n)[::-1].tolist():
            if f <= n:
                n, count = n - f, count + 1
        return count

    h = alone("fibonacci")
    np.testing.assert_array_equal(h, [parts(n) for n in d.tolist()])
    first = {k: int(np.argmax(h == k)) + 1 for k in range(2, 9)}
    assert first == {2: 4, 3: 12, 4: 33, 5: 88, 6: 232, 7: 609, 8: 1596}  # F(2k + 1) - 1


def test_moser_de_bruijn_and_stanley():
    moser, stanley = alone("moser_de_bruijn"), alone("stanley")
    assert moser.min() == 1 and moser.max() == 3
    assert stanley.min() == 1 and stanley.max() == 2


def test_cubes_wieferich():
    h = alone("cubes")
    assert h.max() == 9 and (np.flatnonzero(h == 9) + 1).tolist() == [23, 239]
    assert cubes.count(4096) == 16


@pytest.mark.parametrize("name", ["primes", "squares", "mian_chowla", "ulam"])
def test_gap_lemma(name):
    """A window of the largest gap less one makes two hops enough."""
    terms = sequences.get(name)(N - 1)
    gap = int(np.diff([0, *terms, N]).max())
    h = hops(Pattern(name, window=gap - 1), N)
    assert h.max() == 2 and h.min() == 0
    if name in ("primes", "squares", "mian_chowla"):
        assert np.diff(terms).max() == {"primes": 34, "squares": 127, "mian_chowla": 270}[name]


@pytest.mark.parametrize(
    "name, firsts",
    [("primes", [2, 4, 27]), ("squares", [1, 2, 3, 7]), ("mian_chowla", [1, 3, 7, 117])],
)
def test_first_distance_that_needs_so_many_hops(name, firsts):
    h = alone(name)
    assert [int(np.argmax(h == k)) + 1 for k in range(1, len(firsts) + 1)] == firsts


# --- measured values ------------------------------------------------------------------------------------

MEASURED = {  # share of the distances 1, ..., 4096 within 1, 2, 3 and 4 hops, window 3
    "primes": (0.1379, 0.7490, 1, 1),
    "squares": (0.0161, 0.3196, 0.9543, 1),
    "mian_chowla": (0.0115, 0.2412, 0.9917, 1),
    "triangular": (0.022, 0.522, 1, 1),
    "moser_de_bruijn": (0.016, 0.186, 1, 1),
    "stanley": (0.062, 1, 1, 1),
    "ulam": (0.093, 0.840, 1, 1),
    "lucky": (0.126, 0.729, 1, 1),
    "prime_powers": (0.148, 0.991, 1, 1),
    "twin_primes": (0.052, 0.571, 0.995, 1),
    "three_smooth": (0.014, 0.235, 0.910, 1),
    "fibonacci": (0.004, 0.033, 0.145, 0.389),
    "powers_of_two": (0.003, 0.022, 0.084, 0.223),
    "cubes": (0.004, 0.038, 0.197, 0.595),
}


@pytest.mark.parametrize("name", MEASURED)
def test_measured_shares(name):
    pattern, places = Pattern(name, window=3), 5e-5 if name in ("primes", "squares", "mian_chowla") else 6e-4
    h = hops(pattern, N)[1:]
    shares = [((h > 0) & (h <= layers)).mean() for layers in (1, 2, 3, 4)]
    assert shares == pytest.approx(MEASURED[name], abs=places)
    for layers in (0, 1, 2, 3, 4):
        field = receptive_field(pattern, layers, N)
        assert field.dtype == bool and field[0]
        np.testing.assert_array_equal(field[1:], (h > 0) & (h <= layers))


def test_the_primes_miss_what_a_random_control_reaches():
    """Their parity: two layers reach 75 % of the distances, as many random offsets nearly all of them."""
    for seed in range(3):
        control = Pattern(sequences.matched_random(primes, seed), window=3)
        assert receptive_field(control, 2, N).mean() > 0.998


def test_mian_chowla_beats_its_random_control():
    shares = [
        receptive_field(Pattern(sequences.matched_random(mian_chowla, seed), window=3), 3, N).mean()
        for seed in range(5)
    ]
    assert 0.93 < np.mean(shares) < 0.98 < receptive_field(Pattern(mian_chowla, window=3), 3, N).mean()


# --- speed and bad input --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_million_distances_in_seconds():
    """Every registered sequence of at most 1000 offsets, and the most layers that each takes."""
    n, begin, most = 10**6, time.perf_counter(), {}
    for name in sequences.names():
        if sequences.get(name).count(n) <= 1000:
            h = hops(Pattern(name), n)
            most[name] = int(h.max())
            assert h[1:].min() > 0
    assert most == {
        "cubes": 9,
        "fibonacci": 14,
        "lucas": 14,
        "mian_chowla": 4,
        "powers_of_two": 19,
        "squares": 4,
        "three_smooth": 5,
    }
    assert hops(Pattern(None, window=2), n).max() == 500_000
    assert time.perf_counter() - begin < 20


def test_primes_to_a_hundred_thousand_in_seconds():
    begin = time.perf_counter()
    h = hops(Pattern("primes"), 10**5)
    assert time.perf_counter() - begin < 20
    assert h.max() == 3 and (h[4::2] == 2).all()  # Goldbach


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: hops("primes", 10), TypeError, "pattern: expected a Pattern or several, got 'primes'"),
        (lambda: hops(primes, 10), TypeError, "pattern: expected a Pattern or several, got primes"),
        (lambda: hops([Pattern("primes"), None], 10), TypeError, "pattern: expected a Pattern, got None"),
        (lambda: hops(Pattern("primes"), -1), ValueError, "n: expected an integer >= 0, got -1"),
        (lambda: hops(Pattern("primes"), 10.0), TypeError, "n: expected an integer"),
        (lambda: receptive_field(Pattern("primes"), -1, 10), ValueError, "layers: expected an integer >= 0"),
        (
            lambda: receptive_field([Pattern("primes")], 2, 10),
            ValueError,
            "layers: expected at most 1, the patterns of the stack, got 2",
        ),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.slow
def test_millions_of_distances_are_answered():
    """By Fourier transforms: shifting bits would move 10^10 bytes."""
    n = 2**21
    by_transform = hops(Pattern("primes", window=3), n)
    assert (
        by_transform.max() == 3 and (by_transform[: 2**16] == hops(Pattern("primes", window=3), 2**16)).all()
    )
