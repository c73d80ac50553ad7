import pytest

from primeattn.patterns import Pattern
from primeattn.plot.labels import labelled, name

PRIMES = Pattern("primes", window=3)


def test_labels_tell_patterns_apart():
    patterns = [PRIMES, Pattern("primes", window=5, global_tokens=2), Pattern(None, window=9)]
    assert [label for label, _ in labelled(patterns)] == [
        "Primes, W = 3, G = 0",
        "Primes, W = 5, G = 2",
        "Window 9, G = 0",
    ]
    assert [label for label, _ in labelled([PRIMES, Pattern("squares", window=3)])] == ["Primes", "Squares"]
    assert labelled(PRIMES) == labelled([PRIMES]) == [("Primes", PRIMES)]
    assert labelled({7: PRIMES}) == [("7", PRIMES)]


def test_long_names_are_cut():
    assert name(Pattern(range(100, 140))) == "from_array([100, 101, 102, 103,…"


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("primes", TypeError, "patterns: expected a Pattern or several, got 'primes'"),
        (3, TypeError, "patterns: expected a Pattern or several, got 3"),
        ([], ValueError, "patterns: expected at least one, got none"),
        ([PRIMES, "squares"], TypeError, "pattern: expected a Pattern, got 'squares'"),
    ],
)
def test_bad_patterns(patterns, error, message):
    with pytest.raises(error, match=message):
        labelled(patterns)
