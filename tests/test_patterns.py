import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from primeattn import sequences
from primeattn.patterns import Pattern
from primeattn.sequences import from_array, mian_chowla, powers, primes, squares

SEQUENCES = [None, primes, squares, mian_chowla, powers(2), 2 * primes, squares | powers(3)]


def evens(limit):
    return range(2, limit + 1, 2)


def brute_force(pattern, n):
    """The definition, pair by pair."""
    s = set() if pattern.sequence is None else set(pattern.sequence(n).tolist())
    mask = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(i + 1):
            mask[i, j] = j < pattern.global_tokens or i - j <= pattern.window or i - j in s
    return mask


@pytest.mark.parametrize(
    "pattern, rows",
    [
        (Pattern(None), "1....... .1...... ..1..... ...1.... ....1... .....1.. ......1. .......1"),
        (Pattern(None, window=2), "1....... 11...... 111..... .111.... ..111... ...111.. ....111. .....111"),
        (
            Pattern(None, global_tokens=3),
            "1....... 11...... 111..... 1111.... 111.1... 111..1.. 111...1. 111....1",
        ),
        (Pattern("primes"), "1....... .1...... 1.1..... 11.1.... .11.1... 1.11.1.. .1.11.1. 1.1.11.1"),
        (Pattern("squares", 0, 1), "1....... 11...... 111..... 1.11.... 1..11... 11..11.. 1.1..11. 1..1..11"),
        (Pattern("primes", 3, 2), "1....... 11...... 111..... 1111.... 11111... 111111.. 11.1111. 111.1111"),
        (Pattern([6], 1, 2), "1....... 11...... 111..... 1111.... 11.11... 11..11.. 11...11. 11....11"),
    ],
    ids=repr,
)
def test_literal_masks(pattern, rows):
    expected = np.array([[cell == "1" for cell in row] for row in rows.split()])
    np.testing.assert_array_equal(pattern.to_dense(8), expected)
    assert pattern.num_pairs(8) == expected.sum()


def check_against_definition(pattern, n):
    mask = brute_force(pattern, n)
    dense = pattern.to_dense(n)
    assert dense.dtype == bool
    np.testing.assert_array_equal(dense, mask)
    csr = pattern.to_csr(n)
    assert csr.dtype == bool and csr.nnz == mask.sum() and csr.has_canonical_format
    np.testing.assert_array_equal(csr.toarray(), mask)
    assert pattern.num_pairs(n) == mask.sum() and type(pattern.num_pairs(n)) is int
    for i in range(n):
        keys = pattern.keys(i)
        assert keys.dtype == np.int64
        np.testing.assert_array_equal(keys, np.flatnonzero(mask[i]))
        np.testing.assert_array_equal(keys, csr.indices[csr.indptr[i] : csr.indptr[i + 1]])
    s = set() if pattern.sequence is None else set(pattern.sequence(n).tolist())
    expected = sorted(d for d in {*range(pattern.window + 1), *s} if d < n)
    assert pattern.offsets(n).tolist() == expected
    if n:
        assert pattern.density(n) == pytest.approx(mask.sum() / np.tri(n).sum())


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    sequence=some.one_of(some.sampled_from(SEQUENCES), some.lists(some.integers(1, 50)).map(from_array)),
    window=some.one_of(some.integers(0, 6), some.integers(0, 60)),
    global_tokens=some.one_of(some.integers(0, 6), some.integers(0, 60)),
    n=some.integers(0, 48),
)
def test_every_form_equals_the_definition(sequence, window, global_tokens, n):
    check_against_definition(Pattern(sequence, window, global_tokens), n)


@pytest.mark.parametrize("sequence", [*SEQUENCES, [3, 90], evens], ids=repr)
@pytest.mark.parametrize("window, global_tokens", [(0, 0), (3, 2), (8, 64), (2000, 0), (0, 10**30)])
def test_longer_sequences_equal_the_definition(sequence, window, global_tokens):
    check_against_definition(Pattern(sequence, window, global_tokens), 130)


def test_a_key_in_window_and_globals_counts_once():
    """PrimeAttention.jl visits G·W pairs twice, in the rows 1 .. G+W-1."""
    pattern = Pattern("primes", window=3, global_tokens=2)
    assert [pattern.keys(i).tolist() for i in range(6)] == [list(range(i + 1)) for i in range(6)]
    pattern, n = Pattern(None, window=8, global_tokens=64), 100
    counts = np.diff(pattern.to_csr(n).indptr)
    np.testing.assert_array_equal(counts, [i + 1 if i < 73 else 64 + 9 for i in range(n)])
    assert pattern.num_pairs(n) == counts.sum()


# --- offsets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [*SEQUENCES, evens], ids=repr)
def test_offsets_grow_with_every_length(sequence):
    pattern = Pattern(sequence, window=2)
    for n in [*range(200), 7, 1000, 3]:
        np.testing.assert_array_equal(pattern.offsets(n), Pattern(sequence, window=2).offsets(n))
    expected = {0, 1, 2} | (set() if pattern.sequence is None else set(pattern.sequence(999).tolist()))
    assert pattern.offsets(1000).tolist() == sorted(expected)


