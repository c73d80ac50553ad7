import numpy as np

from primeattn.tasks import IGNORED, needle


def test_one_value_in_noise_and_a_question():
    task = needle(length=12, values=3, noise=4)
    tokens, targets = task.draw(np.random.default_rng(0), 500)
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        values = [token for token in row if token > 4]
        assert len(values) == 1 and row[-1] == 0 and row.count(0) == 1
        assert target == [IGNORED] * 11 + values


def test_every_distance_is_as_likely():
    tokens, targets = needle(length=12).draw(np.random.default_rng(0), 22000)
    distances = 11 - needle(length=12).answers(tokens, targets)[:, -1]
    counts = np.bincount(distances, minlength=12)
    assert counts[0] == 0 and (abs(counts[1:] - 2000) < 5 * np.sqrt(2000)).all()
