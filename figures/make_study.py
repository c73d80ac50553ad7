"""Bring results of studies into figures/STUDY.md and its figures.

python figures/make_study.py [RUNS]

RUNS is a folder with results of ``primeattn study``, such as runs: RUNS/study-needle/runs.jsonl is packed as
figures/data/study_needle_runs.jsonl.gz, and so on. All tables are made from these runs, and page and figures
from the tables; without RUNS from those that are there.
"""

import gzip
import json
import runpy
import sys
from pathlib import Path

from primeattn.study import protocol, protocol_runs
from primeattn.study.report import tables
from primeattn.table import Table

FIGURES = Path(__file__).parent
STUDIES = ("needle", "mqar", "text")
START, END = "<!-- results: python figures/make_study.py -->", "<!-- end -->"
WORDS = {  # of the original, for what its three patterns are
    ("primes", "random as primes"): "balanced",
    ("squares", "random as squares"): "extremely sparse",
    ("mian_chowla", "random as mian_chowla"): "non-redundant",
}
VERDICTS = ("not supported", "undecided", "supported")  # what does not hold comes first
CLAIMS = ("verdict", "better", "than", "word", "layers", "length", "n", "mean", "low", "high")
ROWS = ("pattern", "layers", "length", "pairs", "n", "mean", "low", "high", "predicted", "connected")
REACHED = ("pattern", "layers", "length", "expected", "lowest", "relayed", "others", "chance")


def section(found) -> str:
    """The tables of a study as Markdown."""
    made = found["protocol"]
    steps, seeds = made["sizes"]["steps"], made["seeds"]
    part = "" if made["full"] else "; not the whole protocol"
    claims = [row | {"word": WORDS.get((row["better"], row["than"]))} for row in found["differences"]]
    claims.sort(key=lambda row: VERDICTS.index(row["verdict"]))
    lines = [
        f"### {made['study']} ({steps} steps, {seeds} seed{'s' * (seeds > 1)}{part})",
        "",
        Table(claims).markdown(CLAIMS),
        "",
    ]
    lines += ["<details><summary>Every pattern</summary>", "", Table(found["summary"]).markdown(ROWS), ""]
    if found["reached"]:
        lines += ["Where theory expects answers, and elsewhere:", ""]
        lines += [Table(found["reached"]).markdown(REACHED), ""]
    return "\n".join([*lines, "</details>", ""])


def committed(name) -> dict:
    return json.loads((FIGURES / "data" / f"study_{name}.json").read_text())


def page(text) -> str:
    """The page with its results made anew."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return "\n".join([before + START, "", *(section(committed(name)) for name in STUDIES)]) + END + after


def packed(path, name) -> bytes:
    """The lines of the protocol's runs by the code that made the last one, compressed."""
    lines = path.read_bytes().splitlines(keepends=True)
    records = list(map(json.loads, lines))
    wanted, code = set(map(as_text, protocol_runs(protocol(name)))), records[-1]["code"]
    kept = [
        line
        for line, record in zip(lines, records, strict=True)
        if as_text(record["run"]) in wanted and record["code"] == code
    ]
    return gzip.compress(b"".join(kept), mtime=0)


def as_text(run) -> str:
    return json.dumps(run, sort_keys=True)


def tables_of(name) -> dict:
    """The tables of the packed runs, which may be a part of the protocol's."""
    content = gzip.decompress((FIGURES / "data" / f"study_{name}_runs.jsonl.gz").read_bytes())
    by_run = {as_text(record["run"]): record for record in map(json.loads, content.splitlines())}
    made = protocol(name)
    wanted = list(map(as_text, protocol_runs(made)))
    records = [by_run[run] for run in wanted if run in by_run]
    return tables(made | {"full": len(records) == len(wanted)}, records)


def main(runs=None):
    data = FIGURES / "data"
    for name in STUDIES:
        new = Path(runs or "") / f"study-{name}" / "runs.jsonl"
        if runs and new.exists():
            (data / f"study_{name}_runs.jsonl.gz").write_bytes(packed(new, name))
        (data / f"study_{name}.json").write_text(json.dumps(tables_of(name)) + "\n")
    path = FIGURES / "STUDY.md"
    path.write_text(page(path.read_text()))
    examples = FIGURES.parent / "examples"
    sys.path.insert(0, str(examples))
    for script in sorted(examples.glob("study_*.py")):
        sys.argv = [str(script)]
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
