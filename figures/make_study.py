"""Bring results of studies into figures/STUDY.md and its figures.

python figures/make_study.py [RUNS]

RUNS is a folder with results of ``primeattn study``, such as runs: RUNS/study-needle/report.json is copied to
figures/data/study_needle.json, and so on. Without it, page and figures are made from what is there.
"""

import json
import runpy
import sys
from pathlib import Path

from primeattn.table import Table

FIGURES = Path(__file__).parent
STUDIES = ("needle", "mqar", "text")
START, END = "<!-- results: python figures/make_study.py -->", "<!-- end -->"
COLUMNS = ("pattern", "layers", "length", "pairs", "n", "mean", "low", "high", "predicted")
CLAIMS = ("verdict", "better", "than", "layers", "length", "n", "mean", "low", "high")


def section(name) -> str:
    """The results of a study as Markdown; what does not hold comes first."""
    found = json.loads((FIGURES / "data" / f"study_{name}.json").read_text())
    protocol = found["protocol"]
    steps, quick = (
        protocol["sizes"]["steps"],
        "" if protocol["full"] else ", `--quick`: too small to conclude from",
    )
    lines = [f"### {name} ({steps} steps, {protocol['seeds']} seeds{quick})", ""]
    order = ("not supported", "undecided", "supported")
    claims = Table(sorted(found["differences"], key=lambda row: order.index(row["verdict"])))
    if claims:
        lines += [claims.markdown(CLAIMS), ""]
    lines += [Table(found["summary"]).markdown(COLUMNS), ""]
    if found["reached"]:
        lines += [
            Table(found["reached"]).markdown(
                ("pattern", "layers", "length", "expected", "lowest", "others", "chance")
            ),
            "",
        ]
    return "\n".join(lines)


def page(text) -> str:
    """The page with its results made anew."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return "\n".join([before + START, "", *map(section, STUDIES)]) + END + after


def main(runs=None):
    for name in STUDIES if runs else ():
        path = Path(runs) / f"study-{name}" / "report.json"
        if path.exists():
            (FIGURES / "data" / f"study_{name}.json").write_bytes(path.read_bytes())
    path = FIGURES / "STUDY.md"
    path.write_text(page(path.read_text()))
    examples = FIGURES.parent / "examples"
    sys.path.insert(0, str(examples))
    for script in sorted(examples.glob("study_*.py")):
        sys.argv = [str(script)]
        runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
