from itertools import combinations_with_replacement

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.analysis import counting_bound, efficiency, hops, match_budget
from primeattn.patterns import Pattern
from primeattn.sequences import from_array, golomb_ruler, strided

N = 4096


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    offsets=some.sets(some.integers(1, 60), max_size=8),
    global_tokens=some.integers(0, 5),
    n=some.integers(1, 40),
    extra=some.integers(0, 800),
)
def test_the_largest_window_that_fits(offsets, global_tokens, n, extra):
    pattern = Pattern(from_array(offsets), 7, global_tokens)
    budget = Pattern(pattern.sequence, 0, global_tokens).num_pairs(n) + extra
    matched = match_budget(pattern, budget, n)
    assert matched.num_pairs(n) <= budget and 0 <= matched.window < n
    assert (matched.sequence, matched.global_tokens) == (pattern.sequence, global_tokens)
    if matched.window < n - 1:
        assert Pattern(pattern.sequence, matched.window + 1, global_tokens).num_pairs(n) > budget


@pytest.mark.parametrize(
    "owner, windows",
    [
        ("mian_chowla", {None: 34, "powers_of_two": 28}),
        ("squares", {None: 44, "powers_of_two": 39, "mian_chowla": 16}),
        ("primes", {None: 315, "powers_of_two": 313, "mian_chowla": 298, "squares": 287}),
    ],
)
def test_measured_windows(owner, windows):
    budget = Pattern(owner, window=3).num_pairs(N)
    for name, window in windows.items():
        assert match_budget(Pattern(name), budget, N) == Pattern(name, window)
    assert match_budget(Pattern(owner), budget, N).num_pairs(N) == budget


@pytest.mark.parametrize(
    "owner, name, most, mean",
    [
        ("mian_chowla", None, 121, 60.7),
        ("mian_chowla", "powers_of_two", 9, 4.56),
        ("mian_chowla", "fibonacci", 6, 3.94),
        ("squares", None, 94, 47.0),
        ("squares", "powers_of_two", 8, 4.36),
        ("squares", "mian_chowla", 4, 2.66),
        ("primes", None, 13, 7.0),
        ("primes", "powers_of_two", 5, 2.89),
        ("primes", "mian_chowla", 2, 1.920),
        ("primes", "squares", 2, 1.918),
        ("primes", "ulam", 2, 1.884),
        ("primes", "stanley", 2, 1.900),
    ],
)
def test_measured_hops_at_equal_cost(owner, name, most, mean):
    pattern = match_budget(Pattern(name), Pattern(owner, window=3).num_pairs(N), N)
    h = hops(pattern, N)[1:]
    assert h.max() == most and h.mean() == pytest.approx(mean, abs=0.006 if mean < 10 else 0.06)


def test_a_budget_too_small():
    with pytest.raises(ValueError, match="budget: expected at least 92873, what window 0 needs at n = 1000"):
        match_budget(Pattern("primes"), 92872, 1000)
    assert match_budget(Pattern("primes"), 92873, 1000).window == 0
    assert match_budget(Pattern(None), 10**9, 1000) == Pattern(None, window=999)


@pytest.mark.parametrize("k", range(6))
@pytest.mark.parametrize("layers", range(5))
def test_counting_bound_counts_sums(k, layers):
    """Of offsets 10^i, all sums of at most 4 differ."""
    sums = {
        sum(chosen)
        for size in range(1, layers + 1)
        for chosen in combinations_with_replacement([10**i for i in range(k)], size)
    }
    assert counting_bound(k, layers) == len(sums)


def test_how_many_offsets_reach_everything_at_best():
    least = [min(k for k in range(200) if counting_bound(k, layers) >= N) for layers in (2, 3, 4)]
    assert least == [90, 28, 16]


def test_efficiency():
    sidon = Pattern("mian_chowla")
    reached = (hops(sidon, N + 1)[1:] <= 2).sum()
    assert counting_bound(46, 2) == 1127 and efficiency(sidon, 2, N + 1) == reached / 1127
    assert efficiency(sidon, 2, N + 1) == pytest.approx(0.85, abs=0.005)
    assert efficiency(Pattern(strided(64), window=63), 2, N + 1) == 1
    ruler = Pattern(golomb_ruler(8))  # 0 is a mark, so sums of one and of two marks all differ
    assert efficiency(ruler, 1, 100) == 1 == efficiency(ruler, 2, 100) > efficiency(ruler, 3, 1000)
    assert efficiency(Pattern(None), 2, 100) == 0 == efficiency(Pattern("primes"), 0, 100)


@pytest.mark.parametrize(
    "call, error, match",
    [
        (lambda: match_budget("primes", 10, 10), TypeError, "pattern: expected a Pattern"),
        (lambda: match_budget(Pattern("primes"), 1e3, 10), TypeError, "budget: expected an integer"),
        (lambda: match_budget(Pattern("primes"), 10, 0), ValueError, "n: expected an integer >= 1, got 0"),
        (lambda: counting_bound(-1, 2), ValueError, "k: expected an integer >= 0, got -1"),
        (lambda: counting_bound(1, 2.5), TypeError, "layers: expected an integer"),
        (lambda: efficiency("primes", 2, 10), TypeError, "pattern: expected a Pattern"),
        (lambda: efficiency(Pattern("primes"), 2, 1), ValueError, "n: expected an integer >= 2, got 1"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
