import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn.sequences import complement, from_array, from_callable, primes, shift, squares, thin

offsets = some.sets(some.integers(1, 60), max_size=15)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(offsets=offsets, by=some.integers(-70, 70), limit=some.integers(0, 150))
def test_shift_and_complement_against_sets(offsets, by, limit):
    base = from_array(offsets)
    assert shift(base, by)(limit).tolist() == sorted(s + by for s in offsets if 1 <= s + by <= limit)
    assert complement(base)(limit).tolist() == [s for s in range(1, limit + 1) if s not in offsets]


def test_literal_cases():
    assert shift(primes, 1)(14).tolist() == [3, 4, 6, 8, 12, 14]
    assert complement(squares)(10).tolist() == [2, 3, 5, 6, 7, 8, 10]
    assert complement(complement(primes))(20).tolist() == primes(20).tolist()
    assert repr(2 * shift(primes | squares, -1)) == "2 * shift(primes | squares, -1)"


def test_thin_keeps_each_term_by_its_own_coin():
    half = thin(primes, 0.5, 0)
    assert set(half(10**5).tolist()) < set(primes(10**5).tolist())
    assert half.count(10**5) == pytest.approx(primes.count(10**5) / 2, rel=0.05)
    assert thin(primes, 1, 0)(1000).tolist() == primes(1000).tolist()
    # A smaller share keeps fewer of the same; another base, the same of what both have; another seed, others.
    quarter = set(thin(primes, 0.25, 0)(10**5).tolist())
    assert quarter < set(half(10**5).tolist())
    kept = set(thin(complement(squares), 0.5, 0)(1000).tolist())
    assert kept & set(primes(1000).tolist()) == set(half(1000).tolist())
    both = np.intersect1d(half(10**5), thin(primes, 0.5, 1)(10**5))
    assert len(both) == pytest.approx(primes.count(10**5) / 4, rel=0.1)


def test_thin_is_the_same_for_ever():
    assert thin(primes, 0.5, 0)(100).tolist() == [3, 5, 11, 17, 43, 53, 59, 67, 79]


def test_estimates_follow_the_base():
    table = from_array([3, 5])
    for sequence in (shift(table, 1), thin(table, 0.5, 0), complement(table)):
        assert sequence.estimate(100) is None
    assert shift(primes, 10).estimate(100) == primes.estimate(90)
    assert thin(primes, 0.25, 0).estimate(100) == primes.estimate(100) / 4
    assert complement(primes).estimate(100) == 100 - primes.estimate(100)


def test_a_table_still_ends():
    table = from_array([2, 5], known_to=9)
    assert shift(table, 3)(12).tolist() == [5, 8] and complement(table)(9).tolist() == [1, 3, 4, 6, 7, 8, 9]
    for sequence, end in ((shift(table, 3), 12), (complement(table), 9), (thin(table, 0.5, 0), 9)):
        with pytest.raises(ValueError, match="where this table of offsets ends"):
            sequence(end + 1)


def test_callables_take_part_but_not_in_json():
    evens = from_callable(lambda limit: range(2, limit + 1, 2))
    odd = complement(evens)
    assert odd(7).tolist() == [1, 3, 5, 7] and odd == complement(evens)
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        odd.to_json()


@pytest.mark.parametrize("combine", [lambda s: shift(s, 1), lambda s: thin(s, 0.5, 0), complement])
@pytest.mark.parametrize("base", ["primes", [2, 3], None, 3, lambda limit: []], ids=repr)
def test_base_must_be_a_sequence(combine, base):
    with pytest.raises(TypeError, match="base: expected a Sequence, got"):
        combine(base)


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: shift(primes, 1.0), TypeError, "by: expected an integer"),
        (lambda: thin(primes, 0, 0), ValueError, r"share: expected a number in \(0, 1\], got 0"),
        (lambda: thin(primes, 1.5, 0), ValueError, "share: .* got 1.5"),
        (lambda: thin(primes, float("nan"), 0), ValueError, "share: .* got nan"),
        (lambda: thin(primes, True, 0), TypeError, "share: .* got True"),
        (lambda: thin(primes, "half", 0), TypeError, "share: .* got 'half'"),
        (lambda: thin(primes, 0.5, -1), ValueError, "seed: expected an integer >= 0, got -1"),
        (lambda: thin(primes, 0.5, 2**64), ValueError, "seed: expected an integer below"),
        (lambda: thin(primes, 0.5, 0.0), TypeError, "seed: expected an integer"),
    ],
)
def test_bad_parameters(make, error, match):
    with pytest.raises(error, match=match):
        make()
