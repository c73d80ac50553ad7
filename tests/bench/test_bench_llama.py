import json
import sys

import pytest

from primeattn import bench
from primeattn.bench import llama
from primeattn.patterns import Pattern

TINY = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"num_key_value_heads": 2}


def test_both_train_the_same_model():
    pytest.importorskip("transformers")
    steps = llama.steps(20, Pattern(None, window=20), **TINY)  # all causal pairs on both sides
    losses = {name: [step() for _ in range(4)] for name, step in steps.items()}
    assert losses["primeattn"] == pytest.approx(losses["sdpa"], rel=1e-5)
    assert losses["sdpa"] == sorted(losses["sdpa"], reverse=True)
    other = llama.steps(20, Pattern(None, window=1), **TINY)["primeattn"]
    assert other() != pytest.approx(losses["sdpa"][0], rel=1e-5)


def test_it_prints_and_writes_its_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(llama, "steps", lambda n: {"primeattn": lambda: n, "sdpa": lambda: sum(range(999))})
    pytest.importorskip("torch")
    options = ["--n", "64", "--threads", "1", "--budget", "0.1", "--out", str(tmp_path)]
    assert bench.main(["llama", *options]) == 0
    [row] = json.loads((tmp_path / "data" / "llama.json").read_text())["rows"]
    assert row["speedup"] > 2 and row["n"] == 64
    assert "training step of a Llama" in capsys.readouterr().out


def test_without_transformers_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "primeattn.transformers", raising=False)
    assert bench.main(["llama", "--quick", "--out", str(tmp_path)]) == 2
    assert "pip install 'primeattn[transformers]'" in capsys.readouterr().err
