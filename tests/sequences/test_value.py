import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn import sequences
from primeattn.sequences import from_array, from_callable, mian_chowla, powers, primes, squares

REGISTERED = [primes, squares, mian_chowla, powers(2), powers(3)]
VALUES = [
    *REGISTERED,
    2 * primes,
    6 * (squares | primes),
    primes | squares | powers(5),
    from_array([1, 4]),
    from_array([], known_to=9),
    3 * from_array([2, 5], known_to=8) | mian_chowla,
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_round_trips(value):
    namespace = {}
    exec("from primeattn.sequences import *", namespace)
    limit = 20
    for other in (
        eval(repr(value), namespace),
        sequences.from_json(json.loads(json.dumps(value.to_json()))),
        pickle.loads(pickle.dumps(value)),
        copy.copy(value),
        copy.deepcopy(value),
    ):
        assert other == value and hash(other) == hash(value) and repr(other) == repr(value)
        if "known_to" not in repr(value):
            np.testing.assert_array_equal(other(limit), value(limit))


def test_values_differ_from_each_other():
    assert len(set(VALUES)) == len(VALUES)
    assert primes != "primes" and primes != from_array(primes(100))
    assert from_array([1, 4]) != from_array([1, 4], known_to=4)


def test_literal_reprs_and_json():
    assert [repr(v) for v in VALUES[3:]] == [
        "powers(2)",
        "powers(3)",
        "2 * primes",
        "6 * (primes | squares)",
        "powers(5) | primes | squares",
        "from_array([1, 4])",
        "from_array([], known_to=9)",
        "3 * from_array([2, 5], known_to=8) | mian_chowla",
    ]
    assert (2 * primes | powers(3)).to_json() == {
        "union": [{"scale": 2, "of": {"name": "primes"}}, {"name": "powers", "params": [3]}]
    }
    assert from_array([1, 4], known_to=5).to_json() == {"offsets": [1, 4], "known_to": 5}


def test_immutable():
    for name in ("title", "oeis", "anything"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(primes, name, 1)
    with pytest.raises(TypeError, match=r"a \| b"):
        bool(primes)


# --- algebra ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    factor=some.integers(1, 12),
    offsets=some.sets(some.integers(1, 80), max_size=12),
    limit=some.integers(0, 300),
    parts=some.lists(some.sampled_from(REGISTERED), min_size=1, max_size=3),
)
def test_algebra_against_sets(factor, offsets, limit, parts):
    union, oracle = from_array(offsets), set(offsets)
    for part in parts:
        union, oracle = union | part, oracle | set(part(limit).tolist())
    assert union(limit).tolist() == sorted(s for s in oracle if s <= limit)
    expected = sorted(factor * s for s in oracle if factor * s <= limit)
    assert (factor * union)(limit).tolist() == expected
    assert (union * factor)(limit).tolist() == expected


def test_union_is_flat_and_order_free():
    a, b, c = primes, squares, powers(3)
    assert (a | b) | c == c | (b | a) and hash((a | b) | c) == hash(c | (b | a))
    assert repr(b | a | c) == repr(a | (c | b)) == "powers(3) | primes | squares"
    assert a | a is a and (a | b) | a == a | b
    f, g = (lambda limit: range(1, limit + 1)), (lambda limit: range(1, limit + 1))
    f.__qualname__ = g.__qualname__ = "f"
    assert from_callable(f) != from_callable(g)
    assert from_callable(f) | from_callable(g) == from_callable(g) | from_callable(f)


def test_scaling():
    assert 2 * primes == primes * 2 == np.int64(2) * primes and 2 * (3 * primes) == 6 * primes
    assert 1 * primes is primes and 2 * primes != 3 * primes
    assert (2**80 * primes)(10**6).size == 0
    for factor in (0, -2):
        with pytest.raises(ValueError, match=f"factor: expected an integer >= 1, got {factor}"):
            factor * primes
    for factor in (2.0, True, "2", primes):
        with pytest.raises(TypeError, match="factor: expected an integer"):
            primes * factor
    with pytest.raises(TypeError, match="factor: expected an integer"):
        np.array([2, 3]) * primes
    with pytest.raises(TypeError, match="unsupported operand"):
        primes | [1, 2]


# --- user sequences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "offsets", [[10, 2, 2], (2, 10), {10, 2}, np.array([10, 2], np.uint8), np.array([2, 10, 10])], ids=repr
)
def test_arrays_are_sorted_and_made_unique(offsets):
    assert from_array(offsets)(10**9).tolist() == [2, 10]
    assert from_array(offsets) == from_array(range(2, 12, 8))


def test_arrays_are_copied():
    offsets = np.array([1, 4])
    sequence = from_array(offsets)
    offsets[0] = 3
    assert sequence(5).tolist() == [1, 4]


