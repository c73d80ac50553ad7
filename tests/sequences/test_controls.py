import numpy as np
import pytest

from primeattn.sequences import (
    complement,
    dilated,
    evil,
    from_array,
    matched_random,
    powers,
    primes,
    strided,
    thin,
    uniform_random,
)


def test_regular_controls():
    assert strided(5)(17).tolist() == [5, 10, 15] and strided(1)(3).tolist() == [1, 2, 3]
    assert dilated(4, 3)(10**6).tolist() == [4, 8, 12] and dilated(rate=4, count=3)(9).tolist() == [4, 8]


@pytest.mark.parametrize(
    "base", [primes, powers(2), evil, complement(primes), from_array([5, 6, 7])], ids=repr
)
def test_matched_random_has_as_many_in_every_dyadic_block(base):
    for seed in range(3):
        control = matched_random(base, seed)
        for k in range(15):
            block = slice(control.count(2**k - 1), control.count(2 ** (k + 1) - 1))
            assert block.stop - block.start == base.count(2 ** (k + 1) - 1) - base.count(2**k - 1)


def test_matched_random_within_a_block_is_uniform():
    """1000 of 4096 numbers, 200 seeds: each number is drawn 48.8 ± 6.1 times, and no two seeds agree."""
    base = from_array(range(4096, 5096))
    drawn = [matched_random(base, seed)(8191) for seed in range(200)]
    times = np.bincount(np.concatenate(drawn), minlength=8192)[4096:]
    assert times.sum() == 200_000 and times.min() > 20 and times.max() < 80
    assert times.std() == pytest.approx((200 * 0.244 * 0.756) ** 0.5, rel=0.1)
    common = len(np.intersect1d(drawn[0], drawn[1]))
    assert common == pytest.approx(1000**2 / 4096, rel=0.2)


def test_matched_random_of_a_dense_block_leaves_out_at_random():
    base = from_array(range(64, 124))  # 60 of 64
    left_out = [set(range(64, 128)) - set(matched_random(base, seed)(127).tolist()) for seed in range(100)]
    assert all(len(left) == 4 for left in left_out)
    assert len(set().union(*left_out)) == 64


def test_matched_random_has_no_parity():
    assert 0.4 < (matched_random(primes, 0)(10**5) % 2).mean() < 0.6 < (primes(10**5) % 2).mean()


def test_random_controls_are_the_same_for_ever():
    assert uniform_random(0.1, 0)(60).tolist() == [1, 20, 23, 48, 57]
    assert matched_random(primes, 0)(31).tolist() == [2, 3, 6, 7, 12, 13, 18, 21, 23, 24, 31]
    assert matched_random(complement(primes), 0)(31).tolist() == [
        1,
        6,
        7,
        8,
        9,
        10,
        11,
        14,
        15,
        16,
        17,
        19,
        20,
        22,
        25,
        26,
        27,
        28,
        29,
        30,
    ]
    assert matched_random(primes, 2**64 - 1)(31).tolist() == [2, 3, 6, 7, 10, 11, 17, 19, 21, 22, 28]


def test_uniform_random():
    terms = uniform_random(0.05, 7)(10**5)
    assert len(terms) == pytest.approx(5000, rel=0.05) and np.mean(terms) == pytest.approx(50_000, rel=0.05)
    assert len(np.intersect1d(terms, uniform_random(0.05, 8)(10**5))) < 350
    # With the same seed, thin tosses another coin.
    assert len(np.intersect1d(terms, thin(strided(1), 0.05, 7)(10**5))) < 350


def test_a_table_is_asked_to_the_end_of_the_block():
    table = from_array([2, 5], known_to=7)
    assert len(matched_random(table, 0)(7)) == 2
    with pytest.raises(ValueError, match="where this table of offsets ends"):
        matched_random(table, 0)(8)
    with pytest.raises(ValueError, match="expected at most 6, where this table of offsets ends, got 7"):
        matched_random(from_array([2, 5], known_to=6), 0)(5)


@pytest.mark.parametrize(
    "make, error, match",
    [
        (lambda: strided(0), ValueError, "stride: expected an integer >= 1, got 0"),
        (lambda: dilated(0, 1), ValueError, "rate: expected an integer >= 1, got 0"),
        (lambda: dilated(1, 0), ValueError, "count: expected an integer >= 1, got 0"),
        (lambda: uniform_random(1.1, 0), ValueError, "density: expected a number in"),
        (lambda: uniform_random(0.5, 1.0), TypeError, "seed: expected an integer"),
        (lambda: matched_random("primes", 0), TypeError, "base: expected a Sequence, got 'primes'"),
        (lambda: matched_random(primes, -1), ValueError, "seed: expected an integer >= 0"),
    ],
)
def test_bad_parameters(make, error, match):
    with pytest.raises(error, match=match):
        make()
