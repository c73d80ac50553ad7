import warnings
from dataclasses import replace
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.analysis import counting_bound, efficiency, hops, match_budget
from primeattn.patterns import Pattern
from primeattn.sequences import from_array, golomb_ruler, names, primes, squares, strided

N = 4096


def pairs(stack, n):
    return sum(pattern.num_pairs(n) for pattern in stack)


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
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        matched = match_budget(pattern, budget, n)
    assert matched.num_pairs(n) <= budget and 0 <= matched.window < n
    assert matched.global_tokens == global_tokens
    alone = Pattern(pattern.sequence, matched.window, global_tokens)
    if matched.window < n - 1:
        assert Pattern(pattern.sequence, matched.window + 1, global_tokens).num_pairs(n) > budget
    left = budget - alone.num_pairs(n)
    if left <= budget / 100:
        assert matched == alone and not told
        return
    left = budget - matched.num_pairs(n)
    assert set(matched.offsets(n)) >= set(alone.offsets(n))
    assert bool(told) == (left > budget / 100)
    for d in set(range(1, n)) - set(matched.offsets(n).tolist()) if told else ():  # none would fit
        assert n - global_tokens - d > left or n - global_tokens <= d


def random_case(case, rng):
    """A stack, its budget, length and lever, such that a match exists."""
    n, by = int(rng.integers(64, 2049)), ("window", "thin", "distance", "dyadic")[case % 4]
    stack = [
        Pattern(str(rng.choice(names())), int(rng.integers(17)), int(rng.integers(5)))
        for _ in range(rng.integers(1, 4))
    ]
    keeps = {"window": 0} if by == "window" else {"sequence": None}
    least = [replace(pattern, **keeps) for pattern in stack]
    most = [Pattern(None, n - 1)] if by == "window" else stack
    low, high = pairs(least, n), pairs(most, n) * (len(stack) if by == "window" else 1)
    return stack, int(rng.integers(low, high + 1)), n, by


