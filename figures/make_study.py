"""Bring results of studies into figures/STUDY.md and its figures.

python figures/make_study.py [RUNS]

RUNS is a folder with results of ``primeattn study``, such as runs: RUNS/study-needle/report.json is copied to
figures/data/study_needle.json, its runs.jsonl packed beside it, and so on. Without it, page and figures are
made from what is there.
"""

import gzip
import json
import runpy
import sys
from pathlib import Path

from primeattn.study import key, protocol, protocol_runs
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


def section(name) -> str:
    """The results of a study as Markdown."""
    found = json.loads((FIGURES / "data" / f"study_{name}.json").read_text())
    made = found["protocol"]
    steps, seeds = made["sizes"]["steps"], made["seeds"]
    part = "" if made["full"] else "; not the whole protocol"
    claims = [row | {"word": WORDS.get((row["better"], row["than"]))} for row in found["differences"]]
    claims.sort(key=lambda row: VERDICTS.index(row["verdict"]))
    lines = [
        f"### {name} ({steps} steps, {seeds} seed{'s' * (seeds > 1)}{part})",
        "",
        Table(claims).markdown(CLAIMS),
        "",
    ]
    lines += ["<details><summary>Every pattern</summary>", "", Table(found["summary"]).markdown(ROWS), ""]
    if found["reached"]:
        lines += ["Where theory expects answers, and elsewhere:", ""]
        lines += [Table(found["reached"]).markdown(REACHED), ""]
    return "\n".join([*lines, "</details>", ""])


def page(text) -> str:
    """The page with its results made anew."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return "\n".join([before + START, "", *map(section, STUDIES)]) + END + after


def packed(path, name) -> bytes:
    """The lines of the protocol's runs by the code that made the last one, compressed."""
    lines = path.read_bytes().splitlines(keepends=True)
    records = list(map(json.loads, lines))
    wanted, code = set(map(key, protocol_runs(protocol(name)))), records[-1]["code"]
    kept = [
        line
        for line, record in zip(lines, records, strict=True)
        if record["key"] in wanted and record["code"] == code
    ]
    return gzip.compress(b"".join(kept), mtime=0)


def main(runs=None):
    for name in STUDIES if runs else ():
        folder, data = Path(runs) / f"study-{name}", FIGURES / "data"
        if (folder / "report.json").exists():
            (data / f"study_{name}.json").write_bytes((folder / "report.json").read_bytes())
        if (folder / "runs.jsonl").exists():
            (data / f"study_{name}_runs.jsonl.gz").write_bytes(packed(folder / "runs.jsonl", name))
    path = FIGURES / "STUDY.md"
    path.write_text(page(path.read_text()))
    examples = FIGURES.parent / "examples"
    sys.path.insert(0, str(examples))
    for script in sorted(examples.glob("study_*.py")):
        sys.argv = [str(script)]
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
