import numpy as np
import pytest
from scipy import stats

from primeattn.study.statistics import interval, verdict


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_is_that_of_the_t_test(n):
    values = np.random.default_rng(n).normal(size=n)
    found = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert (found["n"], found["mean"], found["std"]) == (
        n,
        pytest.approx(values.mean()),
        pytest.approx(values.std(ddof=1)),
    )


def test_too_few_values():
    assert interval([]) == {"n": 0, "mean": None, "std": None, "low": None, "high": None}
    assert interval([0.5]) == {"n": 1, "mean": 0.5, "std": None, "low": None, "high": None}
    for values in ([], [1], [1, 1.01]):
        assert verdict(interval(values)) == "undecided"


def test_the_interval_covers_the_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    cases = [interval(rng.normal(size=3)) for _ in range(4000)]
    assert np.mean([case["low"] < 0 < case["high"] for case in cases]) == pytest.approx(0.95, abs=0.012)


def test_no_difference_at_all_is_undecided():
    assert verdict(interval([0.0, 0.0, 0.0])) == "undecided"
