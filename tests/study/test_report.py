import json

import pytest

from primeattn.plot import files
from primeattn.study import protocol, protocol_runs, report

FILES = {"report.json", "report.md", "figure.png", "curves.png"}


def canned(made, test, error=lambda run: None):
    """Made-up records of a protocol, without training."""
    records = []
    for one in protocol_runs(made):
        by = "distance" if made["figure"] != "scores" else "position"
        result = {"validation": 0.5, "test": test(one), "losses": [2.0, 1.0], "by": by, "at": [1, 2]}
        result |= {"asked": [8, 8], "score": [1.0, 0.25], "error": error(one)}
        records.append({"run": one, "result": result})
    return records


@pytest.mark.parametrize(
    "name", ["needle", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mqar", "text", "pixels"))]
)
def test_files_and_numbers(name, tmp_path):
    made = protocol(name, quick=True)
    records = canned(made, lambda one: 0.5 + 0.1 * (one["pattern"] == "primes") + 0.01 * one["seed"])
    found = report(made, records, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert json.loads((tmp_path / "report.json").read_text()) == found
    page = (tmp_path / "report.md").read_text()
    for part in (made["question"], made["expected"], "| primes |", "![figure](figure.png)", "## Claims"):
        assert part in page
    assert ("## Where theory expects answers" in page) == (made["figure"] != "scores")


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(files, "try_save", lambda draw, path: False)


@pytest.mark.usefixtures("no_pictures")
def test_what_does_not_hold_comes_first(tmp_path):
    made = protocol("mqar", quick=True)
    made["claims"] = [["dense", "squares"], ["primes", "random as primes"], ["squares", "dense"]]
    place = {"dense": 0.9, "squares": 0.1}
    found = report(made, canned(made, lambda one: place.get(one["pattern"], 0.5)), tmp_path)
    assert [row["verdict"] for row in found["differences"]] == ["supported", "undecided", "not supported"]
    page = (tmp_path / "report.md").read_text()
    places = [page.index(f"| {verdict} |") for verdict in ("not supported", "undecided", "supported")]
    assert places == sorted(places)
    assert "![" not in page  # what was not drawn is not shown


@pytest.mark.usefixtures("no_pictures")
def test_records_may_come_one_by_one(tmp_path):
    made = protocol("needle", quick=True)
    records = canned(made, lambda one: 0.5)
    assert report(made, iter(records), tmp_path / "new" / "out") == report(made, records, tmp_path)
    with pytest.raises(ValueError, match="out: expected a folder, got the file"):
        report(made, records, tmp_path / "report.md")


@pytest.mark.usefixtures("no_pictures")
def test_failed_runs_are_told(tmp_path):
    made = protocol("needle", quick=True)

    def error(one):
        return "loss nan" if one["pattern"] == "squares" and one["seed"] else None

    found = report(made, canned(made, lambda one: None if error(one) else 0.5, error), tmp_path)
    assert found["failed"] == 4 and "4 runs failed" in (tmp_path / "report.md").read_text()
