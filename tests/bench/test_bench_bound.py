"""The benchmark of calls over their own inner loops."""

import json

import numpy as np
import pytest

from primeattn import bench
from primeattn.bench import bound


def test_how_often_a_pair_goes_through_each_loop():
    assert bound.products(bound.FORWARD, True) == {"dot": 1, "axpy": 1, "softmax": 1}
    one, two = (bound.products(bound.BACKWARD, fused) for fused in (True, False))
    assert one == {"dot": 3, "axpy": 4, "softmax": 1, "exp": 1}  # two products forward, five backward
    assert two == {"dot": 5, "axpy": 4, "softmax": 1, "exp": 2}  # two and seven


@pytest.mark.slow  # compiles
def test_command(tmp_path, capsys):
    words = ["bound", "--n", "200", "--heads", "2", "--sequences", "primes", "--budget", "0.1"]
    assert bench.main([*words, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "1x2x200x64" in printed and "over the bound" in printed
    assert (tmp_path / "bound.png").stat().st_size > 5000
    rows = json.loads((tmp_path / "data" / "bound.json").read_text())["rows"]
    assert [row["pass"] for row in rows] == [bound.FORWARD, bound.BACKWARD]
    for row in rows:
        counts = bound.products(row["pass"], row["fused"])
        assert np.isclose(
            row["bound_ns"], sum(row["micro_ns"][name] * count for name, count in counts.items())
        )
        assert row["ratio"] > 1 and np.isclose(row["ratio"], row["ns_per_pair"] / row["bound_ns"])
