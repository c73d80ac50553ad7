"""The kernels against the dense float64 reference, and the properties that users rely on."""

import itertools
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
from cases import BACKWARD, CONFIGURATIONS, FORWARD, check_against_the_reference, largest_error

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.cpu import plan

LATER = [pytest.param(first, marks=pytest.mark.slow) for first in range(48, CONFIGURATIONS, 24)]


@pytest.mark.parametrize("terms", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "terms"])
@pytest.mark.parametrize("first", [0, 24, *LATER])
def test_matches_the_reference(first, terms, passes):
    for seed in range(first, first + 24):
        check_against_the_reference(seed, terms=terms)


@pytest.mark.parametrize(("dtype", "d"), [(np.float32, 64), (np.float32, 13), (np.float64, 32)])
def test_one_key_alone_has_no_gradient(dtype, d, passes, rng):
    """Not even by rounding, where a row is one chunk: its weight is 1 whatever the scores are."""
    q, k, v, dout = rng.standard_normal((4, 2, 3, 45, d)).astype(dtype)
    pattern = pa.Pattern(None, window=0)
    out, lse = pa.attention(q, k, v, pattern)
    dq, dk, dv = (np.full_like(a, np.nan) for a in (q, k, v))
    pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, pattern)
    assert not dq.any() and not dk.any()
    np.testing.assert_array_equal(dv, dout)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_long_sequence_crosses_blocks_tiles_and_pieces(dtype, rng, passes):
    n, pattern = 2309, pa.Pattern("primes", window=3, global_tokens=140)
    q, k, v = rng.standard_normal((3, 1, 1, n, 16)).astype(dtype)
    out, lse = pa.attention(q, k, v, pattern)
    assert largest_error(out, reference.forward(q, k, v, pattern)[0]) < FORWARD[dtype]
    dout = rng.standard_normal(q.shape).astype(dtype)
    got = pa.sparse_index_kernel_backward(
        *(np.empty_like(a) for a in (q, k, v)), dout, q, k, v, out, lse, pattern
    )
    for a, b in zip(got, reference.backward(dout, q, k, v, out, lse, pattern), strict=True):
        assert largest_error(a, b) <= BACKWARD[dtype] * np.abs(b).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1e2, 1e3])
def test_large_scores_stay_finite(dtype, factor, rng, passes):
    pattern = pa.Pattern("primes", window=3, global_tokens=2)
    q, k, v = rng.standard_normal((3, 1, 2, 257, 16)).astype(dtype)
    q *= 1e4 / (factor * 4)
    k *= factor
    scale = 1e4 / np.abs(np.einsum("bhid,bhjd->bhij", q, k)).max()
    expected, expected_lse = reference.forward(q, k, v, pattern, scale=scale)
    out, lse = pa.attention(q, k, v, pattern, scale=scale)
    tolerance = 8 * np.finfo(dtype).eps * 1e4
    assert largest_error(out, expected) <= tolerance * np.abs(v).max()
    assert largest_error(lse, expected_lse) <= tolerance
    dout = rng.standard_normal(q.shape).astype(dtype)
    grads = pa.sparse_index_kernel_backward(
        *(np.empty_like(a) for a in (q, k, v)), dout, q, k, v, out, lse, pattern, scale=scale
    )
    assert all(np.isfinite(g).all() for g in grads)


def test_zero_queries_give_the_plain_mean_of_the_visible_values(rng):
    """Each key counts once, also where the window overlaps the globals."""
    n, pattern = 97, pa.Pattern("squares", window=3, global_tokens=2)
    v = rng.standard_normal((1, 1, n, 8))
    out, lse = pa.attention(np.zeros_like(v), rng.standard_normal(v.shape), v, pattern)
    for i in range(n):
        keys = [j for j in range(i + 1) if j < 2 or i - j <= 3 or round((i - j) ** 0.5) ** 2 == i - j]
        np.testing.assert_allclose(out[0, 0, i], v[0, 0, keys].mean(0), atol=1e-14)
        assert lse[0, 0, i] == pytest.approx(np.log(len(keys)), abs=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("key", [0, 1, 2, 50, 130, 199])
def test_nan_in_a_key_reaches_exactly_the_rows_that_see_it(dtype, which, key, rng):
    n, pattern = 200, pa.Pattern("primes", window=3, global_tokens=2)
    arrays = dict(zip("qkv", rng.standard_normal((3, 1, 1, n, 8)).astype(dtype), strict=True))
    clean, _ = pa.attention(*arrays.values(), pattern)
    arrays[which][0, 0, key, 3] = np.nan
    out, _ = pa.attention(*arrays.values(), pattern)
    sees = pattern.to_dense(n)[:, key]
    assert np.array_equal(np.isnan(out[0, 0]).any(1), sees)
    assert np.array_equal(out[0, 0, ~sees], clean[0, 0, ~sees])


@pytest.mark.parametrize("which", ["k", "v"])
@pytest.mark.parametrize("key", [1, 5, 120])
def test_nan_in_a_key_reaches_exactly_the_query_gradients_that_see_it(which, key, rng, passes):
    n, pattern = 200, pa.Pattern("primes", window=3, global_tokens=9)
    q, k, v, dout = rng.standard_normal((4, 1, 1, n, 8), dtype=np.float32)
    (k if which == "k" else v)[0, 0, key, 3] = np.nan
    out, lse = pa.attention(q, k, v, pattern)
    grads = (np.empty_like(q) for _ in range(3))
    dq, _, _ = pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern)
    assert np.array_equal(np.isnan(dq[0, 0]).any(1), pattern.to_dense(n)[:, key])


