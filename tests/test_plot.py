import subprocess
import sys

import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern


def test_mask_colours_each_pair_by_its_rule():
    ax = plot.mask(Pattern("squares", window=1, global_tokens=1), 6)
    expected = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [2, 1, 1, 0, 0, 0],
        [2, 0, 1, 1, 0, 0],
        [2, 0, 0, 1, 1, 0],
        [2, 3, 0, 0, 1, 1],
    ]
    np.testing.assert_array_equal(ax.images[0].get_array(), expected)
    assert [label.get_text() for label in ax.get_legend().get_texts()] == ["window 1", "global 1", "squares"]
    assert ax.get_title() == "16 of 21 causal pairs (76%)"


def test_mask_names_only_the_rules_there_are():
    ax = plot.mask(Pattern(None, window=2), 8)
    assert [label.get_text() for label in ax.get_legend().get_texts()] == ["window 2"]


def test_loss_curve_and_its_mean():
    bits = np.linspace(8, 2, 200)
    ax = plot.loss_curve(bits, levels={"low": 1.5, "high": 2.5})
    raw, mean, high, low = ax.get_lines()
    np.testing.assert_array_equal(raw.get_ydata(), bits)
    np.testing.assert_array_equal(mean.get_xdata(), np.arange(4, 201))
    np.testing.assert_allclose(mean.get_ydata(), [bits[i - 4 : i].mean() for i in range(4, 201)])
    assert set(high.get_ydata()) == {2.5} and set(low.get_ydata()) == {1.5}
    assert [label.get_text() for label in ax.get_legend().get_texts()] == [
        "training",
        "high 2.500",
        "low 1.500",
    ]
    assert ax.get_ylim()[1] == 5.0


@pytest.mark.parametrize("bits", [[], [7.5]])
def test_loss_curve_of_hardly_any_steps(bits):
    assert plot.loss_curve(bits).get_ylabel() == "bits per byte"


def test_axes_are_the_callers_and_nothing_is_shown_or_kept_by_pyplot(tmp_path):
    script = (
        "import sys; from primeattn import plot; from primeattn.patterns import Pattern\n"
        "assert not any(name.startswith('matplotlib') for name in sys.modules)\n"
        "plot.mask(Pattern('primes'), 9).figure.savefig('mask.png')\n"
        "plot.loss_curve([3, 2]).figure.savefig('loss.png')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "mask.png"]

    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert plot.mask(Pattern("primes"), 9, ax=left) is left
    assert plot.loss_curve([3.0, 2.0], ax=right) is right
