"""A study written up: numbers as JSON, figures, and a page of Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primeattn.files import make_folder, written_whole
from primeattn.study.places import curves, places, reached
from primeattn.study.results import differences, summary
from primeattn.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from primeattn.typing import FilePath

__all__ = ["COLUMNS", "report", "tables"]

COLUMNS = ("task", "pattern", "layers", "pairs", "lr", "n", "mean", "low", "high")
COLUMNS += ("predicted", "connected", "chance")

_LEGEND = """Sequences have a window of 3. "X as Y" has as many pairs as Y, within 1 %: random offsets, as
many in every block [2^k, 2^(k+1)), other ones for each seed; powers of two or multiples of a stride, and
a window; a window alone. `pairs` are of all layers, `lr` is what validation prefers, `mean` is the test
over `n` seeds (right answers, or bits of a token), with its 95 % interval. `predicted` is the share of
questions that theory expects to be answered, `connected` that of those whose answer the layers connect,
be it by relays."""
_REACHED = """`expected`: right answers where theory expects them, `lowest`: at the worst of these
distances; `relayed`: where only relays connect the answer; `others`: elsewhere. In a figure by distance,
blue bands and filled points are where theory expects answers, light bands and triangles where relays
connect them."""


def report(protocol: Mapping[str, Any], records: Iterable[Mapping[str, Any]], out: FilePath) -> dict:
    """Write ``report.json``, ``figure.png``, ``curves.png`` and ``report.md`` to ``out``; return the first.

    Its keys are "protocol", "summary", "differences" (of the protocol's claims), "reached", "places",
    "curves" and "failed", the number of runs without a result; all but the first and the last are tables of
    the functions of these names.

    Parameters
    ----------
    protocol : dict
        From ``protocol``.
    records : iterable of dict
        From ``run``.
    out : path
        Folder, made if needed.

    Returns
    -------
    dict
        What ``report.json`` holds.

    See Also
    --------
    summary : One of its tables.

    Examples
    --------
    >>> import tempfile, primeattn as pa
    >>> made = pa.study.protocol("copy", quick=True, steps=2, seeds=1)
    >>> with tempfile.TemporaryDirectory() as out:
    ...     records = pa.study.run(pa.study.protocol_runs(made), out=out)
    ...     found = pa.study.report(made, records, out)
    >>> len(found["summary"])  # 3 distances, 2 patterns
    6
    """
    from primeattn.plot.files import try_save

    out, found = Path(out), tables(protocol, list(records))
    make_folder(out)
    drawings = {"figure.png": lambda: _figure(found), "curves.png": lambda: _curves(found)}
    drawn = [name for name, draw in drawings.items() if try_save(draw, out / name)]
    for name, text in (("report.json", json.dumps(found)), ("report.md", _page(found, drawn))):
        with written_whole(out / name) as file:
            file.write(f"{text}\n".encode())
    return found


def tables(protocol, records) -> dict:
    """Return what ``report.json`` holds, of records in a list.

    Examples
    --------
    >>> from primeattn.study import protocol
    >>> from primeattn.study.report import tables
    >>> found = tables(protocol("copy", patterns=["lucky"]), [])
    >>> list(found)
    ['protocol', 'summary', 'differences', 'reached', 'places', 'curves', 'failed']
    """
    return {
        "protocol": protocol,
        "summary": summary(records),
        "differences": differences(records, protocol["claims"]),
        "reached": reached(records),
        "places": places(records),
        "curves": curves(records),
        "failed": sum(record["result"]["error"] is not None for record in records),
    }


def _figure(found):
    from primeattn import plot

    kind = found["protocol"]["figure"]
    if kind == "recall":
        return plot.recall(found["places"])[0].figure
    if kind == "ceiling":
        return plot.ceiling(found["summary"], guess=found["protocol"]["guess"])[0].figure
    return plot.scores(found["summary"])[0].figure


def _curves(found):
    from primeattn import plot

    return plot.learning_curves(found["curves"])[0].figure


def _page(found, drawn):
    """The page as text: what was asked and expected, then what came out, what does not hold first."""
    protocol = found["protocol"]
    settings = {name: protocol[name] for name in ("layers", "lrs", "seeds")} | protocol["sizes"]
    lines = [
        f"# {protocol['study']}",
        "",
        protocol["question"],
        "",
        f"Expected of the whole study: {protocol['expected']}",
        "",
    ]
    lines += [", ".join(f"{name} {value}" for name, value in settings.items()) + ".", ""]
    if found["failed"]:
        lines += [f"{found['failed']} runs failed: their losses were no numbers.", ""]
    if found["differences"]:
        order = ("not supported", "undecided", "supported")
        claims = sorted(found["differences"], key=lambda row: order.index(row["verdict"]))
        names = ("verdict", "better", "than", "task", "layers", "n", "mean", "low", "high")
        lines += [
            "## Claims",
            "",
            "Mean difference by seed in the test, with its 95 % interval: above 0 where the",
        ]
        lines += ["first pattern does better, be it by more right answers or by fewer bits.", ""]
        lines += [Table(claims).markdown(names), ""]
    lines += ["## Results", "", _LEGEND, "", found["summary"].markdown(COLUMNS), ""]
    if found["reached"]:
        lines += ["## Where theory expects answers, and elsewhere", "", _REACHED, ""]
        lines += [found["reached"].markdown(), ""]
    lines += [line for name in drawn for line in (f"![{name.removesuffix('.png')}]({name})", "")]
    return "\n".join(lines)
