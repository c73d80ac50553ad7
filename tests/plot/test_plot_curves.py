import numpy as np
import pytest

from primeattn import plot
from primeattn.plot.panels import line_styles

ROW = {"task": "text()", "layers": 1, "length": 4, "by": "position", "metric": "bits"}


def curve(pattern, losses, **more):
    return ROW | {"pattern": pattern, "steps": [5, 10], "losses": losses} | more


def place(pattern, score, **more):
    return ROW | {"pattern": pattern, "at": [0, 1, 2, 3], "score": score} | more


def test_learning_curves():
    rows = [curve("a", [2, 1]), curve("b", [3, 2]), curve("a", [4, 3], layers=2)]
    first, second = plot.learning_curves(iter(rows))
    np.testing.assert_array_equal(first.get_lines()[1].get_xydata(), [[5, 3], [10, 2]])
    assert first.get_lines()[0].get_color() == second.get_lines()[0].get_color()
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "b"]
    assert second.get_legend() is None and second.get_title() == "text, 4 tokens, 2 layers"


def test_by_position():
    rows = [place("a", [4.0, 2.0, 1.0, 1.0]), place("b", [1.0] * 4), place("a", [9.0] * 4, by="distance")]
    [ax] = plot.by_position(rows, parts=2)
    np.testing.assert_array_equal(ax.get_lines()[0].get_xydata(), [[0.5, 3.0], [2.5, 1.0]])
    [ax] = plot.by_position(rows, parts=100, against="b")
    a, b = ax.get_lines()
    np.testing.assert_array_equal(a.get_ydata(), [3.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(b.get_ydata(), np.zeros(4))
    assert ax.get_ylabel() == "bits per byte (test)\nless that of b"


def test_errors():
    with pytest.raises(ValueError, match="against: expected one of a, got 'c'"):
        plot.by_position([place("a", [1.0] * 4)], against="c")
    with pytest.raises(ValueError, match="parts: expected an integer >= 1, got 0"):
        plot.by_position([place("a", [1.0] * 4)], parts=0)
    for draw in (plot.by_position, plot.learning_curves):
        with pytest.raises(ValueError, match="rows: expected at least one, got none"):
            draw([])


def test_fourteen_patterns_look_different():
    styles = line_styles([{"pattern": str(i)} for i in range(14)])
    assert len({tuple(style.values()) for style in styles.values()}) == 14
