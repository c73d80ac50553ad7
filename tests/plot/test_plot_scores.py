import numpy as np
import pytest

from primeattn import plot


def row(pattern, mean, half=0.5, **more):
    found = {
        "task": "text()",
        "pattern": pattern,
        "layers": 2,
        "length": 256,
        "metric": "bits",
        "pairs": 12345,
    }
    return found | {"mean": mean, "low": mean - half, "high": mean + half} | more


@pytest.mark.parametrize(("metric", "order"), [("bits", ["b", "c", "a"]), ("accuracy", ["a", "c", "b"])])
def test_the_best_is_on_top(metric, order):
    rows = [
        row("a", 1.0, metric=metric),
        row("b", 3.0, metric=metric),
        row("c", 2.0, low=None, high=None, metric=metric),
    ]
    [ax] = plot.scores(rows)
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"{name}\n12,345 pairs" for name in order]
    *bars, points = ax.get_lines()
    means = {"a": 1.0, "b": 3.0, "c": 2.0}
    np.testing.assert_array_equal(points.get_xydata(), [[means[name], i] for i, name in enumerate(order)])
    heights = {name: i for i, name in enumerate(order)}
    assert sorted((bar.get_xdata().tolist(), bar.get_ydata()[0]) for bar in bars) == [
        ([0.5, 1.5], heights["a"]),
        ([2.5, 3.5], heights["b"]),
    ]
    assert ax.get_xlabel() == ("bits per byte (test)" if metric == "bits" else "accuracy (test)")


def test_failed_patterns_are_left_out():
    [ax] = plot.scores([row("a", 1.0), row("b", 1.0) | {"mean": None}])
    assert len(ax.get_yticklabels()) == 1
    with pytest.raises(ValueError, match="rows: expected at least one, got none"):
        plot.scores([row("b", 1.0) | {"mean": None}])
