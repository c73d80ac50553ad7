"""float16 and bfloat16 on the CPU: computed in float32, and rounded once."""

import numpy as np
import pytest
from cases import CONFIGURATIONS, check_halves_against_the_reference, normal

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.call import BFLOAT16
from primeattn.kernels.halves import rounded, widened

PATTERN = pa.Pattern("primes", window=3, global_tokens=5)
HALVES = [np.dtype(np.float16), BFLOAT16]
LATER = [pytest.param(first, marks=pytest.mark.slow) for first in range(24, CONFIGURATIONS, 24)]

half = pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])


@half
@pytest.mark.parametrize("terms", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "terms"])
@pytest.mark.parametrize("first", [0, *LATER])
def test_matches_the_reference(first, terms, dtype, passes):
    for seed in range(first, first + 24, 4):
        check_halves_against_the_reference(seed + (dtype == BFLOAT16), dtype, terms=terms)


@half
@pytest.mark.parametrize("terms", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "terms"])
@pytest.mark.parametrize("first", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 120, 5))])
def test_plain_loops_match_the_reference(first, terms, dtype):
    for seed in range(first, CONFIGURATIONS, 120):
        check_halves_against_the_reference(seed, dtype, "scalar", terms)


def both_ways(q, k, v, dout, **options):
    out, lse = pa.attention(q, k, v, PATTERN, **options)
    gradients = map(np.empty_like, (q, k, v))
    return out, lse, *pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, out, lse, PATTERN, **options)


@half
def test_rows_that_are_gathered(dtype, rng):
    """Few queries against many keys."""
    q, k = normal(rng, (1, 4, 3, 40), dtype), normal(rng, (1, 2, 3000, 40), dtype)
    pattern = pa.Pattern("squares", window=2, global_tokens=3)
    out, _ = pa.attention(q, k, k, pattern, q_start=2990)
    expected, _ = reference.forward(*map(widened, (q, k, k)), pattern, q_start=2990)
    np.testing.assert_allclose(widened(out), expected, rtol=2**-7, atol=1e-5)


@half
def test_forward_is_that_of_float32_rounded(dtype, rng):
    """To the bit; also where packed rows end within a line, or a number of the caller's lies anywhere."""
    for d in (1, 7, 16, 40, 64, 100, 200):
        q, k, v = (normal(rng, (1, 2, 75, d + 3), dtype)[..., 1 : d + 1] for _ in range(3))
        for kernel in ("tiles", "scalar"):
            out, lse = pa.attention(q, k, v, PATTERN, kernel=kernel)
            expected, expected_lse = pa.attention(*map(widened, (q, k, v)), PATTERN, kernel=kernel)
            assert out.dtype == dtype and lse.dtype == np.float32
            assert out.tobytes() == rounded(expected, dtype).tobytes()
            assert np.array_equal(lse, expected_lse)


@half
def test_threads_and_workspace_change_no_bit(dtype, rng, threads, passes):
    q, k, v, dout = (normal(rng, (2, 4, 700, 24), dtype) for _ in range(4))
    results, workspace = [], pa.Workspace()
    for n in (1, 2, 7):
        threads(n)
        for memory in workspace._scratch.values():
            memory[:] = 0xFF  # NaN
        results.append(both_ways(q, k, v, dout, workspace=workspace))
        results.append(both_ways(q, k, v, dout))
    for other in results[1:]:
        assert all(a.tobytes() == b.tobytes() for a, b in zip(results[0], other, strict=True))


def test_no_code_is_compiled_but_that_of_float32(rng):
    from primeattn.kernels.cpu import backward, backward_fused, forward

    def signatures():
        return [len(f.signatures) for f in (forward.forward, backward.backward, backward_fused.backward)]

    def use(dtype):
        both_ways(*(normal(rng, (1, 1, n, 8), dtype) for n in (20, 20, 20, 20)))
        both_ways(*(normal(rng, (1, 1, n, 8), dtype) for n in (200, 200, 200, 200)))

    use(np.float32)
    before = signatures()
    for dtype in HALVES:
        use(dtype)
    assert signatures() == before


@half
def test_nan_and_infinity_stay_in_their_rows(dtype, rng):
    q, k, v = (normal(rng, (1, 1, 90, 8), dtype) for _ in range(3))
    clean, _ = pa.attention(q, k, v, PATTERN)
    for value in (np.nan, np.inf, -np.inf):
        bad = v.copy()
        bad[0, 0, 40, 3] = rounded(np.array(value), dtype)
        out, _ = pa.attention(q, k, bad, PATTERN)
        sees = PATTERN.to_dense(90)[:, 40]
        assert np.array_equal(~np.isfinite(widened(out)[0, 0]).all(1), sees)
        assert out[0, 0, ~sees].tobytes() == clean[0, 0, ~sees].tobytes()


def test_what_is_too_large_for_float16_is_infinite():
    v = np.full((1, 1, 4, 8), 60000, np.float16)
    out, lse = pa.attention(v * 0, v, v, pa.Pattern("primes"))
    assert (out == 60000).all()
    dv = np.empty_like(v)
    grads = np.empty_like(v), np.empty_like(v), dv
    pa.sparse_index_kernel_backward(*grads, v, v * 0, v, v, out, lse, pa.Pattern(None, window=3))
    assert dv[0, 0, 0, 0] == np.inf and np.isfinite(dv[0, 0, 3]).all()


@half
def test_merged_parts_are_rounded_once(dtype, rng):
    q, k, v = (normal(rng, (1, 2, 90, 16), dtype) for _ in range(3))
    parts = [pa.attention(q, k[:, :, a:b], v[:, :, a:b], PATTERN, k_start=a) for a, b in ((0, 33), (33, 90))]
    out, lse = pa.merge(*zip(*parts, strict=True))
    outs, lses = zip(*parts, strict=True)
    expected, expected_lse = pa.merge(list(map(widened, outs)), lses)
    assert out.dtype == dtype and out.tobytes() == rounded(expected, dtype).tobytes()
    assert lse.dtype == np.float32 and np.array_equal(lse, expected_lse)
    whole, whole_lse = pa.attention(q, k, v, PATTERN)
    np.testing.assert_allclose(widened(out), widened(whole), rtol=2**-6, atol=2**-6)
    np.testing.assert_allclose(lse, whole_lse, rtol=1e-5)


def test_gradients_of_biases_have_their_dtype(rng):
    shape = 2, PATTERN.offsets(60).size
    q, k, v, dout = (normal(rng, (1, 2, 60, 8), np.float16) for _ in range(4))
    bias = normal(rng, shape, np.float16)
    options = {"kernel": "scalar", "offset_bias": bias}
    out, lse = pa.attention(q, k, v, PATTERN, **options)
    results = []
    for dtype in (np.float16, np.float32):
        given = [a.astype(dtype) for a in (dout, q, k, v, out)]
        options |= {"offset_bias": bias.astype(dtype), "doffset_bias": np.empty(shape, dtype)}
        gradients = map(np.empty_like, given[1:4])
        pa.sparse_index_kernel_backward(*gradients, *given, lse, PATTERN, **options)
        results.append(options["doffset_bias"])
    assert np.array_equal(results[0], results[1].astype(np.float16)) and results[0].any()
