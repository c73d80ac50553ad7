"""figures/STUDY.md says what the data beside it and the protocols say."""

import gzip
import json
import runpy
from pathlib import Path

import pytest

from primeattn.study import key, protocol, protocol_runs

FIGURES = Path(__file__).parent.parent / "figures"
PAGE = (FIGURES / "STUDY.md").read_text()


@pytest.fixture
def program():
    return runpy.run_path(str(FIGURES / "make_study.py"))


def test_the_results_are_those_of_the_data(program):
    assert program["page"](PAGE) == PAGE
    emptied = PAGE[: PAGE.index(program["START"])] + program["START"] + program["END"] + "\n"
    assert program["page"](emptied).startswith(PAGE[: PAGE.index(program["END"])])


@pytest.mark.parametrize("name", ["needle", "mqar", "text"])
def test_the_protocol_has_as_many_runs_as_the_page_says(name):
    made = protocol(name)
    runs = made["seeds"]
    for part in ("tasks", "patterns", "layers", "lrs"):
        runs *= len(made[part])
    assert f"| {name} | {runs} |" in PAGE and f"primeattn study {name}" in PAGE


def test_parts_of_a_protocol_say_so(program):
    for name in program["STUDIES"]:
        full = json.loads((FIGURES / "data" / f"study_{name}.json").read_text())["protocol"]["full"]
        assert ("not the whole protocol" in program["section"](name)) is not full


def test_results_are_brought_in(program, tmp_path, monkeypatch):
    """From a folder of studies, in which not all need be."""
    figures = tmp_path / "figures"
    (figures / "data").mkdir(parents=True)
    for name in program["STUDIES"]:
        (figures / "data" / f"study_{name}.json").write_text(
            (FIGURES / "data" / f"study_{name}.json").read_text()
        )
    (figures / "STUDY.md").write_text(PAGE)
    found = json.loads((FIGURES / "data" / "study_mqar.json").read_text())
    before, steps = found["protocol"]["seeds"], found["protocol"]["sizes"]["steps"]
    found["protocol"]["seeds"] = 77
    (tmp_path / "runs" / "study-mqar").mkdir(parents=True)
    (tmp_path / "runs" / "study-mqar" / "report.json").write_text(json.dumps(found))
    mine = key(protocol_runs(protocol("mqar"))[7])
    lines = [
        json.dumps({"key": name, "code": code}) + "\n" for name, code in ((mine, 1), (mine, 2), ("other", 2))
    ]
    (tmp_path / "runs" / "study-mqar" / "runs.jsonl").write_text("".join(lines))
    monkeypatch.setitem(program["main"].__globals__, "FIGURES", figures)
    program["main"](tmp_path / "runs")
    packed = gzip.decompress((figures / "data" / "study_mqar_runs.jsonl.gz").read_bytes())
    assert packed.decode() == lines[1]  # a run of the protocol, by the newest code
    changed = (figures / "STUDY.md").read_text()
    old, new = (f"### mqar ({steps} steps, {seeds} seed{'s' * (seeds > 1)}" for seeds in (before, 77))
    assert changed == PAGE.replace(old, new) != PAGE
