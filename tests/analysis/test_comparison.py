import json

import numpy as np
import pytest

from primeattn.analysis import (
    Table,
    compare,
    extreme_eigenvalues,
    reach_by_layer,
    receptive_field,
    redundancy,
    tile_occupancy,
)
from primeattn.patterns import Pattern
from primeattn.sequences import matched_random, primes

PATTERNS = [
    Pattern("primes", window=3),
    Pattern("squares", window=3),
    Pattern("mian_chowla", window=3),
    Pattern(matched_random(primes, 0), window=3),
    Pattern("primes"),
    Pattern(None),
]


def test_one_row_for_each_pattern():
    n = 1025
    table = compare(PATTERNS, n)
    assert isinstance(table, Table) and [row["pattern"] for row in table] == list(map(repr, PATTERNS))
    for row, pattern in zip(table, PATTERNS, strict=True):
        assert row["pairs"] == pattern.num_pairs(n) and row["density"] == pattern.density(n)
        assert row["redundancy"] == redundancy(pattern, n) and row["tiles"] == tile_occupancy(pattern, n)
        assert (row["gap"], row["largest"]) == extreme_eigenvalues(pattern, n)
    assert table.column("unreached").tolist() == [0, 0, 0, 0, 1, 1024]
    assert table.column("offsets").tolist() == [173, 34, 29, 174, 172, 0]
    assert json.loads(json.dumps(table)) == list(table)


def test_measured_values():
    table = compare(PATTERNS[:3], 4097)
    assert table.column("hops_max").tolist() == [3, 4, 4]
    assert table.column("hops_mean") == pytest.approx([2.113, 2.710, 2.756], abs=5e-4)
    assert table.column("within_1") == pytest.approx([0.1379, 0.0161, 0.0115], abs=5e-5)
    assert table.column("within_2") == pytest.approx([0.7490, 0.3196, 0.2412], abs=5e-5)
    assert table.column("within_3") == pytest.approx([1, 0.9543, 0.9917], abs=5e-5)


def test_reach_by_layer():
    n, stack = 1025, PATTERNS[1]
    table = reach_by_layer(PATTERNS, n, layers=5)
    wide = compare(PATTERNS, n)
    for name in (
        "pattern",
        "pairs",
        "hops_max",
        "hops_mean",
        "unreached",
        "within_1",
        "within_2",
        "within_3",
    ):
        assert [row[name] for row in table] == [row[name] for row in wide]
    for layers in range(1, 6):
        assert table[1][f"within_{layers}"] == receptive_field(stack, layers, n)[1:].mean()
    assert list(table[0])[-1] == "within_5" and json.loads(json.dumps(table)) == list(table)
    with pytest.raises(ValueError, match="layers: expected an integer >= 1, got 0"):
        reach_by_layer(PATTERNS, n, 0)
    with pytest.raises(TypeError, match="pattern: expected a Pattern, got 'primes'"):
        reach_by_layer(["primes"], n)


def test_a_dict_names_the_rows():
    named = {f"row {i}": pattern for i, pattern in enumerate(PATTERNS)}
    for table in (compare, reach_by_layer):
        rows, plain = table(named, 100), table(PATTERNS, 100)
        assert [row["pattern"] for row in rows] == list(named)
        assert [row["pattern"] for row in plain] == list(map(repr, PATTERNS))
        for a, b in zip(rows, plain, strict=True):
            assert {**a, "pattern": b["pattern"]} == b
    assert compare(PATTERNS[0], 100) == compare(PATTERNS[:1], 100)


def test_nothing_reached():
    row = compare([Pattern(None)], 10)[0]
    assert row["hops_max"] is None and row["hops_mean"] is None and row["unreached"] == 9
    assert row["within_3"] == 0 and row["redundancy"] == 0 and row["gap"] == 0


def test_bad_input():
    with pytest.raises(TypeError, match="pattern: expected a Pattern, got 'primes'"):
        compare(["primes"], 10)
    with pytest.raises(
        TypeError, match="patterns: expected a Pattern, several, or a dict of them, got 'primes'"
    ):
        compare("primes", 10)
    with pytest.raises(ValueError, match="n: expected an integer >= 2, got 1"):
        compare(PATTERNS, 1)


# --- the table -------------------------------------------------------------------------------------------


def test_text():
    table = Table(
        [
            {"name": "a", "count": 12, "share": 0.5, "none": None},
            {"name": "long name", "count": 3, "share": 1.5e-7, "none": None},
            {"name": "b", "count": 0, "share": 0.0, "none": 123456.0},
        ]
    )
    assert str(Table([{"a": [1, 0.5, None], "b": 1}, {"a": [], "b": 10}])).splitlines() == [
        "a              b",
        "1, 0.5000, -   1",
        "              10",
    ]
    assert str(table).splitlines() == [
        "name       count    share      none",
        "a             12   0.5000         -",
        "long name      3  1.5e-07         -",
        "b              0   0.0000  1.23e+05",
    ]
    assert repr(table) == str(table) and str(Table()) == "(no rows)"
    assert np.isnan(table.column("none")).tolist() == [True, True, False]
    assert table.column("name").tolist() == ["a", "long name", "b"]
