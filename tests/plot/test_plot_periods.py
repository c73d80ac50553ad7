import numpy as np
import pytest

from primeattn import plot
from primeattn.patterns import Pattern


def test_share_of_multiples_relative_to_all_distances():
    n, largest = 200, 30
    ax = plot.residues([Pattern("primes"), Pattern("stanley")], n, largest)
    lifts = ax.images[0].get_array()
    for row, sequence in enumerate(("primes", "stanley")):
        offsets = set(Pattern(sequence).offsets(n)[1:].tolist())
        for period in range(2, largest + 1):
            multiples = range(period, n, period)
            share = sum(d in offsets for d in multiples) / len(multiples)
            np.testing.assert_allclose(lifts[row, period - 2], share / (len(offsets) / (n - 1)))
    assert ax.images[0].get_extent() == [1.5, 30.5, 1.5, -0.5]
    assert ax.get_xlabel() == "period P of the data (tokens)"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["Primes", "Stanley"]


def test_a_period_has_a_multiple():
    with pytest.raises(ValueError, match="n: expected an integer >= 65, got 64"):
        plot.residues(Pattern("primes"), 64)