def test_offsets_are_cached():
    pattern = Pattern("primes", window=3)
    first = pattern.offsets(5000)
    assert first is pattern.offsets(5000) and first.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
    views = [pattern.offsets(n) for n in range(5001, 9000)]
    assert len({id(view.base) for view in views}) <= 2  # slices of one array, grown once
    assert len(pattern._views) <= 64
    assert pattern.offsets(np.int32(9)).tolist() == [0, 1, 2, 3, 5, 7]


def test_a_wide_window_costs_no_memory_before_it_is_needed():
    pattern = Pattern("primes", window=10**15)
    assert pattern.offsets(4).tolist() == [0, 1, 2, 3]
    assert pattern.num_pairs(1000) == 500_500


def test_num_pairs_of_huge_lengths():
    n = 10**7
    offsets = np.union1d(np.arange(4), primes(n - 1))
    columns = sum(n - g - int(np.searchsorted(offsets, n - g)) for g in range(5))  # not on an offset
    assert Pattern("primes", 3, 5).num_pairs(n) == sum(n - d for d in offsets.tolist()) + columns
    assert Pattern(None, 10**5).num_pairs(10**15) == (10**5 + 1) * 10**15 - 10**5 * (10**5 + 1) // 2
    assert Pattern(None, 0, 10**30).num_pairs(10**12) == 10**12 * (10**12 + 1) // 2
    assert Pattern("squares", 3, 2).num_pairs(10) == Pattern("squares", 3, 2).to_dense(10).sum()


def test_tables_end():
    pattern = Pattern(from_array([2, 5], known_to=9))
    for n in (8, 9, 10):
        assert pattern.offsets(n).tolist() == [0, 2, 5]
    with pytest.raises(
        ValueError, match="limit: expected at most 9, where this table of offsets ends, got 10"
    ):
        pattern.offsets(11)
    assert Pattern([2, 5]).offsets(10**12).tolist() == [0, 2, 5]


# --- construction -----------------------------------------------------------------------------------------


def test_what_a_sequence_may_be():
    assert Pattern("primes") == Pattern(primes) and Pattern("primes").sequence is primes
    assert Pattern([5, 2, 5]) == Pattern(np.array([2, 5])) == Pattern(from_array((2, 5)))
    assert Pattern(evens).offsets(7).tolist() == [0, 2, 4, 6] and Pattern(evens) == Pattern(evens)
    assert Pattern(powers(3)).sequence is powers(3) and Pattern(None).sequence is None
    pattern = Pattern("primes", window=np.int64(3), global_tokens=np.uint8(2))
    assert type(pattern.window) is int and type(pattern.global_tokens) is int


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        (("prims",), ValueError, r"sequence: expected one of .*primes.*squares.*, got 'prims'"),
        (("powers",), ValueError, r"expected the parameters of powers\(base\)"),
        (([1.0],), TypeError, "offsets: expected an integer, got 1.0"),
        ((np.array([1.0]),), TypeError, "offsets: expected integers, got dtype float64"),
        (([2, 0],), ValueError, "offsets: expected offsets >= 1, got 0"),
        ((np.array([2, -1]),), ValueError, "got -1"),
        ((5,), TypeError, "offsets: expected a 1-D array of integers, got 5"),
        ((Pattern("primes"),), TypeError, "sequence: expected a Sequence, got Pattern"),
        (("primes", -1), ValueError, "window: expected an integer >= 0, got -1"),
        (("primes", 3.0), TypeError, "window: expected an integer, got 3.0"),
        (("primes", True), TypeError, "window: expected an integer, got True"),
        (("primes", 0, -2), ValueError, "global_tokens: expected an integer >= 0, got -2"),
        (("primes", 0, np.float32(2)), TypeError, "global_tokens: expected an integer"),
        (("primes", 0, None), TypeError, "global_tokens: expected an integer, got None"),
    ],
    ids=repr,
)
def test_construction_errors(arguments, error, match):
    with pytest.raises(error, match=match):
        Pattern(*arguments)


@pytest.mark.parametrize("method", ["offsets", "num_pairs", "to_dense", "to_csr", "keys", "density"])
def test_length_errors(method):
    pattern = Pattern("primes", 3, 2)
    pattern.offsets(1)  # a cached 1 must not answer for True or 1.0
    for n in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=r"[ni]: expected an integer, got"):
            getattr(pattern, method)(n)
    with pytest.raises(ValueError, match=r"[ni]: expected an integer >= [01], got -1"):
        getattr(pattern, method)(-1)


def test_guards():
    with pytest.raises(
        ValueError, match="n: expected at most 32768 for a dense mask, got 32769; use to_csr or offsets"
    ):
        Pattern(None).to_dense(32769)
    with pytest.raises(
        ValueError, match=r"n: expected at most \d+ pairs, got \d+ for n = 100000000; use offsets"
    ):
        Pattern(None, window=9).to_csr(10**8)
    with pytest.raises(ValueError, match="n: expected an integer >= 1, got 0"):
        Pattern(None).density(0)


