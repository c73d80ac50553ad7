import time
from itertools import combinations_with_replacement

import numpy as np

from primeattn.sequences import mian_chowla, ulam


def test_mian_chowla_to_a_million_in_seconds(fresh):
    sequence, begin = fresh(mian_chowla), time.perf_counter()
    terms = sequence(10**6)
    assert time.perf_counter() - begin < 3
    sums = [a + b for a, b in combinations_with_replacement(terms.tolist(), 2)]
    assert len(terms) == 381 and len(sums) == len(set(sums))  # the Sidon property


def test_mian_chowla_sums_and_differences_up_to_4096():
    terms = mian_chowla(4096)
    sums = terms[:, None] + terms
    assert len(terms) == 46 and len(np.unique(sums[np.triu_indices(46)])) == 1081
    assert len(np.unique(terms[:, None] - terms)) == 2 * 1035 + 1


def test_ulam_numbers_have_exactly_one_sum(fresh):
    """Up to 30000: ways[n] counts all pairs of different terms, those of sums beyond the next term, too."""
    terms = fresh(ulam)(30_000)
    ways = np.zeros(60_001, int)
    for i, a in enumerate(terms.tolist()):
        ways[a + terms[i + 1 :]] += 1
    is_term = np.zeros(30_001, bool)
    is_term[terms] = True
    np.testing.assert_array_equal(is_term[3:], ways[3:30_001] == 1)


def test_ulam_numbers_to_a_million_in_seconds(fresh):
    sequence, begin = fresh(ulam), time.perf_counter()
    assert [fresh(ulam).count(10**k) for k in range(1, 5)] == [6, 26, 125, 827]
    assert sequence.count(10**6) == 74084 and sequence.count(10**5) == 7584
    assert time.perf_counter() - begin < 10