@pytest.mark.parametrize("row", [0, 1, 2, 70, 150, 199])
def test_nan_in_one_gradient_row_reaches_exactly_what_it_touches(row, rng, passes):
    n, pattern = 200, pa.Pattern("primes", window=3, global_tokens=9)
    q, k, v, dout = rng.standard_normal((4, 1, 1, n, 8), dtype=np.float32)
    out, lse = pa.attention(q, k, v, pattern)
    dout[0, 0, row, 3] = np.nan
    grads = (np.empty_like(q) for _ in range(3))
    dq, dk, dv = pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern)
    seen = pattern.to_dense(n)[row]
    assert np.array_equal(np.isnan(dq[0, 0]).any(1), np.arange(n) == row)
    assert np.array_equal(np.isnan(dk[0, 0]).any(1), seen)
    assert np.array_equal(np.isnan(dv[0, 0]).any(1), seen)


def test_causal(rng):
    pattern = pa.Pattern("mian_chowla", window=3, global_tokens=2)
    q, k, v = rng.standard_normal((3, 1, 1, 150, 8), dtype=np.float32)
    before, lse = pa.attention(q, k, v, pattern)
    for t in (0, 1, 63, 64, 149):
        changed = [a.copy() for a in (q, k, v)]
        for a in changed:
            a[:, :, t] += 1
        after, lse2 = pa.attention(*changed, pattern)
        assert np.array_equal(before[:, :, :t], after[:, :, :t])
        assert np.array_equal(lse[:, :, :t], lse2[:, :, :t])
        assert not np.array_equal(before[:, :, t], after[:, :, t])


def test_token_by_token_equals_the_whole(rng):
    n, pattern = 130, pa.Pattern("primes", window=3, global_tokens=2)
    q, k, v = rng.standard_normal((3, 2, 2, n, 16))
    whole, lse = pa.attention(q, k, v, pattern)
    for i in range(n):  # a preallocated cache: later keys are there but not read
        step, step_lse = pa.attention(q[:, :, i : i + 1], k, v, pattern, q_start=i)
        np.testing.assert_allclose(step[:, :, 0], whole[:, :, i], atol=1e-13)
        np.testing.assert_allclose(step_lse[:, :, 0], lse[:, :, i], atol=1e-13)


