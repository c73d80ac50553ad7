import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern


def test_shares_and_the_most_for_as_many_offsets():
    ax = plot.reach([Pattern("squares", window=3), Pattern("mian_chowla", window=3)], 4097, layers=3)
    squares, bound, mian_chowla, _, _ = ax.get_lines()
    np.testing.assert_allclose(squares.get_ydata(), [0.0161, 0.3196, 0.9543], atol=5e-5)
    np.testing.assert_allclose(mian_chowla.get_ydata(), [0.0115, 0.2412, 0.9917], atol=5e-5)
    k = 66  # 64 squares, 2 and 3
    np.testing.assert_allclose(bound.get_ydata(), [k / 4096, (k + 2) * (k + 1) / 2 / 4096 - 1 / 4096, 1])
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["Squares", "Mian-Chowla", "most for as many offsets"]
    assert ax.get_ylabel() == "share of distances below 4,097 connected"


def test_bad_layers():
    with pytest.raises(ValueError, match="layers: expected an integer >= 1, got 0"):
        plot.reach(Pattern("primes"), 100, layers=0)