@pytest.mark.parametrize(
    "offsets, error, match",
    [
        ([1.0, 2], TypeError, "offsets: expected an integer, got 1.0"),
        (np.array([1.0, 2]), TypeError, "offsets: expected integers, got dtype float64"),
        ([1, True], TypeError, "offsets: expected an integer, got True"),
        (np.array([True]), TypeError, "got dtype bool"),
        ("primes", TypeError, "offsets: expected an integer, got 'p'"),
        (5, TypeError, "offsets: expected a 1-D array of integers, got 5"),
        ([3, 0], ValueError, "offsets: expected offsets >= 1, got 0"),
        ([3, -7, 2], ValueError, "got -7"),
        (np.array([3, -7]), ValueError, "got -7"),
        (np.array([[1, 2]]), ValueError, r"got shape \(1, 2\)"),
        (np.array(3), ValueError, r"got shape \(\)"),
        ([2**63], ValueError, "got 9223372036854775808"),
        (np.array([2**63 + 1], np.uint64), ValueError, "got 9223372036854775809"),
    ],
    ids=repr,
)
def test_array_errors(offsets, error, match):
    with pytest.raises(error, match=match):
        from_array(offsets)


def test_a_table_raises_beyond_its_end():
    table = from_array([2, 3, 5, 7], known_to=10)
    assert table(10).tolist() == [2, 3, 5, 7]
    for sequence, end in ((table, 10), (3 * table, 32), (primes | table, 10)):
        sequence(7)  # growing ahead of need stops at the end
        sequence(end - 1)
        sequence(end)
        with pytest.raises(
            ValueError, match="limit: expected at most 10, where this table of offsets ends, got 11"
        ):
            sequence(end + 1)
    assert from_array([2, 3])(2**70).tolist() == [2, 3]
    with pytest.raises(ValueError, match="offsets: expected at most known_to=4, got 5"):
        from_array([5], known_to=4)
    for known_to in (True, 2.0):
        with pytest.raises(TypeError, match="known_to: expected an integer"):
            from_array([1], known_to=known_to)


def test_callables():
    def evens(limit):
        return np.arange(limit - limit % 2, 0, -2)  # in descending order

    sequence = from_callable(evens)
    assert sequence(9).tolist() == [2, 4, 6, 8] and sequence(13).tolist() == [2, 4, 6, 8, 10, 12]
    assert sequence == from_callable(evens) != from_callable(lambda limit: evens(limit))
    assert hash(sequence) == hash(from_callable(evens))
    assert repr(sequence) == "from_callable(test_callables.<locals>.evens)"
    assert from_callable(lambda limit: [])(5).size == 0
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        sequence.to_json()
    for f in (primes, [1, 2], None):
        with pytest.raises(TypeError, match="f: expected a function of a limit"):
            from_callable(f)


@pytest.mark.parametrize(
    "f, error, match",
    [
        (lambda limit: [limit], ValueError, r"expected f\(5\) to be f\(10\) cut at 5"),
        (lambda limit: range(1, limit, 2), ValueError, "cut at 5"),
        (lambda limit: range(3, limit, 3), ValueError, r"f\(9\) to be the terms up to and including 9"),
        (lambda limit: range(9, limit, 9), ValueError, r"f\(9\) to be the terms up to and including 9"),
        (lambda limit: [2, limit + 1], ValueError, r"expected f\(10\) <= 10, got 11"),
        (lambda limit: [0, 1], ValueError, "expected offsets >= 1, got 0"),
        (lambda limit: [1.5], TypeError, "expected an integer, got 1.5"),
        (lambda limit: None, TypeError, "expected a 1-D array of integers, got None"),
        (lambda limit: {}[limit], ValueError, r"f\(10\) raised KeyError: 10"),
    ],
)
def test_callable_errors(f, error, match):
    with pytest.raises(error, match=match):
        from_callable(f)(10)


def test_callable_is_checked_at_every_growth():
    sequence = from_callable(lambda limit: range(1, limit + 1) if limit < 50 else range(2, limit + 1))
    assert sequence(20).size == 20
    with pytest.raises(ValueError, match=r"expected f\(20\) to be f\(60\) cut at 20"):
        sequence(60)
    assert sequence(20).size == 20


def test_callable_that_ends():
    def f(limit):
        if limit > 100:
            raise IndexError("too far")
        return range(1, limit + 1)

    sequence = from_callable(f)
    assert [sequence(limit).size for limit in (60, 61, 100)] == [60, 61, 100]  # 120 is out of its reach
    with pytest.raises(ValueError, match=r"f\(101\) raised IndexError: too far"):
        sequence(101)
