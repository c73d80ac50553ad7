import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from primeattn import plot
from primeattn.nn import PrimeSelfAttention, setup
from primeattn.patterns import Pattern

PRIMES = Pattern("primes", window=3)
UNIFORM = PRIMES.to_csr(16) / 16
LEARNED = PrimeSelfAttention(8, heads=2, offset_bias=9)
LEARNED_PS, _ = setup(np.random.default_rng(0), LEARNED)
ONE = {
    "attention_map": (UNIFORM, PRIMES),
    "hops": (PRIMES, 16),
    "loss_curve": ([3.0, 2.0],),
    "mask": (PRIMES, 16),
    "offset_bias": (LEARNED, LEARNED_PS),
    "pairs": (PRIMES, [16, 32]),
    "pareto": (PRIMES, 16),
    "reach": (PRIMES, 16),
    "residues": (PRIMES, 16, 4),
    "spectrum": (PRIMES, 16),
    "two_hop_paths": (PRIMES, 16),
}
SEVERAL = {"heads": ([UNIFORM] * 2, PRIMES), "masks": ([PRIMES] * 2, 16), "wheel": (PRIMES, 16, 2)}
ROW = {"task": "needle()", "pattern": "primes", "length": 3, "chance": 0.1, "metric": "accuracy", "pairs": 6}
ROW |= {"mean": 0.5, "low": 0.4, "high": 0.6, "predicted": 0.5, "steps": [1, 2], "losses": [2.0, 1.0]}
PLACES = {"at": [1, 2], "score": [1.0, 0.1], "reached": [True, False]}
OF_STUDIES = {
    "by_position": ROW | PLACES | {"by": "position"},
    "ceiling": ROW,
    "learning_curves": ROW,
    "recall": ROW | PLACES | {"by": "distance"},
    "scores": ROW,
}


def test_every_picture_is_listed_here():
    assert sorted([*ONE, *SEVERAL, *OF_STUDIES, "save"]) == plot.__all__


@pytest.mark.parametrize("name", ONE)
def test_pictures_are_drawn_on_the_axes_given(name):
    left, _ = Figure().subplots(1, 2)
    assert getattr(plot, name)(*ONE[name], ax=left) is left
    own = getattr(plot, name)(*ONE[name])
    assert own.figure is not left.figure and own.figure.axes[0] is own
    with pytest.raises(TypeError, match="ax: expected matplotlib Axes, got 3"):
        getattr(plot, name)(*ONE[name], ax=3)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_pictures_are_drawn_on_the_axes_given(name):
    axes = Figure().subplots(2, 1)
    drawn = getattr(plot, name)(*SEVERAL[name], axes=axes)
    assert drawn.tolist() == axes.tolist()
    assert all(ax.images and ax.get_xlabel() for ax in axes)  # the caller's axes keep their labels
    assert getattr(plot, name)(*SEVERAL[name]).shape == (2,)
    with pytest.raises(ValueError, match="axes: expected 2 Axes, got 1"):
        getattr(plot, name)(*SEVERAL[name], axes=axes[:1])
    with pytest.raises(TypeError, match="axes: expected matplotlib Axes, got 3"):
        getattr(plot, name)(*SEVERAL[name], axes=[3, 4])


@pytest.mark.parametrize("name", OF_STUDIES)
def test_pictures_of_studies_are_drawn_on_the_axes_given(name):
    rows = [OF_STUDIES[name] | {"layers": layers} for layers in (1, 2)]
    axes = Figure().subplots(1, 2)
    drawn = getattr(plot, name)(rows, axes=axes)
    assert drawn.tolist() == axes.tolist() and all(ax.lines and ax.get_xlabel() for ax in axes)
    assert getattr(plot, name)(rows).shape == (2,)
    with pytest.raises(ValueError, match="axes: expected 2 Axes, got 1"):
        getattr(plot, name)(rows, axes=axes[:1])
    with pytest.raises(TypeError, match="axes: expected matplotlib Axes, got 3"):
        getattr(plot, name)(rows, axes=[3, 4])


def test_a_grid_has_labels_on_its_outside():
    axes = plot.masks([PRIMES] * 6, 8)  # 4 columns, the second row holds 2
    assert [bool(ax.get_ylabel()) for ax in axes] == [True, False, False, False, True, False]
    assert [bool(ax.get_xlabel()) for ax in axes] == [False, False, True, True, True, True]
    assert len(axes[0].figure.axes) == 6


def test_nothing_is_imported_before_it_is_needed_or_known_to_pyplot(tmp_path):
    script = (
        "import sys; from primeattn import plot; from primeattn.patterns import Pattern\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "plot.mask(Pattern('primes'), 9).figure.savefig('mask.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]
