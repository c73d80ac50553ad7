import numpy as np

from primeattn.tasks import IGNORED, copy


def test_every_token_comes_again():
    tokens, targets = copy(length=10, distance=4).draw(np.random.default_rng(0), 20)
    for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
        assert target == [IGNORED] * 4 + row[:6]
