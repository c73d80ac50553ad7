"""Biases, slopes and the soft cap: what they mean, how exact they are, and that they repeat."""

import itertools

import numpy as np
import pytest
from cases import BACKWARD, FORWARD, largest_error

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.cpu import plan

PATTERN = pa.Pattern("primes", window=3, global_tokens=5)

pytestmark = pytest.mark.slow  # kernels with terms are compiled anew; layers try them in the quick tests


def random_terms(rng, heads, n, pattern=PATTERN, dtype=np.float64):
    return {
        "offset_bias": rng.standard_normal((heads, pattern.offsets(n).size)).astype(dtype),
        "global_bias": rng.standard_normal((heads, pattern.global_tokens)).astype(dtype),
        "slopes": rng.uniform(0, 20 / n, heads).astype(dtype),
        "softcap": 2.0,
    }


def gradients(dout, q, k, v, out, lse, pattern, **options):
    """dq, dk, dv, doffset_bias, dglobal_bias."""
    biases = [np.full_like(options[name], np.nan) for name in ("offset_bias", "global_bias")]
    names = {"doffset_bias": biases[0], "dglobal_bias": biases[1]}
    inputs = (np.full_like(a, np.nan) for a in (q, k, v))
    return *pa.sparse_index_kernel_backward(
        *inputs, dout, q, k, v, out, lse, pattern, **names, **options
    ), *biases


def alibi_slopes(heads):
    """As published, where heads are a power of two: 2^(-8 / heads), and its powers."""
    return np.float32([2.0 ** (-8 * (h + 1) / heads) for h in range(heads)])


@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
def test_alibi_is_exact_at_a_hundred_thousand(kernel, rng):
    n, heads, t = 100_000, 8, 16
    pattern = pa.Pattern("squares", window=3, global_tokens=2)
    q = rng.standard_normal((1, heads, t, 16), dtype=np.float32)
    k, v = rng.standard_normal((2, 1, heads, n, 16), dtype=np.float32)
    slopes = alibi_slopes(heads)
    np.testing.assert_array_equal(slopes, np.float32(0.5) ** np.arange(1, 9))
    out, lse = pa.attention(q, k, v, pattern, slopes=slopes, q_start=n - t, kernel=kernel)
    for h, r in itertools.product(range(heads), (0, 7, t - 1)):
        i = n - t + r
        distances = np.append(pattern.offsets(i - 1), [i - 1, i])
        keys, values = (a[0, h, i - distances].astype(float) for a in (k, v))
        s = keys @ q[0, h, r].astype(float) / 4 - float(slopes[h]) * distances
        p = np.exp(s - s.max())
        assert np.abs(out[0, h, r] - p @ values / p.sum()).max() < 1e-6
        assert abs(lse[0, h, r] - s.max() - np.log(p.sum())) < 1e-6


def test_alibi_of_whole_sequences_is_exact(rng):
    """Blocks of queries rather than single ones; the last rows see the farthest keys."""
    n, pattern = 100_000, pa.Pattern("mian_chowla", window=3, global_tokens=2)
    q, k, v = rng.standard_normal((3, 1, 2, n, 8), dtype=np.float32)
    slopes = np.float32([2**-8, 2**-14])
    out, _ = pa.attention(q, k, v, pattern, slopes=slopes)
    for h, i in itertools.product(range(2), (99, 54_321, n - 1)):
        distances = np.append(pattern.offsets(i - 1), [i - 1, i])
        keys, values = (a[0, h, i - distances].astype(float) for a in (k, v))
        s = keys @ q[0, h, i].astype(float) / np.sqrt(8) - float(slopes[h]) * distances
        p = np.exp(s - s.max())
        assert np.abs(out[0, h, i] - p @ values / p.sum()).max() < 1e-6


def test_soft_cap_is_the_formula(rng):
    """Far below the cap, about it, and far beyond."""
    for factor in (1e-3, 1, 1e3):
        q, k, v = rng.standard_normal((3, 1, 1, 30, 8), dtype=np.float32)
        out, lse = pa.attention(q, k, v, pa.Pattern(None, window=30), softcap=5.0, scale=factor)
        s = 5 * np.tanh(factor * q[0, 0].astype(float) @ k[0, 0].astype(float).T / 5)
        p = np.exp(s) * np.tri(30)
        assert np.abs(out[0, 0] - p @ v[0, 0] / p.sum(1, keepdims=True)).max() < 2e-6
        assert np.abs(lse[0, 0] - np.log(p.sum(1))).max() < 2e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("heads", [(1, 1), (4, 2)])
