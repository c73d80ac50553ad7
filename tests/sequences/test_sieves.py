import time

import numpy as np
import pytest

from primeattn.sequences import lucky, primes, quadratic_residues, smooth


def test_primes_to_ten_million_in_a_second(fresh):
    sequence, begin = fresh(primes), time.perf_counter()
    assert sequence.count(10**7) == 664_579
    assert time.perf_counter() - begin < 1


def test_lucky_numbers_to_a_million(fresh):
    """A007951: how many lucky numbers are below a power of ten; all of them are odd."""
    sequence = fresh(lucky)
    assert [sequence.count(10**k) for k in range(1, 7)] == [4, 23, 153, 1118, 8772, 71918]
    assert (sequence(10**6) % 2 == 1).all()


@pytest.mark.parametrize("family, name", [(smooth, "p"), (quadratic_residues, "q")])
def test_prime_parameters(family, name):
    for bad in (-3, 0, 1, 4, 9, 91):
        with pytest.raises(ValueError, match=f"{name}: expected a prime, got {bad}"):
            family(bad)
    for bad in (3.0, True, "3"):
        with pytest.raises(TypeError, match=f"{name}: expected an integer"):
            family(bad)
    assert family(np.int64(3)) is family(3)
    with pytest.raises(ValueError, match="q: expected an odd prime, got 2"):
        quadratic_residues(2)


def test_quadratic_residues_are_half_of_all_residues_and_a_group():
    residues = set(quadratic_residues(13)(12).tolist())
    assert residues == {1, 3, 4, 9, 10, 12}
    assert {a * b % 13 for a in residues for b in residues} == residues
    assert set((quadratic_residues(13)(1000) % 13).tolist()) == residues
