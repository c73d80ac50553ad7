from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from primeattn.patterns import Pattern
from primeattn.plot.density import block_shares


@settings(max_examples=40, deadline=None)
@given(
    sequence=st.sampled_from(["primes", "squares", None, "stanley"]),
    window=st.integers(0, 9),
    leading=st.integers(0, 70),
    cuts=st.sets(st.integers(1, 59), max_size=8),
)
def test_the_share_of_each_block_is_that_of_the_mask(sequence, window, leading, cuts):
    pattern, edges = Pattern(sequence, window, leading), np.array([0, *sorted(cuts), 60])
    dense, causal = pattern.to_dense(60), np.tri(60, dtype=bool)
    shares = block_shares(pattern, edges)
    for a, rows in enumerate(pairwise(edges)):
        for b, columns in enumerate(pairwise(edges)):
            block = slice(*rows), slice(*columns)
            if b > a:
                assert np.isnan(shares[a, b])
            else:
                assert shares[a, b] == dense[block].sum() / causal[block].sum()