def test_uneven_key_chunks_merge_to_the_whole_forward_and_backward(rng, passes):
    n, pattern = 300, pa.Pattern("primes", window=5, global_tokens=20)
    q, k, v, dout = rng.standard_normal((4, 1, 2, n, 16))
    whole, whole_lse = pa.attention(q, k, v, pattern)
    chunks = [slice(0, 7), slice(7, 190), slice(190, n)]
    parts = [pa.attention(q, k[:, :, c], v[:, :, c], pattern, k_start=c.start) for c in chunks]
    out, lse = pa.merge(*zip(*parts, strict=True))
    np.testing.assert_allclose(out, whole, atol=1e-13)
    np.testing.assert_allclose(lse, whole_lse, atol=1e-13)

    expected = [np.empty_like(a) for a in (q, k, v)]
    pa.sparse_index_kernel_backward(*expected, dout, q, k, v, out, lse, pattern)
    total, dk, dv = np.zeros_like(q), np.empty_like(k), np.empty_like(v)
    for c in chunks:
        dq = np.empty_like(q)
        pa.sparse_index_kernel_backward(
            dq, dk[:, :, c], dv[:, :, c], dout, q, k[:, :, c], v[:, :, c], out, lse, pattern, k_start=c.start
        )
        total += dq
    for a, b in zip((total, dk, dv), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_packed_sequences_equal_separate_calls(rng):
    pattern = pa.Pattern("squares", window=2, global_tokens=3)
    ends = np.array([0, 1, 70, 70, 71, 200])
    q, k, v = rng.standard_normal((3, 1, 2, 200, 16), dtype=np.float32)
    out, lse = pa.attention(q, k, v, pattern, cu_seqlens=ends)
    for a, b in itertools.pairwise(ends):
        piece, piece_lse = pa.attention(*(x[:, :, a:b] for x in (q, k, v)), pattern)
        assert np.array_equal(out[:, :, a:b], piece)
        assert np.array_equal(lse[:, :, a:b], piece_lse)


@pytest.mark.parametrize("gap", [63, 64, 65, 200, 900])
def test_offsets_too_far_apart_for_one_pass_over_the_keys(gap, rng):
    """A group of slots whose rows are further apart than a block is taken in parts."""
    n, pattern = 2000, pa.Pattern([5, 5 + gap, 6 + gap, 7 + 2 * gap], window=1, global_tokens=1)
    q, k, v, dout = rng.standard_normal((4, 1, 1, n, 8))
    out, lse = pa.attention(q, k, v, pattern)
    expected = reference.backward(dout, q, k, v, out, lse, pattern)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "fuses", lambda *_: True)
        patch.setattr(plan, "fused_block_rows", lambda _: 64)
        patch.setattr(plan, "_make_plans", lru_cache(plan._make_plans.__wrapped__))
        grads = (np.empty_like(q) for _ in range(3))
        got = pa.sparse_index_kernel_backward(*grads, dout, q, k, v, out, lse, pattern)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_rows_without_keys_are_zero(rng, passes):
    q, k, v, dout = rng.standard_normal((4, 1, 1, 10, 8))
    pattern = pa.Pattern(None, window=2)
    out, lse = pa.attention(q, k, v, pattern, k_start=5)
    assert (out[:, :, :5] == 0).all() and (lse[:, :, :5] == -np.inf).all()
    assert np.isfinite(lse[:, :, 5:]).all()
    dq, dk, dv = (np.full_like(a, np.nan) for a in (q, k, v))
    pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, pattern, k_start=5)
    assert (dq[:, :, :5] == 0).all() and (dq[:, :, 6:] != 0).any()
    assert (dk[:, :, 5:] == 0).all() and (dv[:, :, 5:] == 0).all()  # keys of positions beyond every query


@pytest.mark.parametrize("shape", [(0, 2, 5, 8), (2, 2, 0, 8)])
def test_empty_arrays(shape):
    q = np.zeros(shape, np.float32)
    out, lse = pa.attention(q, q, q, pa.Pattern("primes"))
    assert out.shape == shape and lse.shape == shape[:3]
    grads = pa.sparse_index_kernel_backward(
        *(np.empty(shape, np.float32) for _ in range(3)), q, q, q, q, out, lse, pa.Pattern("primes")
    )
    assert all(g.shape == shape for g in grads)


def test_queries_without_any_keys():
    q, k = np.ones((1, 1, 5, 8)), np.ones((1, 1, 0, 8))
    out, lse = pa.attention(q, k, k, pa.Pattern("primes", window=1, global_tokens=2))
    assert (out == 0).all() and (lse == -np.inf).all()


def test_slices_of_one_buffer(rng, passes):
    """q, k, v and dq, dk, dv as a layer passes them: columns of one (batch, seq, 3 * dims) array."""
    b, n, h, d = 2, 120, 2, 16
    pattern = pa.Pattern("primes", window=3, global_tokens=2)

    def split(buffer):
        return buffer.reshape(b, n, 3, h, d).transpose(2, 0, 3, 1, 4)

    q, k, v = split(rng.standard_normal((b, n, 3 * h * d), dtype=np.float32))
    out, lse = pa.attention(q, k, v, pattern)
    dout = rng.standard_normal(out.shape, dtype=np.float32)
    separate = [np.empty(q.shape, np.float32) for _ in range(3)]
    pa.sparse_index_kernel_backward(*separate, dout, q, k, v, out, lse, pattern)
    together = np.empty((b, n, 3 * h * d), np.float32)
    pa.sparse_index_kernel_backward(*split(together), dout, q, k, v, out, lse, pattern)
    assert np.array_equal(split(together), np.stack(separate))


def test_lse_is_optional(rng):
    q, k, v = rng.standard_normal((3, 1, 1, 20, 8))
    pattern = pa.Pattern("primes", window=1)
    out, lse = pa.sparse_index_kernel(np.empty_like(q), None, q, k, v, pattern)
    assert lse is None
    assert np.array_equal(out, pa.attention(q, k, v, pattern)[0])


