"""What a model is to learn: generated sequences, text and images, each with its chance level and its theory.

>>> import numpy as np, primeattn as pa
>>> task = pa.tasks.needle(length=64)
>>> tokens, targets = task.draw(np.random.default_rng(0), batch=2)
>>> tokens.shape, int((targets != pa.tasks.IGNORED).sum())  # one question in each sequence
((2, 64), 2)
>>> stack = [pa.Pattern("primes", window=3)] * 2
>>> task.chance, round(task.predict(stack), 3)
(0.125, 0.937)

``needle`` and ``copy`` ask for something that a relay can pass on, so that layers reach as far as their hops.
``mqar`` and ``induction`` name what they ask for only afterwards, which no relay can know: theory expects
what one layer connects, though relays of ``mqar`` learn to carry many pairs. A task of your own derives from
``Task``.
"""

from primeattn.tasks.associations import mqar
from primeattn.tasks.copies import copy
from primeattn.tasks.inductions import induction
from primeattn.tasks.needles import needle
from primeattn.tasks.pictures import pixels
from primeattn.tasks.task import IGNORED, Task, from_json
from primeattn.tasks.texts import text

__all__ = ["IGNORED", "Task", "copy", "from_json", "induction", "mqar", "needle", "pixels", "text"]
