from itertools import pairwise

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from primeattn.analysis import Explanation, attention_map, explain, rule_mass
from primeattn.analysis.rules import first_rule
from primeattn.nn import SparseIndexAttention, setup
from primeattn.patterns import Pattern
from primeattn.sequences import from_array

PATTERNS = [
    Pattern("primes", window=3, global_tokens=2),
    Pattern("squares"),
    Pattern("mian_chowla", window=1, global_tokens=5),
    Pattern(None, window=4),
    Pattern(None),
    Pattern([3, 7, 11], global_tokens=1),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_every_pair(pattern):
    n = 40
    mask = pattern.to_dense(n)
    terms = [] if pattern.sequence is None else pattern.sequence(n).tolist()
    for i in range(n):
        for j in range(n):
            found = explain(pattern, i, j)
            expected = []
            if j <= i:
                expected += ["window"] * (i - j <= pattern.window)
                expected += ["global tokens"] * (j < pattern.global_tokens)
                expected += ["sequence"] * (i - j in terms)
            assert found.admitted_by == tuple(expected) and bool(found) is bool(mask[i, j])
            assert (found.pattern, found.query, found.key) == (pattern, i, j)
            if expected:
                assert expected[0] == ("window", "global tokens", "sequence")[first_rule(pattern, i, j)]


@pytest.mark.parametrize(
    ("pattern", "i", "j", "text"),
    [
        (PATTERNS[0], 5, 9, "query 5 does not attend key 9, which comes later"),
        (
            PATTERNS[0],
            3,
            1,
            "query 3 attends key 1: distance 2 is within the window 3, key 1 is one of 2 global tokens, "
            "distance 2 is in primes",
        ),
        (PATTERNS[1], 9, 0, "query 9 attends key 0: distance 9 is in squares"),
        (PATTERNS[1], 4, 4, "query 4 attends key 4: distance 0 is within the window 0"),
        (
            PATTERNS[1],
            9,
            1,
            "query 9 does not attend key 1: distance 8 is beyond the window 0, "
            "key 1 is none of 0 global tokens, distance 8 is not in squares",
        ),
        (
            PATTERNS[3],
            9,
            1,
            "query 9 does not attend key 1: distance 8 is beyond the window 4, "
            "key 1 is none of 0 global tokens",
        ),
    ],
)
def test_sentences(pattern, i, j, text):
    assert str(explain(pattern, i, j)) == text


def test_far_pairs_need_no_mask():
    assert explain(Pattern("squares"), 10**12 + 5, 5).admitted_by == ("sequence",)
    assert isinstance(explain(Pattern("powers_of_two"), 2**60, 1), Explanation)


def test_explain_refuses():
    with pytest.raises(TypeError, match="pattern: expected a Pattern, got 'primes'"):
        explain("primes", 1, 0)
    with pytest.raises(ValueError, match="j: expected an integer >= 0, got -1"):
        explain(PATTERNS[0], 1, -1)
    with pytest.raises(TypeError, match=r"i: expected an integer, got 1\.0"):
        explain(PATTERNS[0], 1.0, 0)
    with pytest.raises(ValueError, match="expected at most 5"):
        explain(Pattern(from_array([1, 5], known_to=5)), 9, 0)


def expected_mass(p, pattern, boundaries):
    """By the sentence of the docstring, pair by pair."""
    mass = {name: np.zeros(len(p)) for name in ("window", "global tokens", "sequence")}
    for start, stop in pairwise(boundaries):
        for i in range(start, stop):
            for j in range(start, i + 1):
                if rules := explain(pattern, i - start, j - start).admitted_by:
                    mass[rules[0]][i] += p[i, j]
    return mass


@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
@pytest.mark.parametrize("boundaries", [None, [0, 13, 13, 14, 40]])
def test_mass_of_attention(pattern, boundaries, rng):
    layer = SparseIndexAttention(8, pattern, heads=2)
    ps, st = setup(rng, layer, np.float64)
    st["cu_seqlens"] = None if boundaries is None else np.array(boundaries)
    p = attention_map(layer, 3 * rng.standard_normal((40, 8)), ps, st, 1)
    mass = rule_mass(p, pattern, cu_seqlens=boundaries)
    expected = expected_mass(p.toarray(), pattern, boundaries or [0, 40])
    assert list(mass) == ["window", "global tokens", "sequence"]
    for name in mass:
        np.testing.assert_allclose(mass[name], expected[name], atol=1e-14)
    np.testing.assert_allclose(sum(mass.values()), 1, rtol=1e-13)


def test_mass_refuses():
    p = csr_matrix(np.tri(12) / 12)
    for pattern in PATTERNS[:2]:
        with pytest.raises(ValueError, match=r"expected pairs of Pattern.*, got query"):
            rule_mass(p, pattern)
    with pytest.raises(ValueError, match=r"expected pairs of Pattern\(None, window=99\), got query 0, key 1"):
        rule_mass(csr_matrix(np.ones((2, 2)) / 2), Pattern(None, window=99))
    everything = Pattern(None, window=99, global_tokens=99)
    with pytest.raises(ValueError, match="got query 0, key -6"):
        rule_mass(p, everything, cu_seqlens=[0, 6, 12])
    with pytest.raises(ValueError, match="cu_seqlens: expected to run from 0 to 12"):
        rule_mass(p, everything, cu_seqlens=[0, 6])
    with pytest.raises(TypeError, match="pattern: expected a Pattern"):
        rule_mass(p, "primes")
    with pytest.raises(TypeError, match="probabilities: expected a sparse matrix"):
        rule_mass(p.toarray(), everything)
