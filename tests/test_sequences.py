import json
import pickle
import threading
import time
from itertools import combinations_with_replacement
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn import sequences
from primeattn.sequences import Sequence, from_array, mian_chowla, powers, primes, squares

BUILT_IN = [primes, squares, mian_chowla, powers(2), powers(3)]
FIRST_TERMS = {  # https://oeis.org
    "A000040": "2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59 61 67 71 73 79 83 89 97 101 103 107 109 113",
    "A000290": "1 4 9 16 25 36 49 64 81 100 121 144 169 196 225 256 289 324 361 400 441 484 529 576 625 676",
    "A005282": "1 2 4 8 13 21 31 45 66 81 97 123 148 182 204 252 290 361 401 475 565 593 662 775 822 916 970 "
    "1016 1159 1312",
    "A000079": "1 2 4 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 32768 65536 131072 262144 524288",
    "A000244": "1 3 9 27 81 243 729 2187 6561 19683 59049 177147 531441 1594323 4782969 14348907 43046721",
}


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, isqrt(n) + 1))


def greedy_sidon(limit):
    terms, sums = [], set()
    for c in range(1, limit + 1):
        new = {c + a for a in terms} | {2 * c}
        if not new & sums:
            terms.append(c)
            sums |= new
    return terms


def fresh(sequence):
    """An equal sequence that knows no term yet."""
    clone = object.__new__(type(sequence))
    vars(clone).update(vars(sequence), _known=(np.empty(0, np.int64), 0), _lock=threading.RLock())
    return clone


@pytest.fixture
def registering():
    """Names registered by a test disappear after it."""
    known = set(sequences._registry)
    yield sequences.register
    for name in set(sequences._registry) - known:
        del sequences._registry[name], vars(sequences)[name]
        sequences.__all__.remove(name)


# --- terms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", BUILT_IN, ids=repr)
def test_first_terms(sequence):
    expected = [int(term) for term in FIRST_TERMS[sequence.oeis].split()]
    assert sequence(expected[-1]).tolist() == expected
    assert sequence(expected[-1] - 1).tolist() == expected[:-1]


@pytest.mark.parametrize(
    "sequence, counts",
    [
        (primes, {256: 54, 1024: 172, 4096: 564, 16384: 1900, 65536: 6542, 10**6: 78498}),
        (squares, {256: 16, 1024: 32, 4096: 64, 16384: 128, 65536: 256}),
        (mian_chowla, {256: 16, 1024: 28, 4096: 46, 16384: 81, 65536: 138}),
        (powers(2), {256: 9, 1024: 11, 4096: 13, 16384: 15, 65536: 17}),
    ],
    ids=["primes", "squares", "mian_chowla", "powers"],
)
def test_counts(sequence, counts):
    assert {n: sequence.count(n) for n in counts} == counts


@pytest.mark.parametrize(
    "sequence, oracle",
    [
        (primes, [n for n in range(1, 3001) if is_prime(n)]),
        (squares, [n for n in range(1, 3001) if isqrt(n) ** 2 == n]),
        (mian_chowla, greedy_sidon(3000)),
        (powers(3), [3**k for k in range(8)]),
    ],
    ids=["primes", "squares", "mian_chowla", "powers"],
)
def test_every_limit(sequence, oracle):
    """From nothing to each limit at once, step by step, and from 3000 cut back."""
    oracle, stepwise = np.array(oracle), fresh(sequence)
    sequence(3000)
    for limit in [*range(1, 130), 361, 362, 2999, 3000]:
        expected = oracle[oracle <= limit]
        np.testing.assert_array_equal(fresh(sequence)(limit), expected)
        np.testing.assert_array_equal(stepwise(limit), expected)
        np.testing.assert_array_equal(sequence(limit), expected)


