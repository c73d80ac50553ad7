import numpy as np
import pytest

from primeattn import plot


def test_loss_curve_and_its_mean():
    bits = np.linspace(8, 2, 200)
    ax = plot.loss_curve(bits, levels={"low": 1.5, "high": 2.5})
    raw, mean, high, low = ax.get_lines()
    np.testing.assert_array_equal(raw.get_ydata(), bits)
    np.testing.assert_array_equal(mean.get_xdata(), np.arange(4, 201))
    np.testing.assert_allclose(mean.get_ydata(), [bits[i - 4 : i].mean() for i in range(4, 201)])
    assert set(high.get_ydata()) == {2.5} and set(low.get_ydata()) == {1.5}
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["training", "high 2.500", "low 1.500"]
    assert ax.get_ylim()[1] == 5.0


@pytest.mark.parametrize("bits", [[], [7.5]])
def test_loss_curve_of_hardly_any_steps(bits):
    assert plot.loss_curve(bits).get_ylabel() == "bits per byte"
