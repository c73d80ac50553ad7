import numpy as np

from primeattn.tasks import IGNORED, induction


def test_the_last_token_was_there_once_before():
    task = induction(length=12, symbols=4)
    tokens, targets = task.draw(np.random.default_rng(0), 500)
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert row.count(row[-1]) == 2
        assert target == [IGNORED] * 11 + [row[row.index(row[-1]) + 1]]


def test_every_distance_is_as_likely():
    tokens, targets = induction(length=12).draw(np.random.default_rng(0), 20000)
    counts = np.bincount(11 - induction(length=12).answers(tokens, targets)[:, -1], minlength=12)
    assert counts[0] == counts[11] == 0 and (abs(counts[1:11] - 2000) < 5 * np.sqrt(2000)).all()
