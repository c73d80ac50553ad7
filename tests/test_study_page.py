"""figures/STUDY.md says what the data beside it and the protocols say."""

import gzip
import json
import runpy
import shutil
from pathlib import Path

import pytest

from primeattn.study import protocol

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
        found = json.loads((FIGURES / "data" / f"study_{name}.json").read_text())
        assert ("not the whole protocol" in program["section"](found)) is not found["protocol"]["full"]


@pytest.mark.parametrize("name", ["needle", "mqar", "text"])
def test_the_tables_are_those_of_the_packed_runs(program, name):
    """Whatever code has drawn patterns and predictions since."""
    committed = json.loads((FIGURES / "data" / f"study_{name}.json").read_text())
    assert program["section"](program["tables_of"](name)) == program["section"](committed)


def test_results_are_brought_in(program, tmp_path, monkeypatch):
    """From a folder of studies, in which not all need be, and not all lines are of the protocol."""
    figures, new = tmp_path / "figures", tmp_path / "runs" / "study-needle" / "runs.jsonl"
    shutil.copytree(FIGURES / "data", figures / "data")
    (figures / "STUDY.md").write_text(PAGE)
    new.parent.mkdir(parents=True)
    kept = figures / "data" / "study_needle_runs.jsonl.gz"
    lines = gzip.decompress(kept.read_bytes()).splitlines(keepends=True)
    record = json.loads(lines[0])
    others = (record | {"code": "older"}, record | {"run": record["run"] | {"seed": 77}})
    new.write_bytes(b"".join([*(json.dumps(other).encode() + b"\n" for other in others), *lines[:-1]]))
    monkeypatch.setitem(program["main"].__globals__, "FIGURES", figures)
    program["main"](tmp_path / "runs")
    assert gzip.decompress(kept.read_bytes()) == b"".join(lines[:-1])
    changed = (figures / "STUDY.md").read_text()
    assert (
        "seeds; not the whole protocol)" in changed[changed.index("### needle") : changed.index("### mqar")]
    )
    assert changed[changed.index("### mqar") :] == PAGE[PAGE.index("### mqar") :]