# --- value object -----------------------------------------------------------------------------------------

VALUES = [
    Pattern("primes"),
    Pattern("primes", window=3),
    Pattern("primes", window=3, global_tokens=2),
    Pattern(None, global_tokens=3),
    Pattern([4, 1], window=3),
    Pattern(2 * primes | powers(3), window=3),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_round_trips(value):
    namespace = {"Pattern": Pattern}
    exec("from primeattn.sequences import *", namespace)
    value.offsets(100)
    for other in (
        eval(repr(value), namespace),
        Pattern.from_json(json.loads(json.dumps(value.to_json()))),
        pickle.loads(pickle.dumps(value)),
        copy.deepcopy(value),
    ):
        assert other == value and hash(other) == hash(value)
        np.testing.assert_array_equal(other.to_dense(20), value.to_dense(20))


def test_value_semantics():
    assert len(set(VALUES)) == len(VALUES) and Pattern("primes") != primes
    assert [repr(v) for v in VALUES[2:]] == [
        "Pattern(primes, window=3, global_tokens=2)",
        "Pattern(None, global_tokens=3)",
        "Pattern(from_array([1, 4]), window=3)",
        "Pattern(2 * primes | powers(3), window=3)",
    ]
    for name in ("window", "sequence", "other"):
        with pytest.raises(AttributeError):
            setattr(VALUES[0], name, 1)
    with pytest.raises(TypeError, match=r"a \| b"):
        bool(VALUES[0])


def test_json_errors():
    with pytest.raises(TypeError, match="obj: expected a dict"):
        Pattern.from_json("primes")
    with pytest.raises(ValueError, match=r"got the keys \['sequence', 'window'\]"):
        Pattern.from_json({"sequence": None, "window": 3})
    with pytest.raises(ValueError, match="window: expected an integer >= 0"):
        Pattern.from_json({"sequence": None, "window": -3, "global_tokens": 0})
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        Pattern(evens).to_json()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    arguments=some.lists(
        some.tuples(some.sampled_from(SEQUENCES), some.integers(0, 9), some.integers(0, 9)),
        min_size=2,
        max_size=2,
    )
)
def test_union(arguments):
    a, b = (Pattern(*each) for each in arguments)
    union = a | b
    np.testing.assert_array_equal(union.to_dense(40), a.to_dense(40) | b.to_dense(40))
    assert union == b | a and a | a == a


def test_union_refuses_other_types():
    for other in (primes, [1], None):
        with pytest.raises(TypeError, match="unsupported operand"):
            Pattern("primes") | other
    assert Pattern("primes", 1) | Pattern(None, 3, 2) == Pattern("primes", 3, 2)


def test_every_registered_name_makes_a_pattern():
    for name in sequences.names():
        check_against_definition(Pattern(name, window=1, global_tokens=2), 60)


def test_wheel_permutation():
    pattern = Pattern("primes", window=5)
    order = pattern.wheel_permutation(11, 4)
    assert order.dtype == np.int64 and order.tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7]
    assert pattern.wheel_permutation(5, 1).tolist() == [0, 1, 2, 3, 4]
    assert pattern.wheel_permutation(0, 7).size == 0
    assert np.array_equal(pattern.wheel_permutation(16384), pattern.wheel_permutation(16384, 6))
    mask = pattern.to_dense(900)[np.ix_(*[pattern.wheel_permutation(900, 6)] * 2)]
    assert not np.tril(mask[150:300, 450:600], -60).any()  # classes 1 and 3, beyond the window
    with pytest.raises(ValueError, match="wheel: expected an integer >= 1, got 0"):
        pattern.wheel_permutation(9, 0)


def test_long_tables_are_shown_by_their_ends_and_written_in_full():
    long, short = Pattern(range(1, 200_001), window=1), Pattern(range(1, 1001))
    assert repr(long) == "Pattern(from_array([1, 2, 3, ..., 199998, 199999, 200000]), window=1)"
    assert Pattern.from_json(json.loads(json.dumps(long.to_json()))) == long
    assert len(long.to_json()["sequence"]["offsets"]) == 200_000
    assert sequences.parse(repr(short.sequence)) == short.sequence
    with pytest.raises(ValueError, match="sequence: expected"):
        sequences.parse(repr(long.sequence))


@pytest.mark.parametrize("window", [0, 3, 2**21 + 7, 2**23])
@pytest.mark.parametrize("name", ["primes", "2 * primes | squares", "thin(primes, 0.5, 0)", None])
def test_offsets_between_are_the_offsets_cut(name, window):
    every = Pattern(name, window).offsets(2**22)
    for low, high in ((0, 9), (50, 50), (9, 2), (2**21, 2**21 + 999), (2**22 - 500, 2**22), (0, 2**21)):
        found = Pattern(name, window).offsets_between(low, high)
        np.testing.assert_array_equal(found, every[(every >= low) & (every < high)])
        assert found.dtype == np.int64 and not found.flags.writeable