@pytest.mark.parametrize("sequence", [*BUILT_IN, 3 * primes, primes | squares], ids=repr)
@settings(deadline=None, max_examples=30, derandomize=True)
@given(limits=some.lists(some.integers(1, 20_000), min_size=1, max_size=8))
def test_extension_equals_generation_from_scratch(sequence, limits):
    grown = fresh(sequence)
    for limit in limits:
        np.testing.assert_array_equal(grown(limit), fresh(sequence)(limit))


def test_primes_to_ten_million_in_a_second():
    sequence, begin = fresh(primes), time.perf_counter()
    assert sequence.count(10**7) == 664_579
    assert time.perf_counter() - begin < 1


def test_mian_chowla_to_a_million_in_seconds():
    sequence, begin = fresh(mian_chowla), time.perf_counter()
    terms = sequence(10**6)
    assert time.perf_counter() - begin < 3
    sums = [a + b for a, b in combinations_with_replacement(terms.tolist(), 2)]
    assert len(terms) == 381 and len(sums) == len(set(sums))  # the Sidon property


@pytest.mark.parametrize("sequence", BUILT_IN, ids=repr)
def test_estimate_is_near_the_count(sequence):
    for n in (1000, 10**5, 10**6):
        assert sequence.estimate(n) == pytest.approx(sequence.count(n), rel=0.2)
    assert isinstance(sequence.estimate(0), float) and isinstance(sequence.asymptotic, str) and sequence.why


# --- the call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [*BUILT_IN, 2 * primes, primes | squares, from_array([3, 5])], ids=repr)
def test_result_is_a_read_only_view_of_the_cache(sequence):
    terms = sequence(50)
    assert terms.dtype == np.int64 and np.shares_memory(terms, sequence(30))
    with pytest.raises(ValueError, match="read-only"):
        terms[0] = 7
    for limit in (0, -1, np.int64(-5)):
        assert sequence(limit).dtype == np.int64 and sequence(limit).size == 0
    np.testing.assert_array_equal(sequence(np.uint8(50)), terms)


@pytest.mark.parametrize("limit", [10.0, True, np.True_, "10", None, np.float32(3), [10]], ids=repr)
def test_limit_must_be_an_integer(limit):
    with pytest.raises(TypeError, match="limit: expected an integer"):
        primes(limit)


def test_growth_extends_at_least_twofold_and_never_repeats(registering):
    asked = []

    @registering("odd", title="Odd", oeis="A005408", count=lambda x: x / 2, asymptotic="x / 2", why="a probe")
    def odd(known, start, stop):
        np.testing.assert_array_equal(known, np.arange(1, start + 1, 2))
        asked.append((start, stop))
        return np.arange(start + 1 + start % 2, stop + 1, 2)

    for limit in (10, 5, 10, 11, 20, 21, 100, 3):
        np.testing.assert_array_equal(odd(limit), np.arange(1, limit + 1, 2))
    assert asked == [(0, 10), (10, 20), (20, 40), (40, 100)]


def test_threads_extend_one_cache(registering):
    asked = []

    @registering("slow", title="Slow", oeis=None, count=float, asymptotic="x", why="a probe")
    def slow(known, start, stop):
        asked.append((start, stop))
        time.sleep(0.002)
        return np.arange(start + 1, stop + 1)

    for sequence, oracle in ((slow, np.arange(1, 4001)), (fresh(primes), primes(4000).copy())):
        barrier, wrong = threading.Barrier(8), []

        def work(offset, sequence=sequence, oracle=oracle, barrier=barrier, wrong=wrong):
            barrier.wait()
            for limit in range(1 + offset, 4001, 97):
                if not np.array_equal(sequence(limit), oracle[oracle <= limit]):
                    wrong.append(limit)

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
    assert [start for start, _ in asked] == [0] + [stop for _, stop in asked[:-1]]


# --- registry ---------------------------------------------------------------------------------------------


