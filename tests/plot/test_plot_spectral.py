import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern


def test_eigenvalues_of_chain_and_of_complete_graph():
    ax = plot.spectrum({"chain": Pattern(None, window=1), "complete": Pattern(None, window=3)}, 3)
    chain, complete = (patch.get_data() for patch in ax.patches)
    assert np.flatnonzero(chain.values).tolist() == [0, 50, 100]  # 0, 1 and 2
    assert np.flatnonzero(complete.values).tolist() == [0, 75]  # 0 and, twice, 3/2
    assert complete.values.sum() == 3
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["chain: gap 1.000, largest 2.000", "complete: gap 1.500, largest 1.500"]


def test_too_many_tokens():
    with pytest.raises(ValueError, match="n: expected at most 4096"):
        plot.spectrum(Pattern("primes"), 4097)
