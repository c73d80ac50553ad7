import json

import pytest

from primeattn import sequences
from primeattn.analysis import catalogue


def test_every_name_is_there_with_its_facts():
    table = catalogue()
    assert [row["name"] for row in table] == list(sequences.names())
    for row in table:
        sequence = sequences.get(row["name"])
        assert (row["oeis"], row["why"]) == (sequence.oeis, sequence.why) and row["oeis"]
        assert len(row["first"]) == 8 and row["first"] == sequence(row["first"][-1]).tolist()
    assert json.loads(json.dumps(table)) == list(table)
    assert "  2, 3, 5, 7, 11, 13, 17, 19  " in str(table)


def test_a_finite_sequence_shows_what_it_has(monkeypatch):
    ruler = sequences.golomb_ruler(4)
    monkeypatch.setattr(sequences, "names", lambda: ("ruler",))
    monkeypatch.setattr(sequences, "get", lambda name: ruler)
    assert catalogue(100)[0]["first"] == ruler(1000).tolist()
    with pytest.raises(ValueError, match="terms: expected an integer >= 1, got 0"):
        catalogue(0)