def test_lookup():
    assert sequences.get("primes") is primes and sequences.get("powers", 3) is powers(3)
    assert {"primes", "squares", "mian_chowla"} <= set(
        sequences.names()
    ) and "powers" not in sequences.names()
    assert "powers(base)" in sequences.families()
    assert all(isinstance(sequences.get(name), Sequence) for name in sequences.names())
    with pytest.raises(
        ValueError, match=r"expected one of .*mian_chowla.*primes.*powers\(base\).*, got 'prims'"
    ):
        sequences.get("prims")
    with pytest.raises(ValueError, match=r"expected the parameters of powers\(base\)"):
        sequences.get("powers")
    with pytest.raises(ValueError, match=r"primes takes no parameters, got \(3,\)"):
        sequences.get("primes", 3)
    with pytest.raises(TypeError, match="expected a name, got 3"):
        sequences.get(3)


def test_what_the_registry_tells():
    assert [(s.title, s.oeis) for s in (primes, squares, mian_chowla, powers(3), powers(7))] == [
        ("Primes", "A000040"),
        ("Squares", "A000290"),
        ("Mian-Chowla", "A005282"),
        ("Powers of 3", "A000244"),
        ("Powers of 7", None),
    ]
    assert (
        powers(3).asymptotic == "ln x / ln 3"
        and "sieve" in primes.__doc__
        and "b-th powers" in powers.__doc__
    )
    assert (2 * primes).title is None and (2 * primes).estimate(10) is None


def test_a_family_member_is_made_once():
    assert powers(3) is powers(base=np.int64(3)) and powers(3) != powers(2)


def test_powers_errors():
    with pytest.raises(ValueError, match="base: expected an integer >= 2, got 1"):
        powers(1)
    with pytest.raises(TypeError, match=r"base: expected an integer, got 2\.0"):
        powers(2.0)


def test_a_registered_family_of_sequences(registering):
    """Combinators join the registry too: a parameter may be a Sequence."""

    def check(base, by):
        return base, sequences.as_int("by", by, minimum=0)

    facts = dict(title="{} + {}", oeis=None, count=lambda x, base, by: x, asymptotic="?", why="a probe")

    @registering("shift", params=check, **facts)
    def shift(known, start, stop, base, by):
        terms = base(stop - by) + by
        return terms[terms > start]

    shifted = shift(primes, by=1)
    assert shifted(10).tolist() == [3, 4, 6, 8] and shifted.title == "primes + 1"
    assert repr(shifted) == "shift(primes, 1)" and shifted is sequences.shift(primes, 1)
    assert sequences.from_json(json.loads(json.dumps(shifted.to_json()))) == shifted
    assert pickle.loads(pickle.dumps(2 * shifted)) == 2 * shifted
    table = shift(from_array([1, 4], known_to=6), 2)
    assert table(4).tolist() == [3] and table(8).tolist() == [3, 6]
    assert "shift(base, by)" in sequences.families() and "shift" in sequences.__all__


def test_register_checks(registering):
    facts = dict(title="t", oeis=None, count=float, asymptotic="x", why="w")
    for name in ("primes", "get", "two words", "", 3):
        with pytest.raises(ValueError, match="name: expected an identifier that is not taken"):
            registering(name, **facts)
    bad = registering("bad", **facts)(lambda known, start, stop: np.arange(start, stop) + 2)
    with pytest.raises(ValueError, match=r"bad: expected terms in \(0, 10\], got 2 to 11"):
        bad(10)


@pytest.mark.parametrize(
    "obj, error, match",
    [
        ("primes", TypeError, "obj: expected a dict"),
        ({}, ValueError, "obj: expected a dict made by"),
        ({"union": []}, ValueError, "obj: expected a dict made by"),
        ({"name": "primes", "limit": 3}, ValueError, r"got the keys \['name', 'limit'\]"),
        ({"name": "prims"}, ValueError, "expected one of"),
        ({"scale": 0, "of": {"name": "primes"}}, ValueError, "factor"),
        ({"offsets": [0]}, ValueError, "offsets >= 1, got 0"),
    ],
)
def test_json_errors(obj, error, match):
    with pytest.raises(error, match=match):
        sequences.from_json(obj)
