"""Dropout of attention: which pairs it drops, that these repeat, and its gradients."""

import itertools

import numpy as np
import pytest

import primeattn as pa
from primeattn.kernels import reference

PATTERN = pa.Pattern("primes", window=3, global_tokens=5)
ALL = pa.Pattern(None, window=10**6)
N = 512
BOUND = 5  # standard deviations

pytestmark = pytest.mark.slow  # kernels with terms are compiled anew; layers try them in the quick tests


def backward(dout, q, k, v, out, lse, pattern, **options):
    gradients = (np.full_like(a, np.nan) for a in (q, k, v))
    return pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, out, lse, pattern, **options)


def kept(batch, heads, n, kernel=None, **options):
    """Which pairs a kernel keeps (batch, heads, n, n): all have one weight, and values are unit vectors."""
    zeros, v = np.zeros((batch, heads, n, n), np.float32), np.empty((batch, heads, n, n), np.float32)
    v[:] = np.eye(n)
    out, _ = pa.attention(zeros, zeros, v, ALL, kernel=kernel, **options)
    return out > 0


@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
def test_kernels_drop_what_the_reference_says(kernel):
    n, seed = 150, 2**64 - 3
    found = kept(2, 2, n, kernel, dropout=0.3, dropout_seed=seed)
    i, j = np.arange(n)[:, None], np.arange(n)
    for b, h in itertools.product(range(2), range(2)):
        dropped = reference.dropped(0.3, seed, b, h, i, j)
        np.testing.assert_array_equal(found[b, h], ~dropped & (j <= i))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_the_fraction_dropped_is_p(p):
    """In all, by rows, by columns and by diagonals: the sums of squares are those of chance."""
    i, j = np.arange(N)[:, None], np.arange(N)
    dropped = reference.dropped(p, 7, 1, 2, i, j) - p
    assert abs(dropped.sum()) < BOUND * np.sqrt(p * (1 - p)) * N
    diagonals = np.take_along_axis(dropped, (i + j) % N, axis=1)
    for table in (dropped, dropped.T, diagonals.T, np.take_along_axis(dropped, (j - i) % N, axis=1).T):
        chi = (table.sum(1) ** 2).sum() / (N * p * (1 - p))
        assert abs(chi - N) < BOUND * np.sqrt(2 * N)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_no_correlation_between_pairs(p):
    """At any distance in i and j: the autocorrelation of the whole mask, by its Fourier transform."""
    i, j = np.arange(N)[:, None], np.arange(N)
    dropped = (reference.dropped(p, 11, 0, 0, i, j) - p) / np.sqrt(p * (1 - p))
    correlation = np.fft.ifft2(np.abs(np.fft.fft2(dropped)) ** 2).real / N
    correlation[0, 0] = 0
    assert np.abs(correlation).max() < 6.5  # of 260000 numbers of chance
    assert abs(correlation.std() - 1) < 0.02


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_no_correlation_between_heads_entries_and_seeds(p):
    """Not even where positions are shifted against each other."""
    i, j = np.arange(N)[:, None], np.arange(N)
    which = [(0, 0, 0), (1, 0, 0), (2**63, 0, 0), (0, 1, 0), (0, 2, 0), (0, 0, 1), (1, 0, 1), (1, 1, 0)]
    masks = [(reference.dropped(p, *one, i, j) - p) / np.sqrt(p * (1 - p)) for one in which]
    spectra = [np.fft.fft2(mask) for mask in masks]
    for one, other in itertools.combinations(spectra, 2):
        correlation = np.fft.ifft2(one * other.conj()).real / N
        assert np.abs(correlation).max() < 6.5
    order = np.array([mask.ravel() for mask in masks]) @ np.array([mask.ravel() for mask in masks]).T / N
    assert np.abs(order[~np.eye(len(masks), dtype=bool)]).max() < BOUND


def test_far_positions_are_as_random_as_near_ones():
    j = 2**31 - 200 + np.arange(N)
    dropped = reference.dropped(0.5, 3, 0, 0, j[:, None], j) - 0.5
    assert abs(dropped.sum()) < BOUND * N / 2


def test_a_mask_depends_on_positions_alone():
    """Not on the length, on which queries there are, or on where a sequence is packed."""
    options = {"dropout": 0.4, "dropout_seed": 5}
    whole = kept(2, 2, 200, **options)
    np.testing.assert_array_equal(kept(1, 2, 90, **options), whole[:1, :, :90, :90])
    zeros, v = np.zeros((2, 2, 200, 200), np.float32), np.empty((2, 2, 200, 200), np.float32)
    v[:] = np.eye(200)
    step, _ = pa.attention(zeros[:, :, :3], zeros, v, ALL, q_start=197, **options)
    np.testing.assert_array_equal(step > 0, whole[:, :, 197:])
    packed, _ = pa.attention(zeros[:1], zeros[:1], v[:1], ALL, cu_seqlens=[0, 120, 200], **options)
    np.testing.assert_array_equal(packed[0, :, :120, :120] > 0, whole[0, :, :120, :120])
    np.testing.assert_array_equal(packed[0, :, 120:, 120:] > 0, whole[1, :, :80, :80])


