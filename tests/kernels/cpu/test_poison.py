"""A NaN or an infinity in one row of the input reaches exactly the rows of the outputs that depend on it."""

from functools import lru_cache

import numpy as np
import pytest
from poison import GRADIENTS, check_poison

import primeattn as pa
from primeattn.kernels.cpu import plan


@pytest.mark.parametrize("terms", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "terms"])
@pytest.mark.parametrize(
    "fused", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["one pass", "two passes"]
)
def test_poison_reaches_exactly_what_depends_on_it(fused, terms, monkeypatch):
    monkeypatch.setattr(plan, "fuses", lambda *_: fused)
    for block in (8, 24, 128):
        monkeypatch.setattr(plan, "fused_block_rows", lambda n, block=block: block)
        monkeypatch.setattr(plan, "block_rows", lambda n, *_, block=block: block)
        monkeypatch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
        for seed in range(150):
            check_poison(1000 * block + seed, terms=terms)


def test_a_poisoned_query_among_global_keys_reaches_no_key_behind_it():
    """Eight key heads, so that the backward is one pass by itself."""
    pattern = pa.Pattern(None, window=2, global_tokens=8)
    q, k, v, dout = np.random.default_rng(0).standard_normal((4, 1, 8, 8, 4), dtype=np.float32)
    q[0, :, 4] = np.nan
    out, lse = pa.attention(q, k, v, pattern)
    grads = pa.sparse_index_kernel_backward(*map(np.empty_like, (q, k, v)), dout, q, k, v, out, lse, pattern)
    for name, gradient in zip(GRADIENTS, grads, strict=True):
        rows = np.isnan(gradient).any((0, 1, 3))
        np.testing.assert_array_equal(rows, np.arange(8) == 4 if name == "dq" else np.arange(8) <= 4)