def test_workspace_changes_nothing_but_memory(rng):
    ws, pattern = pa.Workspace(), pa.Pattern("primes", window=3, global_tokens=2)
    q, k, v = rng.standard_normal((3, 1, 2, 100, 16), dtype=np.float32)
    expected = pa.attention(q, k, v, pattern)
    for _ in range(2):
        got = pa.attention(q, k, v, pattern, workspace=ws)
        assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))
    held = ws.nbytes
    pa.attention(q, k, v, pattern, workspace=ws)
    assert ws.nbytes == held > 0


def test_merge_refuses_parts_that_do_not_fit():
    out, lse = np.zeros((1, 1, 3, 4)), np.zeros((1, 1, 3))
    with pytest.raises(ValueError, match="lses: expected one per entry of outs"):
        pa.merge([out], [])
    with pytest.raises(ValueError, match=r"lses\[1\]: expected shape \(1, 1, 3\), got \(1, 1, 2\)"):
        pa.merge([out, out], [lse, lse[..., :2]])
    with pytest.raises(TypeError, match=r"outs\[1\]: expected float64, got float32"):
        pa.merge([out, out.astype("f4")], [lse, lse])


def test_merge_of_nothing_seen_is_zero():
    out, lse = pa.merge([np.zeros((1, 1, 2, 3))] * 2, [np.full((1, 1, 2), -np.inf)] * 2)
    assert (out == 0).all() and (lse == -np.inf).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_queries_against_many_keys_copy_only_what_they_read(dtype, rng):
    """Decoding: rows are gathered per tile instead of packing the whole cache."""
    from primeattn.kernels import arguments
    from primeattn.kernels.call import Target

    pattern = [pa.Pattern("squares", window=2, global_tokens=g) for g in (0, 3, 3, 200)]
    q = rng.standard_normal((2, 4, 3, 20)).astype(dtype)
    k, v = rng.standard_normal((2, 2, 2, 3000, 20)).astype(dtype)
    options = {"q_start": np.array([2990, 100]), "k_start": np.array([0, 1])}
    given = {"pattern": pattern, **options}
    call = arguments.check_forward(Target(gpu=False), {"q": q, "k": k, "v": v, "out": q.copy()}, given, None)
    table = call.sequences
    assert plan.make_plan(tuple(pattern), 2, table, 20, q.itemsize).gather
    out, lse = pa.attention(q, k, v, pattern, **options)
    expected, expected_lse = reference.forward(q, k, v, pattern, **options)
    assert largest_error(out, expected) < FORWARD[dtype]
    assert largest_error(lse, expected_lse) < FORWARD[dtype]


GROWTH = """
import resource, numpy as np, primeattn as pa
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
pattern = pa.Pattern("squares", window=3, global_tokens=2)
small = np.ones((1, 2, 64, 64), np.float32)
pa.attention(small, small, small, pattern)
q, k, v = (np.ones((1, 2, 65536, 64), np.float32) for _ in range(3))
out, lse = np.ones_like(q), np.ones(q.shape[:3], np.float32)
before = peak()
pa.sparse_index_kernel(out, lse, q, k, v, pattern)
print((peak() - before) / (4 * q.nbytes))
"""


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("n_q", "n_k", "batch"), [(700, 700, 1), (3, 3000, 1), (40, 40, 3)])
def test_heads_computed_together_give_the_bits_of_each_alone(n_q, n_k, batch, dtype, rng, monkeypatch):
    """Whatever the vector registers of the machine; prefill, decoding and short sequences."""
    primes, squares = (pa.Pattern(s, window=3, global_tokens=g) for s, g in (("primes", 2), ("squares", 20)))
    patterns = (primes, primes, squares, squares)
    q = rng.standard_normal((batch, 4, n_q, 20)).astype(dtype)
    k, v = rng.standard_normal((2, batch, 2, n_k, 20)).astype(dtype)
    results, together = [], []
    for vector in (32, 64):
        monkeypatch.setattr(plan, "VECTOR", vector)
        plan._make_plans.cache_clear()
        together.append(plan.heads_together(patterns, 2))
        results.append(pa.attention(q, k, v, patterns, q_start=n_k - n_q))
    plan._make_plans.cache_clear()
    assert together == [1, 2]
    assert same_bits(*results)
    expected, _ = reference.forward(q, k, v, patterns, q_start=n_k - n_q)
    assert largest_error(results[1][0], expected) < FORWARD[dtype]


def same_bits(results, others):
    return all(np.array_equal(a, b) for a, b in zip(results, others, strict=True))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux")
def test_memory_is_linear_in_the_length():
    """Growth over the size of q, k, v and out at n = 65536, where a score matrix would be 256 times that."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5