def test_long_sequence_crosses_blocks_and_tiles(heads, dtype, rng, passes):
    n, pattern = 1500, pa.Pattern("primes", window=3, global_tokens=140)
    q, dout = rng.standard_normal((2, 1, heads[0], n, 16)).astype(dtype)
    k, v = rng.standard_normal((2, 1, heads[1], n, 16)).astype(dtype)
    options = random_terms(rng, heads[0], n, pattern, dtype)
    out, lse = pa.attention(q, k, v, pattern, **options)
    assert largest_error(out, reference.forward(q, k, v, pattern, **options)[0]) < FORWARD[dtype]
    given = dout, q, k, v, out, lse, pattern
    for a, b in zip(gradients(*given, **options), reference.backward(*given, **options), strict=True):
        assert largest_error(a, b) <= BACKWARD[dtype] * np.abs(b).max()


LAYOUTS = {
    "one sequence": (1, 1, 1, 6000, np.float64, {}),  # shows the order of sums in float64
    "batch": (3, 4, 2, 700, np.float32, {}),
    "packed": (1, 4, 2, 2500, np.float32, {"cu_seqlens": [0, 1, 900, 960, 961, 2000, 2003, 2500]}),
}


@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "n", "dtype", "options"), LAYOUTS.values(), ids=LAYOUTS
)
def test_bitwise_the_same_for_any_number_of_threads(
    batch, heads, kv_heads, n, dtype, options, passes, threads, rng
):
    q, dout = rng.standard_normal((2, batch, heads, n, 8), dtype=dtype)
    k, v = rng.standard_normal((2, batch, kv_heads, n, 8), dtype=dtype)
    options = options | random_terms(rng, heads, n, dtype=dtype)
    results = []
    for number in (1, 2, 3, 2):
        threads(number)
        out, lse = pa.attention(q, k, v, PATTERN, **options)
        results.append((out, lse, *gradients(dout, q, k, v, out, lse, PATTERN, **options)))
    for other in results[1:]:
        assert all(map(np.array_equal, results[0], other))


def test_gradients_of_biases_are_exact_over_many_queries(passes, rng):
    """The sum over 20000 queries, of numbers that are all positive."""
    n, pattern = 20_000, pa.Pattern(None, window=40)
    q, k, v = np.zeros((3, 1, 1, n, 8), np.float32)
    options = {"offset_bias": np.zeros((1, 41), np.float32)}
    out, lse = pa.attention(q, k, v, pattern, **options)
    db = np.full((1, 41), np.nan, np.float32)
    grads = (np.empty_like(q) for _ in range(3))
    given = np.zeros_like(q), q, k, v, out, lse, pattern
    pa.sparse_index_kernel_backward(*grads, *given, dlse=np.ones_like(lse), doffset_bias=db, **options)
    expected = [sum(1 / min(i + 1, 41) for i in range(d, n)) for d in range(41)]
    np.testing.assert_allclose(db[0], expected, rtol=2e-7)


def test_key_ranges_merge_and_their_bias_gradients_add_up(passes, rng):
    n, chunks = 300, [slice(0, 7), slice(7, 190), slice(190, 300)]
    q, k, v, dout = rng.standard_normal((4, 1, 2, n, 16))
    options = random_terms(rng, 2, n)
    whole = pa.attention(q, k, v, PATTERN, **options)
    parts = [pa.attention(q, k[:, :, c], v[:, :, c], PATTERN, k_start=c.start, **options) for c in chunks]
    out, lse = pa.merge(*zip(*parts, strict=True))
    np.testing.assert_allclose(out, whole[0], atol=1e-13)
    expected = gradients(dout, q, k, v, out, lse, PATTERN, **options)
    found = [
        gradients(dout, q, k[:, :, c], v[:, :, c], out, lse, PATTERN, k_start=c.start, **options)
        for c in chunks
    ]
    for which in (0, 3, 4):
        np.testing.assert_allclose(sum(f[which] for f in found), expected[which], atol=1e-12)


