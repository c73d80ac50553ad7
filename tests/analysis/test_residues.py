import numpy as np
import pytest

from primeattn.analysis import residue_coverage
from primeattn.patterns import Pattern


@pytest.mark.parametrize("pattern", [Pattern("primes", 3), Pattern("ulam"), Pattern(None, 5)], ids=repr)
@pytest.mark.parametrize("n", [0, 1, 2, 13, 200])
def test_against_counting(pattern, n):
    coverage = residue_coverage(pattern, n, largest=20)
    offsets = set(pattern.offsets(n).tolist()) - {0}
    assert coverage.shape == (21,) and np.isnan(coverage[0])
    for period in range(1, 21):
        multiples = range(period, n, period)
        if len(multiples):
            assert coverage[period] == len(offsets & set(multiples)) / len(multiples)
        else:
            assert np.isnan(coverage[period])


def test_measured_values():
    def coverage(name):
        return residue_coverage(Pattern(name), 4097)

    squares, sidon, primes = coverage("squares"), coverage("mian_chowla"), coverage("primes")
    assert squares[[1, 4, 8, 16]] == pytest.approx([64 / 4096, 1 / 32, 1 / 32, 1 / 16])
    assert primes[1] == 564 / 4096 and primes[2:].max() < 0.015
    composite = [period for period in range(4, 65) if any(period % k == 0 for k in range(2, period))]
    assert (primes[composite] == 0).all()
    assert sidon[1] == 46 / 4096


def test_wythoff_numbers_meet_every_period_evenly():
    coverage = residue_coverage(Pattern("wythoff_lower"), 65536, largest=32)
    assert coverage[1:] == pytest.approx(0.618, abs=0.005)


def test_bad_input():
    with pytest.raises(TypeError, match="pattern: expected a Pattern"):
        residue_coverage("primes", 10)
    with pytest.raises(ValueError, match="largest: expected an integer >= 1, got 0"):
        residue_coverage(Pattern("primes"), 10, largest=0)
