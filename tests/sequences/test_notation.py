import pytest

from primeattn import Pattern, sequences
from primeattn.sequences import from_array, parse, powers, primes, squares


def test_every_repr_is_read_back():
    others = [
        sequences.matched_random(primes, 3),
        sequences.shift(2 * primes | squares, -1),
        sequences.thin(primes, 0.5, 1),
        sequences.complement(squares),
        sequences.uniform_random(0.25, 7),
        3 * (2 * primes | squares | powers(3)),
        from_array([1, 5, 9]),
        from_array([]),
        2 * from_array([4, 1], known_to=6),
    ]
    for sequence in [*map(sequences.get, sequences.names()), *others]:
        assert parse(repr(sequence)) == sequence
        assert Pattern(repr(sequence), window=2) == Pattern(sequence, window=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  primes\n", primes), ("powers_of_two", powers(2)), ("2*(3*primes)|(squares)", 6 * primes | squares)],
)
def test_other_spellings(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "primes squares", "powers(", "primes | 3", "primes * squares", "2 * 3", "primes & squares",
        "sequences.primes", "primes.count(9)", "powers(*primes)", "powers(base=3)", "__import__('os')()",
        "[1]", "'primes'", "lambda: primes", "(" * 999 + "primes" + ")" * 999,
    ],
)  # fmt: skip
def test_what_is_no_sequence(text):
    with pytest.raises(ValueError, match=r"^sequence: expected such as 'primes', 'powers\(3\)'") as raised:
        parse(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("prymes", ValueError, "sequence: expected one of .*, got 'prymes'"),
        ("2 * prymes", ValueError, "sequence: expected one of .*, got 'prymes'"),
        ("powers(prymes)", ValueError, "sequence: expected one of .*, got 'prymes'"),
        ("exec(3)", ValueError, "sequence: expected one of .*, got 'exec'"),
        ("powers", ValueError, r"expected the parameters of powers\(base\), got none"),
        ("powers(2, 3)", ValueError, r"expected the parameters of powers\(base\), got \(2, 3\)"),
        ("powers(True)", TypeError, "base: expected an integer, got True"),
        ("powers(1)", ValueError, "base: expected an integer >= 2, got 1"),
        ("0 * primes", ValueError, "factor: expected an integer >= 1, got 0"),
        (3, TypeError, "sequence: expected text, got 3"),
    ],
)
def test_errors_say_what_is_wrong(text, error, message):
    with pytest.raises(error, match=message):
        parse(text)
