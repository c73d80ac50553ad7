import numpy as np
import pytest

from primeattn import plot

ROW = {"task": "needle()", "by": "distance", "at": [1, 2, 5], "score": [1.0, 0.2, 0.9], "chance": 0.125}


def row(pattern, layers, reached=(True, False, True)):
    return ROW | {"pattern": pattern, "layers": layers, "reached": list(reached)}


def test_points_and_shades():
    [ax] = plot.recall([row("primes", 2)])
    filled, relayed, hollow, chance = ax.get_lines()
    np.testing.assert_array_equal(filled.get_xydata(), [[1, 1.0], [5, 0.9]])
    np.testing.assert_array_equal(hollow.get_xydata(), [[2, 0.2]])
    assert hollow.get_markerfacecolor() == "none" and set(chance.get_ydata()) == {0.125}
    shades = [path.get_extents() for path in ax.collections[0].get_paths()]
    assert [(shade.x0, shade.x1) for shade in shades] == [(0.5, 1.5), (4.5, 5.5)]
    assert ax.get_title() == "primes, 2 layers" and not relayed.get_xdata().size


def test_what_relays_connect_is_shown_apart():
    [ax] = plot.recall([row("primes", 2, reached=(True, False, False)) | {"connected": [True, False, True]}])
    filled, relayed, hollow, _ = (line.get_xydata().tolist() for line in ax.get_lines())
    assert (filled, relayed, hollow[:1]) == ([[1, 1.0]], [[5, 0.9]], [[2, 0.2]])
    near, far = ax.collections
    assert near.get_alpha() > far.get_alpha() and far.get_paths()[0].get_extents().x0 == 4.5


def test_patterns_go_down_and_layers_to_the_right():
    rows = [row("a", 1), row("a", 2), row("b", 1), row("b", 2)]
    axes = plot.recall(rows)
    assert [ax.get_title() for ax in axes] == ["a, 1 layer", "a, 2 layers", "b, 1 layer", "b, 2 layers"]
    assert axes[0].get_gridspec().ncols == 2 and axes[2].get_xlabel() == "distance (tokens)"


def test_tasks_of_one_pattern_share_a_panel():
    tasks = [
        row("a", 1) | {"task": f"copy(96, {d})", "at": [d], "score": [1.0], "reached": [True]} for d in (3, 4)
    ]
    [ax] = plot.recall(tasks)
    assert len(ax.collections) == 4


def test_without_a_theory_there_is_nothing_to_draw():
    for bad in (
        [],
        [row("a", 1) | {"reached": None}],
        [row("a", 1) | {"by": "position"}],
        [row("a", 1) | {"metric": "bits"}],
    ):
        with pytest.raises(
            ValueError, match="rows: expected accuracies by distance, with a theory, got none"
        ):
            plot.recall(bad)
    with pytest.raises(ValueError, match="axes: expected 1 Axes, got 2"):
        plot.recall([row("a", 1)], axes=plot.recall([row("a", 1), row("a", 2)]))