@pytest.mark.slow
def test_500_random_cases_are_matched_within_one_per_cent():
    rng = np.random.default_rng(0)
    for case in range(500):
        stack, budget, n, by = random_case(case, rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            matched = match_budget(stack, budget, n, by=by)
        assert 0.99 * budget <= pairs(matched, n) <= budget, (stack, budget, n, by)
        for before, after in zip(stack, matched, strict=True):
            assert after.global_tokens == before.global_tokens
            assert by == "window" or after.window == before.window


@pytest.mark.parametrize("by", ["thin", "distance"])
def test_what_a_lever_keeps(by):
    n, budget = 2000, 150_000
    matched = match_budget(Pattern("primes", window=3), budget, n, by=by)
    kept = [d for d in matched.offsets(n).tolist() if d > 3]
    terms = [p for p in primes(n - 1).tolist() if p > 3]
    assert set(kept) <= set(terms) and len(kept) < len(terms)
    if by == "distance":  # the nearest, and if it was necessary one or two beyond
        assert kept[:-2] == terms[: len(kept) - 2]
    else:
        assert np.mean(kept) == pytest.approx(np.mean(terms), rel=0.1)
        other = match_budget(Pattern("primes", window=3), budget, n, by=by, seed=1)
        assert other != matched == match_budget(Pattern("primes", window=3), budget, n, by=by, seed=0)


def test_random_offsets_within_dyadic_blocks():
    n, pattern = 2048, Pattern("primes", window=3)
    terms = primes(n - 1)
    for share in (0.5, 1, 2):
        budget = n * 4 - 6 + int(share * (n - terms[terms > 3]).sum())
        matched = match_budget(pattern, budget, n, by="dyadic", seed=1).offsets(n)
        for k in range(5, 11):
            wanted = share * ((terms >= 2**k) & (terms < 2 ** (k + 1))).sum()
            assert ((matched >= 2**k) & (matched < 2 ** (k + 1))).sum() == pytest.approx(
                wanted, rel=0.05, abs=1
            )
        assert np.isin(matched, terms).mean() < 0.3


@pytest.mark.parametrize(
    "sequence", names()
)  # powers of two begin their blocks, Moser-de Bruijn numbers nearly
@pytest.mark.parametrize("n", [48, 64, 96, 128, 256, 1024])
def test_random_offsets_are_as_many_in_every_block_at_the_own_budget(sequence, n):
    """Single far offsets cost little and fit well; there may be no more of them for that."""
    pattern = Pattern(sequence, window=3)
    edges = 2 ** np.arange(12)
    for seed in range(5):
        matched = match_budget(pattern, pattern.num_pairs(n), n, by="dyadic", seed=seed)
        counts = [np.histogram(p.offsets(n), edges)[0].tolist() for p in (pattern, matched)]
        assert counts[0] == counts[1]
        assert 0.99 * pattern.num_pairs(n) <= matched.num_pairs(n) <= pattern.num_pairs(n)


def test_random_offsets_are_as_many_however_closely_they_must_match():
    pattern, n = Pattern("primes", window=3), 1024
    matched = match_budget(pattern, pattern.num_pairs(n), n, by="dyadic", within=1e-6)
    edges = 2 ** np.arange(12)
    counts = [np.histogram(p.offsets(n), edges)[0].tolist() for p in (pattern, matched)]
    assert counts[0] == counts[1] and matched != pattern
    assert matched.num_pairs(n) == pattern.num_pairs(n)


def test_a_stack_shares_one_lever():
    stack = [Pattern("primes", window=9), Pattern("squares", global_tokens=1)]
    n = 1024
    one, two = match_budget(stack, 250_000, n)
    assert abs(one.window - two.window) <= 6 and (one.global_tokens, two.global_tokens) == (0, 1)
    shorter = match_budget(stack, 40_000, n, by="distance")
    assert [layer.window for layer in shorter] == [9, 0]
    farthest = [layer.offsets(n)[-3] for layer in shorter]  # the last may be single ones
    assert max(farthest) < 2 * min(farthest)


def test_sequences_are_patterns_without_a_window():
    assert match_budget(squares, 5000, 512, by="thin") == match_budget(Pattern(squares), 5000, 512, by="thin")


def test_what_cannot_be_matched_is_said():
    pattern = Pattern("squares", window=2)
    whole = pattern.num_pairs(100)
    with pytest.warns(UserWarning, match=rf"budget: expected 5000 pairs, got {whole} at n = 100: by='thin'"):
        assert match_budget(pattern, 5000, 100, by="thin") == pattern
    with pytest.raises(
        ValueError, match="expected at least 297, what window and global tokens need at n = 100"
    ):
        match_budget(pattern, 296, 100, by="distance")
    assert match_budget(pattern, 297, 100, by="distance").offsets(100).tolist() == [0, 1, 2]


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
        assert match_budget(Pattern(name), budget, N, within=0.05) == Pattern(name, window)
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
    pattern = match_budget(Pattern(name), Pattern(owner, window=3).num_pairs(N), N, within=0.05)
    h = hops(pattern, N)[1:]
    assert h.max() == most and h.mean() == pytest.approx(mean, abs=0.006 if mean < 10 else 0.06)


def test_a_budget_too_small():
    with pytest.raises(ValueError, match="budget: expected at least 92873, what window 0 needs at n = 1000"):
        match_budget(Pattern("primes"), 92872, 1000)
    assert match_budget(Pattern("primes"), 92873, 1000).window == 0
    with pytest.warns(UserWarning, match=r"expected 1000000000 pairs, got 500500 at n = 1000"):
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
        (lambda: match_budget([], 10, 10), ValueError, "pattern: expected at least one pattern, got none"),
        (lambda: match_budget(["primes"], 10, 10), TypeError, "pattern: expected a Pattern, got 'primes'"),
        (lambda: match_budget(squares, 10, 10, by="row"), ValueError, "by: expected one of window, thin"),
        (lambda: match_budget(Pattern(None), 10, 10, seed=1), ValueError, "seed: expected none with by='win"),
        (lambda: match_budget(squares, 9, 9, by="thin", seed=-1), ValueError, "seed: expected an integer"),
        (lambda: match_budget(squares, 10, 10, within=0), ValueError, "within: expected a number in"),
        (lambda: counting_bound(-1, 2), ValueError, "k: expected an integer >= 0, got -1"),
        (lambda: counting_bound(1, 2.5), TypeError, "layers: expected an integer"),
        (lambda: efficiency("primes", 2, 10), TypeError, "pattern: expected a Pattern"),
        (lambda: efficiency(Pattern("primes"), 2, 1), ValueError, "n: expected an integer >= 2, got 1"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
