import numpy as np
import pytest

from primeattn.bench import cpu, peers
from primeattn.bench.cpu import Shape
from primeattn.bench.timing import Timing
from primeattn.patterns import Pattern

PRIMES, SQUARES = (Pattern(name, window=3, global_tokens=2) for name in ("primes", "squares"))


@pytest.fixture
def asked(monkeypatch):
    """Peers that compute nothing and take the seconds in the dict returned, or raise what is there."""
    seconds = {}

    def fake(peer):
        def prepare(inputs, pattern, backward):
            if isinstance(seconds[peer], Exception):
                seconds[peer].asked = getattr(seconds[peer], "asked", 0) + 1
                raise seconds[peer]
            return peer

        return prepare

    def measured(calls, budget):
        return {key: Timing(s := seconds[peer], 0.9 * s, 1.2 * s, 5, 5) for key, peer in calls.items()}

    monkeypatch.setattr(cpu, "PEERS", {name: fake(name) for name in peers.PEERS})
    monkeypatch.setattr(cpu, "interleave", measured)
    return seconds


def by_peer(rows):
    return {(row["peer"], row["sequence"]): row for row in rows}


def test_figures_of_a_row(asked):
    asked |= {"primeattn": 0.5, "torch causal": 4.0}
    shape = Shape(batch=2, heads=3, n=64, head_dim=16)
    rows = cpu.Peers(8, {}).measure(shape, {"squares": SQUARES}, ("primeattn", "torch causal"), 1)
    ours, dense = rows
    pairs, causal = 6 * SQUARES.num_pairs(64), 6 * 64 * 65 // 2
    assert (ours["pairs"], dense["pairs"], dense["sequence"]) == (pairs, causal, None)
    assert (ours["median_s"], ours["q1_s"], ours["q3_s"]) == (0.5, 0.45, 0.6)
    assert ours["ns_per_pair"] == pytest.approx(0.5e9 / pairs)
    assert ours["gflops"] == pytest.approx(4 * 16 * pairs / 0.5 / 1e9)
    assert ours["gb_per_s"] == pytest.approx(2 * 16 * 4 * pairs / 0.5 / 1e9)
    assert ours["speedup"] == 8 and ours["efficiency"] == pytest.approx(8 * pairs / causal)
    assert "speedup" not in dense and dense["threads"] == 1

    shape = Shape(2, 3, 64, 16, "float64", backward=True)
    ours = cpu.Peers(8, {}).measure(shape, {"squares": SQUARES}, ("primeattn",), 1)[0]
    assert ours["gflops"] == pytest.approx(14 * 16 * pairs / 0.5 / 1e9)
    assert ours["pass"] == "forward+backward" and ours["dtype"] == "float64"
    assert "gb_per_s" not in ours and "efficiency" not in ours


def test_peers_that_take_all_pairs_are_measured_once(asked):
    asked |= dict.fromkeys(peers.PEERS, 1.0)
    rows = cpu.Peers(8, {}).measure(Shape(1, 1, 64), {"primes": PRIMES, "squares": SQUARES}, peers.PEERS, 1)
    counts = {peer: sum(row["peer"] == peer for row in rows) for peer in peers.PEERS}
    assert {peer for peer, count in counts.items() if count == 2} == {
        "primeattn",
        "FlexAttention",
        "scalar loop",
    }
    assert {peer for peer, count in counts.items() if count == 1} == {
        "torch causal",
        "torch mask",
        "dense NumPy",
    }


def test_long_peers_are_left_out_but_never_this_library(asked):
    asked |= {"primeattn": 5.0, "torch causal": 5.0}
    measured = cpu.Peers(8, {})

    def skipped(n, **options):
        shape = Shape(1, options.get("heads", 1), n)
        rows = measured.measure(shape, {"primes": PRIMES}, asked, options.get("threads", 1))
        assert "median_s" in by_peer(rows)["primeattn", "primes"]
        return by_peer(rows)["torch causal", None].get("skipped")

    assert skipped(64) is None
    assert skipped(96) is None  # 5 s (96 / 64)^2 = 11 s
    assert skipped(150) == "left out where a call would take more than 12 s"  # (150 / 96)^2
    assert skipped(300) == "left out where a call would take more than 12 s"
    assert skipped(300, heads=2) is None  # nothing is known of it
    assert skipped(300, threads=2) is None


def test_peers_beyond_their_length(asked):
    asked |= dict.fromkeys(peers.PEERS, 0.1)
    rows = cpu.Peers(8, {}).measure(Shape(1, 1, 4097, 1), {"primes": PRIMES}, peers.PEERS, 1)
    left_out = {row["peer"]: row["skipped"] for row in rows if "skipped" in row}
    assert left_out == {"dense NumPy": "left out beyond n = 4096"}


