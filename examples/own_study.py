"""
A study of your own
===================

A study with a task and a pattern of your own: parities of the tokens 5 and 12 before each, in 15 seconds.

``python examples/own_study.py [OUTPUT]``

.. image:: ../../figures/own_study.png
   :alt: Accuracy of three patterns on the parity of two earlier tokens
"""

# sphinx_gallery_thumbnail_path = "../figures/own_study.png"

from dataclasses import dataclass
from tempfile import TemporaryDirectory

import numpy as np
from _save import save

import primeattn as pa
from primeattn.typing import Array


@dataclass(frozen=True, repr=False)
class parity(pa.tasks.Task):
    length, vocab, chance = 48, 2, 0.5

    def draw(self, rng: np.random.Generator, batch: int) -> tuple[Array, Array]:
        bits = rng.integers(2, size=(batch, self.length + 12))
        return bits[:, 12:], bits[:, 7:-5] ^ bits[:, :-12]


patterns = {"5, 12": pa.Pattern([5, 12]), "primes": pa.Pattern("primes"), "window": pa.Pattern(None, 12)}
runs = pa.study.grid([parity()], patterns, lrs=(1e-2,), seeds=3, steps=300, width=32, examples=256)
with TemporaryDirectory() as out:  # take a folder that stays, and a study that was stopped goes on
    save(pa.plot.scores(pa.study.summary(pa.study.run(runs, out=out)))[0].figure, "own_study")
