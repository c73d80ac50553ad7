"""Output of the benchmarks: a table on the screen, JSON, and a figure."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from primeattn.files import written_whole
from primeattn.info import machine, versions
from primeattn.plot.files import new_figure

__all__ = [
    "CROWDED",
    "SEQUENCE_STYLES",
    "crowded",
    "dress",
    "figure",
    "milliseconds",
    "number",
    "plot_rows",
    "table",
    "tables",
    "write_json",
]

CROWDED = "!: other processes kept the cores busy meanwhile, so these times mean little"


def write_json(path, results, command) -> dict:
    """Write the results with the command, time, machine and versions, the whole file or nothing."""
    results = {
        **results,
        "command": command,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        file.write(json.dumps(results, indent=1).encode() + b"\n")
    return results


def table(header, lines) -> str:
    """Return text with aligned columns, the first to the left and the others to the right.

    Examples
    --------
    >>> from primeattn.bench.report import table
    >>> print(table(["n", "ms"], [["8", "1.5"], ["1024", "20"]]))
    n      ms
    8     1.5
    1024   20
    """
    columns = [*zip(header, *lines, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    rows = ([cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
            for row in [header, *lines])  # fmt: skip
    return "\n".join("  ".join(row).rstrip() for row in rows)


def milliseconds(row) -> str:
    """Return the median and half the distance of the quartiles as text, or a dash if left out."""
    if "median_s" not in row:
        return "-"
    half = 50 * (row["q3_s"] - row["q1_s"]) / row["median_s"]
    return f"{number(1e3 * row['median_s'])} ±{half:.0f}%"


def number(value) -> str:
    """Return a number as text with three digits, without an exponent."""
    digits = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:.{digits}f}"


def tables(results) -> str:
    """The results of ``cpu`` as text: one table for each number of threads and each pass."""
    rows, lines = results["rows"], []
    for threads, which in dict.fromkeys((row["threads"], row["pass"]) for row in rows):
        here = [row for row in rows if (row["threads"], row["pass"]) == (threads, which)]
        copied = results["copy_gb_per_s"][str(threads)]
        counted = f"{threads} {'thread' if threads == 1 else 'threads'}"
        lines += [
            f"{which}, {counted}: milliseconds, median ± half the distance of the quartiles "
            f"(a copy runs at {copied:.1f} GB/s)",
            _table_of_pass(here),
            "",
        ]
    reasons = {}
    for row in rows:
        if "skipped" in row:
            reasons.setdefault(row["skipped"], {})[row["peer"]] = None
    lines += [f"- {', '.join(peers)}: {reason}" for reason, peers in reasons.items()]
    lines += [f"- {note}" for note in results["notes"]]
    header = ["largest error", "sequence", "out", "dq", "dk", "dv"]
    body = [
        [row["peer"], row["sequence"] or "all pairs", *(f"{row[name]:.1e}" for name in header[2:])]
        for row in results["accuracy"]
    ]
    n = results["accuracy"][0]["n"]
    return "\n".join([*lines, "", f"float32 results against float64, n = {n}", table(header, body)])


def _table_of_pass(rows):
    """A line for each shape and sequence: this library's time and those of its peers."""
    peers = [row["peer"] for row in rows if row["peer"] != "primeattn" and "median_s" in row]
    peers = list(dict.fromkeys(peers))
    measures = {"gflops": "GFLOP/s", "ns_per_pair": "ns/pair", "gb_per_s": "GB/s"}
    measures = {name: header for name, header in measures.items() if name in rows[0]}
    of_shape, lines = {}, []
    for row in rows:
        of_peer = of_shape.setdefault(_shape(row), {}).setdefault(row["peer"], {})
        of_peer[row["sequence"]] = row
    for shape, found in of_shape.items():
        for sequence, row in found["primeattn"].items():
            cells = [shape, sequence, milliseconds(row), *(number(row[name]) for name in measures)]
            for peer in peers:  # a peer that works on all pairs is shown for every sequence
                times = found.get(peer, {})
                cells.append(milliseconds(times.get(sequence, next(iter(times.values()), {}))))
            cells += [number(row[name]) if name in row else "-" for name in ("speedup", "efficiency")]
            lines.append(cells)
    header = ["shape", "sequence", "primeattn", *measures.values()]
    return table([*header, *peers, "times faster", "efficiency"], lines)