def test_a_peer_that_gave_up_is_not_asked_again(asked):
    asked |= {"FlexAttention": peers.GivenUp("no compiler"), "scalar loop": peers.Unavailable("not this")}
    measured, names = (
        cpu.Peers(8, {"dense NumPy": "not wanted"}),
        ("FlexAttention", "scalar loop", "dense NumPy"),
    )
    for _ in range(2):
        rows = measured.measure(Shape(1, 1, 8), {"primes": PRIMES}, names, 1)
        assert [row["skipped"] for row in rows] == ["no compiler", "not this", "not wanted"]
    assert asked["FlexAttention"].asked == 1 and asked["scalar loop"].asked == 2


def test_what_others_take_is_written_down(asked, monkeypatch):
    asked |= {"primeattn": 0.5}
    monkeypatch.setattr(cpu, "watched", lambda function: (function(), 1.25))
    (row,) = cpu.Peers(8, {}).measure(Shape(1, 1, 8), {"primes": PRIMES}, asked, 1)
    assert row["cores_of_others"] == 1.25


def test_the_grid():
    patterns = {"primes": PRIMES, "squares": SQUARES}
    cells = list(cpu._grid([64, 16384], [1, 8], patterns))
    full = [shape for shape, names, asked in cells if len(asked) == 6 and names == ["primes", "squares"]]
    assert len(full) == 8 and {(s.heads, s.n, s.backward) for s in full} == {
        (heads, n, backward) for heads in (1, 8) for n in (64, 16384) for backward in (False, True)
    }
    extra = {shape for shape, names, asked in cells if shape not in full and names == ["primes"]}
    assert {(s.batch, s.heads, s.n, s.head_dim, s.dtype) for s in extra} == {
        (1, 8, 8192, 32, "float32"), (1, 8, 8192, 80, "float32"), (1, 8, 8192, 128, "float32"),
        (1, 8, 8192, 64, "float64"), (32, 4, 256, 32, "float32"),
    }  # fmt: skip
    assert len(extra) == 10 and len(cells) == 18


def test_defaults_are_what_was_promised(asked, monkeypatch):
    asked |= dict.fromkeys(peers.PEERS, 0.1)
    monkeypatch.setattr(cpu, "LENGTHS", (4, 8))
    monkeypatch.setattr(cpu, "get_num_threads", lambda: 3)
    monkeypatch.setattr(cpu, "copy_bandwidth", lambda threads: 10.0 * threads)
    monkeypatch.setattr(cpu, "accuracy", lambda n, patterns: [{"n": n}])
    results = cpu.run()
    assert results["settings"] == {
        "n": [4, 8], "heads": [1, 8], "threads": [1, 3], "sequences": ["primes", "squares", "mian_chowla"],
        "window": 3, "global_tokens": 2, "budget_s": 8.0, "quick": False,
    }  # fmt: skip
    assert results["copy_gb_per_s"] == {"1": 10.0, "3": 30.0} and results["accuracy"] == [{"n": 8}]
    assert {row["threads"] for row in results["rows"]} == {1, 3}
    quick = cpu.run(quick=True, n=[8])
    assert quick["settings"]["threads"] == [3] and quick["settings"]["heads"] == [8]
    left_out = {row["peer"]: row["skipped"] for row in quick["rows"] if "skipped" in row}
    assert left_out == {"FlexAttention": "left out of quick runs: it takes long to compile"}


@pytest.mark.slow
def test_accuracy_sees_errors_of_float32_and_wrong_results(monkeypatch):
    monkeypatch.setattr(peers, "find_torch", lambda: None)
    (row,) = cpu.accuracy(64, {"primes": PRIMES})
    assert (row["peer"], row["sequence"], row["n"]) == ("primeattn", "primes", 64)
    assert all(1e-9 < row[name] < 1e-4 for name in ("out", "dq", "dk", "dv"))
    ours = peers.PEERS["primeattn"]

    def wrong(inputs, pattern, backward):
        def call():
            out, dq, dk, dv = ours(inputs, pattern, backward)()
            return out, dq, dk + np.float32(0.5), dv

        return call

    monkeypatch.setattr(cpu, "PEERS", {"primeattn": wrong, "torch mask": wrong, "torch causal": wrong})
    rows = cpu.accuracy(16, {"primes": PRIMES})
    assert [row["peer"] for row in rows] == ["primeattn", "torch mask", "torch causal"]
    assert all(row["dk"] == pytest.approx(0.5, abs=1e-3) and row["dq"] < 1e-4 for row in rows)


def test_accuracy_of_torch():
    pytest.importorskip("torch")
    rows = cpu.accuracy(64, {"primes": PRIMES})
    assert [row["peer"] for row in rows] == ["primeattn", "torch mask", "torch causal"]
    assert all(row[name] < 1e-4 for row in rows for name in ("out", "dq", "dk", "dv"))


def test_copy_bandwidth():
    assert 0.01 < cpu.copy_bandwidth(2, nbytes=2**20 + 1) < 1e5
