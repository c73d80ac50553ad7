"""Output of the GPU benchmark: a table and a figure."""

from __future__ import annotations

from primeattn.bench.gpu_peers import FLEX, OURS, SDPA
from primeattn.bench.report import SEQUENCE_STYLES, dress, milliseconds, number, plot_rows, table
from primeattn.plot.files import new_figure

__all__ = ["figure", "tables"]

# Okabe and Ito's colours, as in report
_PEERS = {
    "SDPA flash": {"color": "black", "linestyle": "-"},
    "SDPA cuDNN": {"color": "#D55E00", "linestyle": "--"},
    "SDPA efficient": {"color": "#777777", "linestyle": ":"},
    FLEX: {"color": "#CC79A7", "linestyle": "-.", "marker": "x"},  # often only one length
}


def tables(results) -> str:
    """The results as text: one table for each pass and dtype."""
    rows, ceilings = results["rows"], results["ceilings"]
    shown = {name: "not measured" if value is None else number(value) for name, value in ceilings.items()}
    lines = [results["device"]["name"], *(f"- {name}: {value}" for name, value in shown.items()), ""]
    for which, dtype in dict.fromkeys((row["pass"], row["dtype"]) for row in rows):
        here = [row for row in rows if (row["pass"], row["dtype"]) == (which, dtype)]
        lines += [
            f"{which}, {dtype}: milliseconds, median ± half the distance of the quartiles", _table(here), ""
        ]  # fmt: skip
    reasons = {}
    for row in rows:
        if "skipped" in row:
            reasons.setdefault((row["skipped"]), {})[f"{row['peer']} ({row['dtype']})"] = None
    lines += [f"- {', '.join(peers)}: {reason}" for reason, peers in reasons.items()]
    if results["left_out"]:
        lines.append(f"- {len(results['left_out'])} shapes were left out, as time ran out")
    return "\n".join([*lines, *(f"- {note}" for note in results["notes"])])


def _table(rows):
    """A line for each shape, sequence and kernel of this library, with the times of its peers."""
    peers = [peer for peer in (*SDPA, FLEX) if any(r["peer"] == peer and "median_s" in r for r in rows)]
    of_shape, lines = {}, []
    for row in rows:
        of_shape.setdefault(_shape(row), []).append(row)
    for shape, found in of_shape.items():
        times = {(row["peer"], row["sequence"]): milliseconds(row) for row in found}
        for row in found:
            if row["peer"] in OURS:
                beside = (times.get((p, row["sequence"] if p == FLEX else None), "-") for p in peers)
                figures = (number(row[name]) if name in row else "-" for name in _FIGURES)
                kernel = row["peer"].removeprefix("primeattn ")
                lines.append([shape, row["sequence"], kernel, milliseconds(row), *beside, *figures])
    return table(["shape", "sequence", "kernel", "primeattn", *peers, *_FIGURES.values()], lines)


_FIGURES = {
    "speedup": "times faster", "efficiency": "efficiency", "gflops": "GFLOP/s", "of_fma": "of fma",
    "gb_per_s": "GB/s", "of_copy": "of copy",
}  # fmt: skip


def _shape(row):
    return f"{row['batch']}x{row['heads']}x{row['n']}x{row['head_dim']}"


def figure(results):
    """Time, and times faster than the fastest SDPA, against length, for the most heads: a Figure."""
    settings = results["settings"]
    dtype, heads, head_dim = settings["dtypes"][0], max(settings["heads"]), min(settings["head_dims"])
    wanted = {"heads": heads, "head_dim": head_dim}
    rows = [
        row for row in sorted(results["rows"], key=lambda row: row["n"])
        if "median_s" in row and all(row[name] == value for name, value in wanted.items())
    ]  # fmt: skip
    fig = new_figure(figsize=(9.6, 5.4), layout="constrained")
    left, right = fig.subplots(1, 2)
    forward = [row for row in rows if row["pass"] == "forward" and row["dtype"] == dtype]
    for peer, style in _PEERS.items():
        drawn = [row for row in forward if row["peer"] == peer]
        drawn = [row for row in drawn if row["sequence"] == drawn[0]["sequence"]]
        label = f"{peer}, {drawn[0]['sequence'].replace('_', '-')}" if peer == FLEX and drawn else peer
        plot_rows(left, drawn, "median_s", **style, linewidth=1.4, label=label)
    for sequence, (color, marker) in zip(settings["sequences"], SEQUENCE_STYLES * 9, strict=False):
        style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.8}
        name, of_ours = sequence.replace("_", "-"), _fastest(rows, sequence)
        drawn = of_ours("forward", dtype)
        plot_rows(left, drawn, "median_s", **style, label=f"primeattn, {name}")
        for label, which, kind, dash in (
            (name, "forward", dtype, "-"),
            (f"{name}, forward + backward", "forward+backward", dtype, "--"),
            (f"{name}, float32", "forward", "float32", ":"),
        ):
            drawn = [row for row in of_ours(which, kind) if "speedup" in row]
            if dtype != "float32" or dash != ":":  # else it is drawn already
                plot_rows(right, drawn, "speedup", **style, linestyle=dash, label=label)
    left.set(yscale="log", ylabel="seconds", title=f"forward, {dtype}, {heads} heads of {head_dim}")
    right.set(yscale="log", ylabel="times faster", title=f"the fastest torch SDPA / primeattn, {dtype}")
    right.yaxis.set_major_formatter("{x:g}")
    right.axhline(1, color="black", linewidth=0.8)
    for ax in (left, right):
        dress(ax, sorted({row["n"] for row in rows}) or settings["n"])
    fig.suptitle(results["device"]["name"], fontsize="medium")
    return fig


def _fastest(rows, sequence):
    """Return a function of pass and dtype: rows of this library's fastest kernel at each length."""

    def of(which, dtype):
        wanted = {"sequence": sequence, "pass": which, "dtype": dtype}
        drawn = [r for r in rows if r["peer"] in OURS and all(r[name] == wanted[name] for name in wanted)]
        drawn.sort(key=lambda row: row["median_s"], reverse=True)
        return [row for _, row in sorted({row["n"]: row for row in drawn}.items())]

    return of
