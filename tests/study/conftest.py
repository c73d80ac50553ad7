import pytest

from primeattn.patterns import Pattern
from primeattn.study import grid
from primeattn.tasks import copy

TINY = {"width": 16, "steps": 6, "batch": 4, "examples": 8}


@pytest.fixture
def runs():
    """Two patterns and two seeds; each run takes a moment."""
    patterns = {"squares": Pattern("squares"), "window": Pattern(None, window=2)}
    return grid([copy(16, distance=4)], patterns, seeds=2, **TINY)
