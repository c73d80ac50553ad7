import numpy as np
import pytest

from primeattn.bench import step
from primeattn.bench.step import Model, allocation, layer_pass, our_step, torch_step
from primeattn.patterns import Pattern

TINY = {"batch": 2, "layers": 2, "width": 16, "heads": 2}


@pytest.mark.slow
def test_a_step_learns_and_leaves_the_first_parameters_alone():
    model = Model(12, **TINY)
    take = our_step(model)
    losses = [take() for _ in range(8)]
    assert losses[0] == pytest.approx(np.log(256), rel=0.1) and losses == sorted(losses, reverse=True)
    assert our_step(model)() == losses[0]


def test_torch_has_the_same_model(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(step, "RATE", 0.02)  # steps so large that every difference shows
    monkeypatch.setattr(step, "DECAY", 5.0)
    model = Model(24, Pattern(None, window=24), **TINY)  # all causal pairs on both sides
    ours, theirs = our_step(model), torch_step(model, torch)
    for _ in range(4):  # the later losses tell whether gradients and optimiser agree, too
        assert ours() == pytest.approx(theirs(), rel=3e-6)


@pytest.mark.slow
def test_allocation():
    kept = np.empty(2**20, np.uint8)
    assert 2**20 <= allocation(lambda: np.empty(2**20, np.uint8)) < 2**20 + 20_000
    assert allocation(lambda: kept.fill(1)) < 2_000
    calls = iter([2**20] * 4 + [0])  # three to warm up, one for the tracer
    assert allocation(lambda: np.empty(next(calls), np.uint8)) < 2_000


def test_the_layer_allocates_next_to_nothing():
    assert allocation(layer_pass(300, batch=2, width=32)) < 64 * 1024


@pytest.mark.slow
def test_run_without_torch(monkeypatch):
    monkeypatch.setattr(step, "find_torch", lambda: None)
    monkeypatch.setattr("primeattn.bench.timing.TURN", 0)
    monkeypatch.setattr("primeattn.bench.timing.SETTLE", 0)
    results = step.run(n=[20, 8], threads=[1], budget=0.001)
    assert results["settings"] == {"n": [8, 20], "threads": [1], "budget_s": 0.001, "quick": False}
    assert [row["n"] for row in results["rows"]] == [8, 20]
    for row in results["rows"]:
        assert row["primeattn"]["rounds"] >= 5 and "torch" not in row and "speedup" not in row
        assert row["tokens_per_s"] == pytest.approx(4 * row["n"] / row["primeattn"]["median_s"])
    printed = step.text(results)
    assert "torch is not installed" in printed and printed.splitlines()[2].split()[0].rstrip("!") == "8"


def test_defaults(monkeypatch):
    monkeypatch.setattr(step, "_measure", lambda n, torch, budget: {"budget": budget})
    monkeypatch.setattr(step, "get_num_threads", lambda: 3)
    full, quick = step.run(), step.run(quick=True)
    assert full["settings"] == {"n": [2048, 8192], "threads": [3], "budget_s": 30.0, "quick": False}
    assert quick["settings"] == {"n": [256], "threads": [3], "budget_s": 3.0, "quick": True}
    assert full["model"].count("PrimeSelfAttention") + full["model"].count("SparseIndexAttention") == 3
