import numpy as np
import pytest

from primeattn import plot


def row(pattern, predicted, mean, half=0.1, **more):
    low, high = (None, None) if half is None else (mean - half, mean + half)
    found = {"task": "mqar()", "pattern": pattern, "layers": 1, "length": 128, "metric": "accuracy"}
    return found | {"predicted": predicted, "mean": mean, "low": low, "high": high, "chance": 0.25} | more


def test_points_bars_and_lines():
    [ax] = plot.ceiling([row("primes", 0.3, 0.4), row("dense", 1.0, 1.0, half=None)])
    theory, guesses = ax.get_lines()[:2]
    np.testing.assert_array_equal(theory.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_array_equal(guesses.get_xydata(), [[0, 0.25], [1, 1]])
    primes, dense = ax.containers
    np.testing.assert_array_equal(primes.lines[0].get_xydata(), [[0.3, 0.4]])
    np.testing.assert_array_equal(dense.lines[0].get_xydata(), [[1, 1]])
    np.testing.assert_allclose(primes.lines[2][0].get_segments()[0], [[0.3, 0.3], [0.3, 0.5]])
    assert primes.has_yerr and not dense.has_yerr
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["theory", "and guesses elsewhere", "primes", "dense"]
    assert ax.get_title() == "mqar, 128 tokens, 1 layer"
    [ax] = plot.ceiling([row("primes", 0.3, 0.4)], guess=0.0625)
    assert ax.get_lines()[1].get_ydata()[0] == 0.0625


def test_what_relays_connect_is_a_line_above():
    rows = [row("primes", 0.3, 0.4, connected=0.9), row("dense", 1.0, 1.0, connected=1.0)]
    [ax] = plot.ceiling(rows)
    lines = [line for line in ax.get_lines() if line.get_marker() == "_" and line.get_markersize() > 10]
    [cap] = lines
    np.testing.assert_array_equal(cap.get_xydata(), [[0.3, 0.9]])
    assert cap.get_color() == ax.containers[0].lines[0].get_color()
    assert "connected by relays" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_patterns_look_different_and_are_named_once():
    rows = [row(str(i), i / 20, i / 20, layers=layers) for layers in (1, 2) for i in range(14)]
    first, second = plot.ceiling(rows)
    lines = [container.lines[0] for container in first.containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 14
    assert first.get_legend() is None and len(second.get_legend().get_texts()) == 16


def test_a_panel_for_each_task_and_depth():
    rows = [
        row("a", 0.1, 0.1),
        row("a", 0.2, 0.2, layers=2),
        row("a", 0.3, 0.3, task="mqar(length=256)", length=256),
    ]
    titles = [ax.get_title() for ax in plot.ceiling(rows)]
    assert titles == ["mqar, 128 tokens, 1 layer", "mqar, 128 tokens, 2 layers", "mqar, 256 tokens, 1 layer"]


def test_what_cannot_be_drawn_is_left_out():
    bad = [row("a", None, 0.1), row("a", 0.1, 0.1) | {"mean": None}, row("a", 0.1, 3.0, metric="bits")]
    with pytest.raises(ValueError, match="rows: expected at least one, got none"):
        plot.ceiling(bad)
    assert len(plot.ceiling([*bad, row("b", 0.1, 0.1)])) == 1


def test_a_task_without_a_theory_by_distance_has_no_lines_above():
    [ax] = plot.ceiling([row("primes", 0.3, 0.4, connected=None)])
    assert "connected by relays" not in [text.get_text() for text in ax.get_legend().get_texts()]
