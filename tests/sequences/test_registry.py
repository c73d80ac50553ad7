import json
import pickle
import threading
import time

import numpy as np
import pytest

from primeattn import sequences
from primeattn.checks import as_int
from primeattn.sequences import Sequence, from_array, mian_chowla, powers, primes, register, squares

BUILT_IN = [primes, squares, mian_chowla, powers(2), powers(3)]


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


def test_growth_extends_at_least_twofold_and_never_repeats():
    asked = []

    @register("odd", title="Odd", oeis="A005408", count=lambda x: x / 2, asymptotic="x / 2", why="a probe")
    def odd(known, start, stop):
        np.testing.assert_array_equal(known, np.arange(1, start + 1, 2))
        asked.append((start, stop))
        return np.arange(start + 1 + start % 2, stop + 1, 2)

    for limit in (10, 5, 10, 11, 20, 21, 100, 3):
        np.testing.assert_array_equal(odd(limit), np.arange(1, limit + 1, 2))
    assert asked == [
        (0, 10),
        (8, 9),
        (10, 20),
        (20, 40),
        (40, 100),
    ]  # the second checks that stop is included


def test_threads_extend_one_cache(fresh):
    asked = []

    @register("slow", title="Slow", oeis=None, count=float, asymptotic="x", why="a probe")
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
    assert asked.pop(1) == (asked[0][1] - 1, asked[0][1])  # checks that stop is included
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


def test_a_registered_family_of_sequences():
    """Combinators join the registry too: a parameter may be a Sequence."""

    def check(base, by):
        return base, as_int("by", by, minimum=0)

    facts = dict(title="{} + {}", oeis=None, count=lambda x, base, by: x, asymptotic="?", why="a probe")

    @register("moved", params=check, **facts)
    def moved(known, start, stop, base, by):
        terms = base(stop - by) + by
        return terms[terms > start]

    shifted = moved(primes, by=1)
    assert shifted(10).tolist() == [3, 4, 6, 8] and shifted.title == "primes + 1"
    assert repr(shifted) == "moved(primes, 1)" and shifted is sequences.moved(primes, 1)
    assert sequences.from_json(json.loads(json.dumps(shifted.to_json()))) == shifted
    assert pickle.loads(pickle.dumps(2 * shifted)) == 2 * shifted
    table = moved(from_array([1, 4], known_to=6), 2)
    assert table(4).tolist() == [3] and table(8).tolist() == [3, 6]
    assert "moved(base, by)" in sequences.families() and "moved" in sequences.__all__


def test_register_checks():
    facts = dict(title="t", oeis=None, count=float, asymptotic="x", why="w")
    for name in ("primes", "get"):
        with pytest.raises(ValueError, match=f"name: expected one that is not taken, got '{name}'"):
            register(name, **facts)
    for name in ("two words", "", 3, "none"):
        with pytest.raises(ValueError, match="name: expected an identifier such as 'my_numbers'"):
            register(name, **facts)
    with pytest.raises(TypeError, match="count: expected a function of x, got 'x / 2'"):
        register("half", **{**facts, "count": "x / 2"})
    with pytest.raises(TypeError, match=r"half: expected a function of known, start and stop, got \(limit\)"):
        register("half", **facts)(lambda limit: [])
    with pytest.raises(TypeError, match="matched_random: missing a required argument: 'seed'"):
        sequences.matched_random(primes)
    bad = register("bad", **facts)(lambda known, start, stop: np.arange(start, stop) + 2)
    with pytest.raises(ValueError, match=r"bad: expected terms in \(0, 10\], got 2 to 11"):
        bad(10)


def test_a_range_that_ends_too_early_is_noticed_at_first_use():
    """Whatever is asked first, and also if nothing was found before."""
    facts = dict(title="t", oeis=None, count=lambda x: x / 2, asymptotic="x / 2", why="w")
    for first in range(2, 40):
        early = register(f"early_{first}", **facts)(
            lambda known, start, stop: np.array([k for k in range(start + 1, stop) if k % 7 == 3], int)
        )
        with pytest.raises(ValueError, match=rf"early_{first}: .* stop is included"):
            for limit in (first, 2 * first + 20):
                early(limit)


def test_names_that_are_meant():
    for name, meant in (("prims", "primes"), ("sqares", "squares"), ("none", "None"), ("power", "powers")):
        with pytest.raises(ValueError, match=rf"got '{name}'; did you mean {meant}\?$"):
            sequences.get(name)
    with pytest.raises(ValueError, match=r"got 'xyzzy'$"):
        sequences.get("xyzzy")


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
