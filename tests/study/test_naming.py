import numpy as np
import pytest

from primeattn.patterns import Pattern
from primeattn.study import named
from primeattn.study.naming import drawn


def test_sequences_and_dense():
    assert named("primes", 96) == Pattern("primes", window=3)
    assert named("2 * primes | squares", 96) == Pattern("2 * primes | squares", window=3)
    assert named("none", 96) == Pattern(None, window=3)
    assert named("dense", 96).num_pairs(96) == 96 * 97 // 2
    assert named("primes and squares", 96) == [named("primes", 96), named("squares", 96)]


@pytest.mark.parametrize("what", ["window", "strided", "powers of two", "random", "squares", "mian_chowla"])
@pytest.mark.parametrize("n", [128, 1024])
def test_controls_cost_what_the_sequence_costs(what, n):
    budget = named("primes", n).num_pairs(n)
    pairs = named(f"{what} as primes", n).num_pairs(n)
    assert 0.99 * budget <= pairs <= budget


def test_a_sequence_that_costs_more_is_no_match():
    with pytest.raises(
        ValueError, match="budget: expected at least 3351, what window 0 needs at n = 128, got 2503"
    ):
        named("prime_powers as primes", 128)


def test_heads_share_the_cost():
    primes, squares = named("primes and squares as primes", 256)
    budget = named("primes", 256).num_pairs(256)
    assert 0.99 * budget <= (primes.num_pairs(256) + squares.num_pairs(256)) / 2 <= budget
    assert set(Pattern("squares").offsets(256)) <= set(squares.offsets(256))


def test_only_random_ones_depend_on_the_seed():
    assert drawn("random as primes") and not drawn("window as primes") and not drawn("primes")
    first, again, second = (named("random as primes", 96, seed).offsets(96) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != second.tolist()
    assert named("strided as primes", 96, 0) == named("strided as primes", 96, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("prymes", "sequence: expected one of"),
        ("window as prymes", "sequence: expected one of"),
        ("window", "expected 'window as' a sequence, such as 'window as primes'"),
        ("random", "expected 'random as' a sequence"),
        ("primes and ", "sequence"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message):
        named(name, 96)
    with pytest.raises(TypeError, match="patterns: expected a name, got 3"):
        named(3, 96)


@pytest.mark.filterwarnings("ignore:controls. powers of two")
def test_a_control_that_costs_too_much():
    with pytest.raises(
        ValueError, match="'powers of two as none' at n = 1024: expected at least as many pairs as powers"
    ):
        named("powers of two as none", 1024)
