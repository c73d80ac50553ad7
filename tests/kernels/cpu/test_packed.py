"""Packed sequences of any lengths: right, and in memory and time that follow the rows."""

import itertools
import tracemalloc

import numpy as np
import pytest

import primeattn as pa

PATTERN = pa.Pattern("primes", window=3, global_tokens=2)
SQUARES = pa.Pattern("squares", window=1)
LENGTHS = {
    "ones and a long one": [1] * 2048 + [2048],
    "a long one and fours": [16384] + [4] * 4096,
    "random": np.random.default_rng(0).integers(0, 40, 10_000).tolist(),
    "two kinds": [512, 65] * 30,
}


def arrays(n, heads, kv_heads, d=16, seed=0):
    rng = np.random.default_rng(seed)
    q, dout = rng.standard_normal((2, 1, heads, n, d), dtype=np.float32)
    k, v = rng.standard_normal((2, 1, kv_heads, n, d), dtype=np.float32)
    return q, k, v, dout


def both_ways(q, k, v, dout, pattern, **options):
    out, lse = pa.attention(q, k, v, pattern, **options)
    gradients = [np.empty_like(a) for a in (q, k, v)]
    pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, out, lse, pattern, **options)
    return out, lse, *gradients


@pytest.mark.slow
@pytest.mark.parametrize("pattern", [PATTERN, SQUARES], ids=["primes", "squares"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_memory_is_at_most_three_times_that_of_the_arrays(lengths, pattern):
    q, k, v, dout = arrays(sum(lengths), heads=2, kv_heads=2)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    out, lse = np.empty_like(q), np.empty(q.shape[:3], np.float32)
    gradients = [np.empty_like(a) for a in (q, k, v)]

    def peak(call, *call_arguments):
        call(*call_arguments, pattern, cu_seqlens=ends)  # brings the compiled code into memory
        tracemalloc.start()
        call(*call_arguments, pattern, cu_seqlens=ends)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / (2 * q.nbytes + 2 * k.nbytes)

    assert peak(pa.sparse_index_kernel, out, lse, q, k, v) <= 3
    assert peak(pa.sparse_index_kernel_backward, *gradients, dout, q, k, v, out, lse) <= 3


@pytest.mark.parametrize("heads", [(2, 2), (8, 2), (1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_each_sequence_is_as_if_alone(heads, seed):
    """Of all lengths in one call, in scratch memory full of NaN, with a NaN that stays in its sequence."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([rng.integers(0, 9, 20), rng.integers(0, 70, 8), rng.integers(65, 700, 4)])
    rng.shuffle(lengths)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    pattern = pa.Pattern(("primes", "squares")[seed % 2], window=seed, global_tokens=(0, 3, 1, 80)[seed])
    q, k, v, dout = arrays(ends[-1], *heads, seed=seed)
    q[:, :, rng.integers(ends[-1])] = k[:, :, rng.integers(ends[-1])] = v[:, :, rng.integers(ends[-1])] = (
        np.nan
    )
    workspace = pa.Workspace()
    both_ways(q, k, v, dout, pattern, cu_seqlens=ends, workspace=workspace)
    workspace.scratch("kernels", 0)[:] = 0xFF
    together = both_ways(q, k, v, dout, pattern, cu_seqlens=ends, workspace=workspace)
    for begin, end in itertools.pairwise(ends):
        part = [a[:, :, begin:end] for a in (q, k, v, dout)]
        shown = 2 if any(np.isnan(a).any() for a in part) else 5
        for found, alone in zip(together[:shown], both_ways(*part, pattern), strict=False):
            np.testing.assert_allclose(found[:, :, begin:end], alone, rtol=1e-4, atol=1e-4)


def test_results_do_not_depend_on_the_number_of_threads():
    lengths = [300, 1, 2, 64, 65, 1500, 4, 4, 4] * 4
    ends = np.concatenate([[0], np.cumsum(lengths)])
    given = arrays(ends[-1], 4, 2, d=32)
    before, results = pa.get_num_threads(), []
    try:
        for threads in (1, 2, 7):
            pa.set_num_threads(threads)
            results.append(both_ways(*given, PATTERN, cu_seqlens=ends))
    finally:
        pa.set_num_threads(before)
    for other in results[1:]:
        assert all(map(np.array_equal, results[0], other))
