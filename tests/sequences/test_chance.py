import numpy as np
import pytest

from primeattn.sequences.chance import _mix, random_bits, uniform


def test_published_splitmix64():
    """The first outputs of SplitMix64 seeded with 1234567, as at rosettacode.org."""
    states = [1234567 + k * 0x9E3779B97F4A7C15 & 2**64 - 1 for k in (1, 2, 3)]
    assert _mix(np.array(states, np.uint64)).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_every_part_of_the_key_counts():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (2**64 - 1, 0), (1, 2, 3), (3, 2, 1)]
    drawn = {tuple(random_bits(np.arange(4), *key).tolist()) for key in keys}
    assert len(drawn) == len(keys)


def test_a_number_depends_on_its_value_alone():
    values = np.array([5, 3, 2**62, 5])
    numbers = uniform(values, 1, 2)
    assert numbers[0] == numbers[3] and numbers[1:2] == uniform(values[1:2], 1, 2)
    assert numbers.dtype == np.float64 and (numbers >= 0).all() and (numbers < 1).all()


def test_uniform():
    numbers = uniform(np.arange(10**5), 0)
    assert np.histogram(numbers, 20, (0, 1))[0] == pytest.approx(5000, rel=0.06)
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02
