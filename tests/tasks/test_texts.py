from pathlib import Path

import numpy as np
import pytest

from primeattn.data import load_corpus
from primeattn.tasks import text


@pytest.fixture
def path(tmp_path):
    """A text in which every window tells where it is."""
    file = tmp_path / "text"
    file.write_bytes(b"".join(b"%04d" % i for i in range(500)))
    return str(file)


def test_windows_lie_in_their_part_and_targets_are_one_ahead(path):
    corpus = load_corpus(path)
    parts = {"train": corpus.train, "validation": corpus.heldout[:100], "test": corpus.heldout[100:]}
    for name, part in parts.items():
        tokens, targets = text(length=12, path=path).part(name).draw(np.random.default_rng(0), 200)
        for row, target in zip(tokens, targets, strict=True):
            place = bytes(part).find(bytes(row.astype(np.uint8).tolist()))
            assert place >= 0 and np.array_equal(part[place + 1 : place + 13], target)
    assert b"".join(map(bytes, parts.values())) == Path(path).read_bytes()  # contiguous, in order


def test_windows_start_anywhere(path):
    tokens, _ = text(length=95, path=path, data="test").draw(np.random.default_rng(0), 300)
    starts = {bytes(row.astype(np.uint8).tolist()) for row in tokens}
    assert len(starts) == 5  # of 100 bytes, 96 are seen


def test_the_digest_is_that_of_the_text(path):
    assert text(path=path).digest == load_corpus(path).sha256 != text().digest