def test_tokens_of_their_own_are_dropped_as_in_the_reference(rng, passes):
    """Packed sequences of one token, and empty ones, which count."""
    q, k, v, dout = rng.standard_normal((4, 1, 2, 9, 8))
    options = {"dropout": 0.5, "dropout_seed": 1, "cu_seqlens": [0, 1, 1, 2, 3, 4, 7, 8, 9]}
    out, lse = pa.attention(q, k, v, PATTERN, **options)
    expected = reference.forward(q, k, v, PATTERN, **options)
    np.testing.assert_allclose(out, expected[0], atol=1e-13)
    assert (out == 0).all(-1).any() and not (out == 0).all()
    given = dout, q, k, v, out, lse, PATTERN
    for a, b in zip(backward(*given, **options), reference.backward(*given, **options), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_lse_is_that_without_dropout_and_the_mean_of_out_too(rng):
    q, k, v = rng.standard_normal((3, 1, 1, 40, 8))
    out, lse = pa.attention(q, k, v, PATTERN)
    results = [pa.attention(q, k, v, PATTERN, dropout=0.2, dropout_seed=s) for s in range(2000)]
    assert all(np.array_equal(r[1], results[0][1]) for r in results)
    np.testing.assert_allclose(results[0][1], lse, atol=1e-13)
    values = np.array([r[0] for r in results])
    assert np.abs((values.mean(0) - out) / (values.std(0) / np.sqrt(2000) + 1e-12)).max() < BOUND


@pytest.mark.parametrize("kernel", ["tiles", "scalar"])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradients_are_finite_differences(kernel, softcap, rng, passes):
    n, h = 23, 1e-6
    q, dout = rng.standard_normal((2, 2, 4, n, 3))
    k, v = rng.standard_normal((2, 2, 2, n, 3))
    options = {"dropout": 0.4, "dropout_seed": 9, "softcap": softcap, "kernel": kernel}
    dlse = rng.standard_normal((2, 4, n))
    out, lse = pa.attention(q, k, v, PATTERN, **options)
    found = backward(dout, q, k, v, out, lse, PATTERN, dlse=dlse, **options)
    for which in range(3):
        e = rng.standard_normal((q, k, v)[which].shape)
        f = []
        for step in (h, -h):
            moved = [q, k, v]
            moved[which] = moved[which] + step * e
            out, lse = pa.attention(*moved, PATTERN, **options)
            f.append(np.vdot(out, dout) + np.vdot(lse, dlse))
        assert abs((f[0] - f[1]) / (2 * h) - np.vdot(found[which], e)) < 1e-6 * np.abs(found[which]).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bitwise_the_same_for_any_number_of_threads(dtype, passes, threads, rng):
    """And right, over many blocks and tiles, with many global keys."""
    n, pattern = 1500, pa.Pattern("primes", window=3, global_tokens=140)
    q, dout = rng.standard_normal((2, 2, 4, n, 16)).astype(dtype)
    k, v = rng.standard_normal((2, 2, 2, n, 16)).astype(dtype)
    options, results = {"dropout": 0.3, "dropout_seed": 4, "softcap": 3.0}, []
    for number in (1, 2, 3, 2):
        threads(number)
        out, lse = pa.attention(q, k, v, pattern, **options)
        results.append((out, lse, *backward(dout, q, k, v, out, lse, pattern, **options)))
    for other in results[1:]:
        assert all(map(np.array_equal, results[0], other))
    given = dout, q, k, v, *results[0][:2], pattern
    expected = *reference.forward(q, k, v, pattern, **options), *reference.backward(*given, **options)
    for a, b in zip(results[0], expected, strict=True):
        assert np.abs(a - b).max() <= (1e-4 if dtype == np.float32 else 1e-10) * np.abs(b).max()


def test_key_ranges_merge(passes, rng):
    n, chunks = 300, [slice(0, 7), slice(7, 190), slice(190, 300)]
    q, k, v, dout = rng.standard_normal((4, 1, 2, n, 16))
    options = {"dropout": 0.5, "dropout_seed": 8}
    whole = pa.attention(q, k, v, PATTERN, **options)
    parts = [pa.attention(q, k[:, :, c], v[:, :, c], PATTERN, k_start=c.start, **options) for c in chunks]
    out, lse = pa.merge(*zip(*parts, strict=True))
    np.testing.assert_allclose(out, whole[0], atol=1e-13)
    dq, dk, dv = backward(dout, q, k, v, out, lse, PATTERN, **options)
    found = [
        backward(dout, q, k[:, :, c], v[:, :, c], out, lse, PATTERN, k_start=c.start, **options)
        for c in chunks
    ]
    np.testing.assert_allclose(sum(f[0] for f in found), dq, atol=1e-12)
    for which, expected in ((1, dk), (2, dv)):
        np.testing.assert_allclose(np.concatenate([f[which] for f in found], 2), expected, atol=1e-12)


def test_without_dropout_nothing_changes(rng):
    """Neither compiled code nor bits, whatever the seed."""
    from primeattn.kernels.cpu import forward

    q, k, v = rng.standard_normal((3, 1, 1, 20, 8), dtype=np.float32)
    expected, before = pa.attention(q, k, v, PATTERN), len(forward.forward.signatures)
    got = pa.attention(q, k, v, PATTERN, dropout=0, dropout_seed=2**64 - 1)
    assert all(map(np.array_equal, got, expected))
    assert len(forward.forward.signatures) == before
