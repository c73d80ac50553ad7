import inspect
import time

import numpy as np
import pytest

from primeattn import sequences
from primeattn.sequences import lucky, primes, quadratic_residues, smooth
from primeattn.sequences.sieves import _is_prime


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


def test_a_prime_is_told_from_products():
    assert [n for n in range(-3, 10_000) if _is_prime(n)] == primes(10_000).tolist()
    assert all(map(_is_prime, (2**31 - 1, 2**61 - 1, 2**63 - 25, 4611686018427387847)))
    assert not any(
        map(_is_prime, (3215031751, 3825123056546413051, (2**31 - 1) ** 2, 2**63 - 1))
    )  # pseudoprimes
    assert smooth(2**61 - 1)(20).tolist() == list(range(1, 21))


@pytest.mark.parametrize("family", sequences.families())
@pytest.mark.parametrize("value", [0, 1, -1, 2**31, 2**31 - 1, 2**61 - 1, 2**62, 2**63, 10**40])
def test_any_parameter_is_taken_or_refused_in_time(family, value):
    make = getattr(sequences, family.split("(")[0])
    others = [primes, 1, 0.5]
    count, begin = len(inspect.signature(make).parameters), time.perf_counter()
    for first in (value, primes):
        for other in [value, *others]:
            try:
                made = make(*[first, other, 0][:count])
                assert made(5000).size <= 5000 and (made.estimate(10**6) is None or made.title)
            except (TypeError, ValueError) as error:
                assert "expected" in str(error)
    assert time.perf_counter() - begin < 5


@pytest.mark.parametrize("name", sequences.names())
def test_limits_without_bound_are_refused_at_once_or_answered(name, fresh):
    begin = time.perf_counter()
    for limit in (2**60, 2**63, 10**40):
        try:
            assert fresh(sequences.get(name)).count(limit) <= 2**27
        except ValueError as error:
            assert "limit: expected at most" in str(error)
    assert time.perf_counter() - begin < 20