def _shape(row):
    dtype = "" if row["dtype"] == "float32" else f" {row['dtype']}"
    few = "*" if "backward" in row["pass"] and row["batch"] * row["heads"] < row["threads"] else ""
    return f"{row['batch']}x{row['heads']}x{row['n']}x{row['head_dim']}{dtype}{few}{crowded(row)}"


def crowded(row) -> str:
    """Return "!" for a row that was measured while others kept the cores busy, else nothing."""
    return "!" if row["threads"] + (row["cores_of_others"] or 0) > os.cpu_count() + 0.15 else ""


# Okabe and Ito's colours, distinct for any common colour vision; markers and dashes differ too.
SEQUENCE_STYLES = [("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"), ("#CC79A7", "v"), ("#56B4E9", "P")]
_PEERS = {
    "torch causal": ("black", "-", "torch SDPA, causal"),
    "torch mask": ("#D55E00", "--", "torch SDPA, mask"),
    "FlexAttention": ("#CC79A7", "-.", "torch FlexAttention, {}"),
    "dense NumPy": ("#777777", ":", "dense NumPy"),
    "scalar loop": ("#56B4E9", (0, (3, 1, 1, 1)), "scalar loop, {}"),
}


def figure(results):
    """Time against length, and efficiency against length, for the most heads and threads: a Figure."""
    settings = results["settings"]
    heads, threads = max(settings["heads"]), max(settings["threads"])
    wanted = {"batch": 1, "heads": heads, "head_dim": 64, "dtype": "float32", "threads": threads}
    rows = [
        row for row in results["rows"]
        if "median_s" in row and all(row[name] == value for name, value in wanted.items())
    ]  # fmt: skip
    fig = new_figure(figsize=(9.6, 5.4), layout="constrained")
    left, right = fig.subplots(1, 2)
    for peer, (color, dash, label) in _PEERS.items():
        of_peer = [row for row in rows if row["peer"] == peer and row["pass"] == "forward"]
        of_peer = [row for row in of_peer if row["sequence"] == of_peer[0]["sequence"]]
        style = {"color": color, "linestyle": dash, "linewidth": 1.4}
        plot_rows(left, of_peer, "median_s", **style, label=label.format(settings["sequences"][0]))
    for sequence, (color, marker) in zip(settings["sequences"], SEQUENCE_STYLES * 9, strict=False):
        ours = [row for row in rows if row["peer"] == "primeattn" and row["sequence"] == sequence]
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.8}
        name = sequence.replace("_", "-")
        for which, dash in (("forward", "-"), ("forward+backward", "--")):
            drawn = [row for row in ours if row["pass"] == which]
            if which == "forward":
                plot_rows(left, drawn, "median_s", **style, label=f"primeattn, {name}")
            plot_rows(right, [row for row in drawn if "efficiency" in row], "efficiency", **style,
                  linestyle=dash, label=f"{name}, {which.replace('+', ' + ')}")  # fmt: skip
    counted = f"{threads} {'thread' if threads == 1 else 'threads'}"
    left.set(yscale="log", ylabel="seconds", title=f"forward, {heads} heads of 64, {counted}")
    right.set(ylabel="efficiency", title="cost of a pair: torch SDPA causal / primeattn")
    right.axhline(1, color="black", linewidth=0.8)
    right.set_ylim(bottom=0)
    for ax in (left, right):
        dress(ax, settings["n"])
    return fig


def dress(ax, lengths):
    """Give ``ax`` a logarithmic axis of lengths, a grid, and a legend below, where it hides no line."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(lengths, [f"{n // 1024}k" if n % 1024 == 0 else str(n) for n in lengths])
    ax.minorticks_off()
    ax.set_xlabel("sequence length")
    ax.grid(alpha=0.3, linewidth=0.5)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, handlelength=3.2,
                  fontsize="small", frameon=False)  # fmt: skip


def plot_rows(ax, rows, name, **style):
    """Draw the column ``name`` of the rows against their lengths; nothing if there are no rows."""
    if rows:
        ax.plot([row["n"] for row in rows], [row[name] for row in rows], **style)