def test_decode_steps_take_the_whole_vector(rng):
    n = 200
    q, k, v = rng.standard_normal((3, 2, 4, n, 16))
    k, v = k[:, :2], v[:, :2]
    options = random_terms(rng, 4, 2 * n)
    whole, lse = pa.attention(q, k, v, PATTERN, **options)
    for i in (0, 1, 2, 7, 50, 199):
        step, step_lse = pa.attention(q[:, :, i : i + 1], k, v, PATTERN, q_start=i, **options)
        np.testing.assert_allclose(step[:, :, 0], whole[:, :, i], atol=1e-13)
        np.testing.assert_allclose(step_lse[:, :, 0], lse[:, :, i], atol=1e-13)


def test_positions_far_out(rng):
    """Only the distances at hand count, and the bias of a distance is found among all."""
    q, k, v, dout = rng.standard_normal((4, 1, 2, 40, 8))
    far = 10**12
    options = random_terms(rng, 2, 1040) | {"q_start": far + 1000, "k_start": far}
    out, lse = pa.attention(q, k, v, PATTERN, **options)
    near = options | {"q_start": 2000, "k_start": 1000}
    expected = reference.forward(q, k, v, PATTERN, **near)
    np.testing.assert_allclose(out, expected[0], atol=1e-12)
    got = gradients(dout, q, k, v, out, lse, PATTERN, **options)
    for a, b in zip(got, reference.backward(dout, q, k, v, out, lse, PATTERN, **near), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("position", [0, 3, 5, 9])
def test_one_token_has_the_bias_of_its_position(position):
    """The lse shows it; sequences of one token are computed together where they are alike."""
    ones = np.ones((1, 1, 1, 8))
    options = {"offset_bias": np.array([[10.0]]), "global_bias": np.arange(5.0)[None], "scale": 0.0}
    _, lse = pa.attention(ones, ones, ones, PATTERN, q_start=position, k_start=position, **options)
    assert lse[0, 0, 0] == (position if position < 5 else 10)


def test_packed_tokens_are_global_keys_of_their_own(passes):
    ones, ends = np.ones((1, 1, 6, 8)), [0, 1, 2, 3, 5, 6]
    options = {"offset_bias": np.full((1, 3), 10.0), "global_bias": np.arange(2.0, 7)[None], "scale": 0.0}
    out, lse = pa.attention(ones, ones, ones, PATTERN, cu_seqlens=ends, **options)
    both = np.log(np.exp(2) + np.exp(3))
    np.testing.assert_allclose(lse[0, 0], [2, 2, 2, 2, both, 2])
    given, sums = (ones, ones, ones, ones, out, lse, PATTERN), (np.ones((1, 3)), np.ones((1, 5)))
    pa.sparse_index_kernel_backward(
        *(np.empty_like(ones) for _ in range(3)),
        *given,
        dlse=np.ones_like(lse),
        cu_seqlens=ends,
        doffset_bias=sums[0],
        dglobal_bias=sums[1],
        **options,
    )
    assert (sums[0] == 0).all()
    np.testing.assert_allclose(sums[1][0], [5 + np.exp(2 - both), np.exp(3 - both), 0, 0, 0], atol=1e-12)


def test_a_bias_of_minus_infinity_closes_an_offset(rng, passes):
    """As if the pattern did not have it; a row with nothing left is a row without keys."""
    q, k, v, dout = rng.standard_normal((4, 1, 1, 60, 8))
    pattern, less = pa.Pattern([1, 5, 9], window=0), pa.Pattern([5, 9], window=0)
    options = {"offset_bias": np.array([[0, -np.inf, 0, 0]]), "global_bias": np.zeros((1, 0))}
    out, lse = pa.attention(q, k, v, pattern, **options)
    expected = pa.attention(q, k, v, less)
    np.testing.assert_allclose(out, expected[0], atol=1e-13)
    np.testing.assert_allclose(lse, expected[1], atol=1e-13)
    got = gradients(dout, q, k, v, out, lse, pattern, **options)
    wanted = reference.backward(dout, q, k, v, *expected, less, offset_bias=np.zeros((1, 3)))
    for a, b in zip(got, (*wanted[:3], np.insert(wanted[3], 1, 0, axis=1)), strict=False):
        np.testing.assert_allclose(a, b, atol=1e-12)
    closed = pa.attention(q, k, v, pattern, offset_bias=np.full((1, 4), -np.inf))
    assert (closed[0] == 0).all() and (closed[1] == -np.inf).all()


@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
def test_wanted_gradients_alone_are_made(kernel, rng, passes):
    q, k, v, dout = rng.standard_normal((4, 1, 2, 90, 8))
    options = random_terms(rng, 2, 90) | {"kernel": kernel}
    out, lse = pa.attention(q, k, v, PATTERN, **options)
    expected = gradients(dout, q, k, v, out, lse, PATTERN, **options)
    for chosen in ((), ("offset_bias",), ("global_bias",)):
        got = {f"d{name}": np.full_like(options[name], np.nan) for name in chosen}
        rows = [np.empty_like(a) for a in (q, k, v)]
        pa.sparse_index_kernel_backward(*rows, dout, q, k, v, out, lse, PATTERN, **got, **options)
        assert all(map(np.array_equal, rows, expected))
        for name, found in got.items():
            np.testing.assert_array_equal(found, expected[3 if name == "doffset_bias" else 4])


@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
@pytest.mark.parametrize("shape", [(0, 2, 5, 8), (2, 2, 0, 8)])
def test_gradients_of_biases_of_empty_arrays_are_zero(shape, kernel):
    q, lse = np.zeros(shape), np.zeros(shape[:3])
    options = {"offset_bias": np.ones((2, 9)), "global_bias": np.ones((2, 5)), "kernel": kernel}
    *_, doffset_bias, dglobal_bias = gradients(q, q, q, q, q, lse, PATTERN, **options)
    assert (doffset_bias == 0).all() and (dglobal_bias == 0).all()


def test_workspace_changes_nothing_but_memory(rng, passes):
    ws, n = pa.Workspace(), 150
    q, k, v, dout = rng.standard_normal((4, 1, 2, n, 16), dtype=np.float32)
    options = random_terms(rng, 2, n, dtype=np.float32)
    expected = pa.attention(q, k, v, PATTERN, **options)
    expected = *expected, *gradients(dout, q, k, v, *expected, PATTERN, **options)
    held = set()
    for _ in range(3):
        out, lse = pa.attention(q, k, v, PATTERN, workspace=ws, **options)
        got = out, lse, *gradients(dout, q, k, v, out, lse, PATTERN, workspace=ws, **options)
        assert all(map(np.array_equal, got, expected))
        held.add(ws.nbytes)
        for memory in ws._scratch.values():
            memory[:] = 0xFF  # NaN
    assert len(held) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n_q", "n_k"), [(700, 700), (3, 3000)])
def test_heads_computed_together_give_the_bits_of_each_alone(n_q, n_k, dtype, rng, monkeypatch):
    q = rng.standard_normal((1, 4, n_q, 20)).astype(dtype)
    k, v = rng.standard_normal((2, 1, 2, n_k, 20)).astype(dtype)
    options, results = random_terms(rng, 4, n_k, dtype=dtype), []
    for vector in (32, 64):
        monkeypatch.setattr(plan, "VECTOR", vector)
        plan._make_plans.cache_clear()
        results.append(pa.attention(q, k, v, PATTERN, q_start=n_k - n_q, **options))
    plan._make_plans.cache_clear()
    assert all(map(np.array_equal, *results))


def test_a_call_without_terms_has_compiled_code_of_its_own(rng):
    """In which the terms are None: nothing is added to its scores, not even 0."""
    from primeattn.kernels.cpu import forward

    q, k, v = rng.standard_normal((3, 1, 1, 20, 8), dtype=np.float32)
    pa.attention(q, k, v, PATTERN)
    pa.attention(q, k, v, PATTERN, softcap=2.0)
    kinds = [str(signature[5]) for signature in forward.forward.signatures]
    assert {kind.partition("(")[0] for kind in kinds} == {"none", "Terms"}
