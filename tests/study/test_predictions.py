import json

import pytest

from primeattn.study import check, protocol, protocol_runs
from primeattn.study.predictions import predictions, write_predictions


def test_a_row_for_each_task_pattern_and_depth():
    made = protocol("needle", quick=True, patterns=["random as primes", "squares"], layers=[1, 2], seeds=3)
    runs = protocol_runs(made)
    rows = predictions(runs)
    assert [(row["pattern"], row["layers"]) for row in rows] == [
        ("random as primes", 1), ("random as primes", 2), ("squares", 1), ("squares", 2)
    ]  # fmt: skip
    draws = [check(run) for run in runs if run["pattern"].startswith("random") and len(run["stack"]) == 2]
    shares = [run.task.predict(run.stack) for run in draws]
    assert rows[1]["predicted"] == pytest.approx(sum(shares) / 3) and len(set(shares)) > 1
    assert predictions(protocol_runs(protocol("text", quick=True, seeds=1)))[0]["predicted"] is None


def test_they_are_written_once_and_never_changed(tmp_path):
    path = tmp_path / "out" / "predictions.json"
    made = protocol("needle", quick=True)
    write_predictions(path, made, protocol_runs(made))
    before = path.read_bytes()
    assert json.loads(before)["protocol"] == made
    write_predictions(path, made, protocol_runs(made))
    other = protocol("needle", quick=True, seeds=5)
    with pytest.raises(
        ValueError, match="is of another study or other options, such as seeds; take another folder"
    ):
        write_predictions(path, other, protocol_runs(other))
    assert path.read_bytes() == before
    path.write_bytes(b"\xff\x00")
    with pytest.raises(ValueError, match="is of another study or other options"):
        write_predictions(path, made, protocol_runs(made))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="out: expected a folder, got the file"):
        write_predictions(tmp_path / "file" / "predictions.json", made, protocol_runs(made))
