import numpy as np
import pytest

from primeattn.nn import Normal, TruncatedNormal, glorot_uniform, he_normal, ones, zeros


@pytest.mark.parametrize(
    ("init", "std", "largest"),
    [
        (glorot_uniform, np.sqrt(2 / 500), np.sqrt(6 / 500)),
        (he_normal, np.sqrt(2 / 300), np.inf),
        (Normal(), 0.02, np.inf),
        (Normal(3.0), 3.0, np.inf),
        (TruncatedNormal(0.5), 0.5 * 0.8796, 1.0),
    ],
)
def test_moments(rng, init, std, largest):
    values = init(rng, (300, 200), np.float32)
    assert values.dtype == np.float32 and values.shape == (300, 200)
    assert abs(values.mean()) < 5 * std / np.sqrt(values.size)
    assert values.std() == pytest.approx(std, rel=0.02)
    assert np.abs(values).max() <= largest


def test_constants(rng):
    assert (zeros(rng, (2, 3)) == 0).all() and (ones(rng, 3, np.float64) == 1).all()


def test_they_are_values():
    assert (
        Normal(1) == Normal(std=1.0) != TruncatedNormal(1.0)
        and repr(TruncatedNormal(0.1)) == "TruncatedNormal(std=0.1)"
    )
    with pytest.raises(ValueError, match="Normal: std must be in"):
        Normal(-1)
