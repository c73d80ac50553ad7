import json
import os

import pytest

from primeattn import plot
from primeattn.bench import report


def row(peer="primeattn", sequence="primes", which="forward", n=64, **changed):
    found = {
        "threads": 2, "pass": which, "batch": 1, "heads": 8, "n": n, "head_dim": 64, "dtype": "float32",
        "peer": peer, "sequence": sequence, "pairs": 1000, "median_s": 0.0123, "q1_s": 0.012, "q3_s": 0.0125,
        "gflops": 20.0, "ns_per_pair": 5.5, "cores_of_others": None, **changed,
    }  # fmt: skip
    return found if "skipped" not in changed else {k: v for k, v in found.items() if not k.endswith("_s")}


def results(rows):
    settings = {"n": [64, 1024], "heads": [1, 8], "threads": [1, 2], "sequences": ["primes", "mian_chowla"]}
    error = {
        "peer": "torch causal",
        "sequence": None,
        "n": 64,
        "out": 1e-7,
        "dq": 2e-7,
        "dk": 3e-7,
        "dv": 4e-6,
    }
    copied = {"2": 12.34}
    return {
        "settings": settings,
        "rows": rows,
        "notes": ["a note"],
        "copy_gb_per_s": copied,
        "accuracy": [error],
    }


def test_numbers():
    shown = [report.number(v) for v in (1234.5, 123.4, 12.34, 1.234, 0.1234, 0.01234, 0)]
    assert shown == ["1234", "123", "12.3", "1.23", "0.123", "0.0123", "0"]
    assert report.milliseconds(row()) == "12.3 ±2%"
    assert report.milliseconds(row(skipped="why")) == report.milliseconds({}) == "-"


def test_table_of_cpu(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    rows = [
        row(gb_per_s=33.3, speedup=4.0, efficiency=0.951),
        row(sequence="mian_chowla", gb_per_s=1.0, median_s=0.004, q1_s=0.004, q3_s=0.004),
        row("torch mask", median_s=0.1, q1_s=0.1, q3_s=0.1),
        row("scalar loop", median_s=1, q1_s=1, q3_s=1),
        row("scalar loop", "mian_chowla", median_s=2, q1_s=2, q3_s=2),
        row("FlexAttention", skipped="broken"),
        row(which="forward+backward", heads=1, dtype="float64"),
        row(which="forward+backward", heads=4, cores_of_others=0.1),
        row(which="forward+backward", heads=2, cores_of_others=0.2),
        row("scalar loop", which="forward+backward", heads=1, dtype="float64", skipped="it is forward only"),
    ]
    lines = report.tables(results(rows)).splitlines()
    assert lines[0].startswith("forward, 2 threads: milliseconds") and "12.3 GB/s" in lines[0]
    split = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    assert split[1] == [
        "shape", "sequence", "primeattn", "GFLOP/s", "ns/pair", "GB/s", "torch mask", "scalar loop",
        "times faster", "efficiency",
    ]  # fmt: skip
    assert split[2] == [
        "1x8x64x64", "primes", "12.3 ±2%", "20.0", "5.50", "33.3", "100 ±0%", "1000 ±0%", "4.00", "0.951"
    ]  # fmt: skip
    assert split[3][:3] == ["1x8x64x64", "mian_chowla", "4.00 ±0%"]
    assert split[3][5:] == ["1.00", "100 ±0%", "2000 ±0%", "-", "-"]  # the mask's time is that of any pattern
    assert split[7] == ["1x1x64x64 float64*", "primes", "12.3 ±2%", "20.0", "5.50", "-", "-"]
    assert [line[0] for line in split[8:10]] == ["1x4x64x64", "1x2x64x64!"]
    assert lines[11:14] == ["- FlexAttention: broken", "- scalar loop: it is forward only", "- a note"]
    assert split[-1] == ["torch causal", "all pairs", "1.0e-07", "2.0e-07", "3.0e-07", "4.0e-06"]
    assert len({len(line) for line in lines[1:4]}) == 1  # aligned


def test_figure_draws_the_most_heads_and_threads():
    rows = []
    for n in (64, 1024):
        for which in ("forward", "forward+backward"):
            rows += [row(n=n, which=which, efficiency=0.5), row(n=n, which=which, sequence="mian_chowla")]
            rows += [row("torch causal", None, n=n, which=which), row("FlexAttention", n=n, which=which)]
            rows += [row("FlexAttention", "mian_chowla", n=n), row(n=n, heads=1), row(n=n, threads=1)]
            rows += [
                row(n=n, head_dim=32),
                row(n=n, dtype="float64"),
                row("dense NumPy", n=n, skipped="long"),
            ]
    fig = report.figure(results(rows))
    left, right = fig.axes
    drawn = {line.get_label(): line.get_xdata() for line in left.lines}
    assert list(drawn) == [
        "torch SDPA, causal", "torch FlexAttention, primes", "primeattn, primes", "primeattn, mian-chowla"
    ]  # fmt: skip
    assert list(drawn["primeattn, primes"]) == [64, 1024]
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["primes, forward", "primes, forward + backward"]
    assert left.get_xscale() == left.get_yscale() == "log" and "2 threads" in left.get_title()
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["64", "1k"]


def test_figure_without_torch(tmp_path):
    plot.save(report.figure(results([row(n=64), row(n=1024)])), tmp_path / "cpu.png")
    assert (tmp_path / "cpu.png").read_bytes().startswith(b"\x89PNG")


def test_json_has_the_machine_and_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "cpu.json"
    written = report.write_json(path, {"rows": [1]}, "the command")
    assert json.loads(path.read_text()) == written
    assert written["rows"] == [1] and written["command"] == "the command"
    assert (
        written["machine"]["cores"] >= written["machine"]["usable_cores"] >= 1 and written["machine"]["cpu"]
    )
    assert set(written["versions"]) >= {"python", "primeattn", "numpy", "numba", "torch"}
    with pytest.raises(TypeError):
        report.write_json(path, {"rows": [object()]}, "the command")
    assert json.loads(path.read_text()) == written and len(list(path.parent.iterdir())) == 1
