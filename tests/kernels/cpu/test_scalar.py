"""The readable kernel: right wherever the fast ones are, compiled or not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import CONFIGURATIONS, check_against_the_reference, random_case, strided
from poison import check_poison

import primeattn as pa
from primeattn.kernels.cpu import scalar

PATTERN = pa.Pattern("primes", window=3, global_tokens=5)


def forward_and_backward(q, k, v, pattern, dout, dlse=None, kernel="scalar", **options):
    options["kernel"] = kernel
    out, lse = pa.attention(q, k, v, pattern, **options)
    gradients, given = (np.full_like(a, np.nan) for a in (q, k, v)), (dout, q, k, v, out, lse, pattern)
    return out, lse, *pa.sparse_index_kernel_backward(*gradients, *given, dlse=dlse, **options)


def check_against_tiles(*arguments, **options):
    got, expected = (
        forward_and_backward(*arguments, kernel=kernel, **options) for kernel in ("scalar", "tiles")
    )
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), got, expected, strict=True):
        tolerance = 1e-12 if name in ("out", "lse") else 1e-10 * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=name)


PARTS = 15
SLOW = [pytest.param(first, marks=pytest.mark.slow) for first in range(1, PARTS)]


@pytest.mark.parametrize("terms", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "terms"])
@pytest.mark.parametrize("first", [0, *SLOW])
def test_matches_the_reference(first, terms):
    for seed in range(first, CONFIGURATIONS, PARTS):
        check_against_the_reference(seed, kernel="scalar", terms=terms)


@pytest.mark.slow
def test_poison_reaches_exactly_what_depends_on_it():
    for seed in range(100, 250):
        check_poison(seed, kernel="scalar")


def test_threads_change_no_bit(threads):
    for seed in (6, 7, 9, 11):  # of several blocks
        rng, dtype, (q, k, v), pattern, options = random_case(seed, terms=seed > 7)
        dout, dlse = strided(rng, q.shape, dtype), rng.standard_normal(q.shape[:3]).astype(dtype)
        results = []
        for n in (1, 2, 7):
            threads(n)
            results.append(forward_and_backward(q, k, v, pattern, dout, dlse, **options))
        for one, other in ((results[0], results[1]), (results[0], results[2])):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), seed


@pytest.mark.slow
def test_long_sequences_agree_with_tiles(rng):
    """Where no matrix of scores would fit."""
    pattern, n = pa.Pattern("mian_chowla", window=20, global_tokens=70), 20000
    q, k, v, dout = rng.standard_normal((4, 1, 1, n, 4))
    check_against_tiles(q, k, v, pattern, dout)


def test_positions_far_out_and_read_only_arrays(rng):
    """Offsets are made where they are asked for, not up to them."""
    q, k, v, dout = rng.standard_normal((4, 1, 2, 40, 8))
    far = 10**12
    for array in (q, k, v, dout):
        array.setflags(write=False)
    check_against_tiles(q, k, v, PATTERN, dout, q_start=far + 1000, k_start=far)


def test_rows_without_keys_are_zero(rng):
    q, k, v, dout = rng.standard_normal((4, 1, 1, 10, 8))
    out, lse, dq, dk, dv = forward_and_backward(q, k, v, pa.Pattern(None, window=2), dout, k_start=5)
    assert (out[:, :, :5] == 0).all()
    assert (lse[:, :, :5] == -np.inf).all() and np.isfinite(lse[:, :, 5:]).all()
    assert (dq[:, :, :5] == 0).all() and (dq[:, :, 6:] != 0).any()
    assert (dk[:, :, 5:] == 0).all() and (dv[:, :, 5:] == 0).all()


@pytest.mark.parametrize("lengths", [(0, 0), (0, 3), (3, 0)])
def test_empty_arrays(lengths):
    q, k = (np.ones((2, 2, n, 8), np.float32) for n in lengths)
    out, lse, dq, dk, dv = forward_and_backward(q, k, k, PATTERN, q)
    assert (lse == -np.inf).all()
    assert all((a == 0).all() for a in (out, dq, dk, dv))


def test_lse_and_workspace_are_optional_and_nothing_is_kept(rng):
    q, k, v = rng.standard_normal((3, 1, 1, 20, 8))
    ws = pa.Workspace()
    out, lse = pa.sparse_index_kernel(np.empty_like(q), None, q, k, v, PATTERN, workspace=ws, kernel="scalar")
    assert lse is None and ws.nbytes == 0
    assert np.array_equal(out, pa.attention(q, k, v, PATTERN, kernel="scalar")[0])


PLAIN = """
import warnings
import numpy as np, primeattn as pa
from primeattn.kernels import reference
warnings.simplefilter("error")
pa.set_num_threads(3)
pattern = [pa.Pattern("squares", window=2, global_tokens=g) for g in (0, 3)]
rng = np.random.default_rng(0)
for dtype, tolerance in ((np.float32, 5e-6), (np.float64, 1e-12)):
    q, dout = rng.standard_normal((2, 1, 2, 70, 4)).astype(dtype)
    k, v = rng.standard_normal((2, 1, 1, 70, 4)).astype(dtype)
    options = {"cu_seqlens": np.array([0, 1, 68, 70])}
    out, lse = pa.attention(q, k, v, pattern, kernel="scalar", **options)
    for a, b in zip((out, lse), reference.forward(q, k, v, pattern, **options)):
        assert np.abs(a - b).max() < tolerance
    given = dout, q, k, v, out, lse, pattern
    gradients = map(np.empty_like, (q, k, v))
    gradients = pa.sparse_index_kernel_backward(*gradients, *given, kernel="scalar", **options)
    for a, b in zip(gradients, reference.backward(*given, **options)):
        assert np.abs(a - b).max() < 20 * tolerance
q[0, 0, 3], k[0, 0, 5], v[0, 0, 7] = np.nan, np.inf, -np.inf
out, lse = pa.attention(q, k, v, pattern, kernel="scalar")
given = dout, q, k, v, out, lse, pattern
pa.sparse_index_kernel_backward(*map(np.empty_like, (q, k, v)), *given, kernel="scalar")
for call in (lambda: pa.attention(q, k, v, pattern), lambda: pa.gelu(q, {}, {})):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


def test_plain_python():
    """No helper comes, nothing warns, and what has no Python to run says what to unset."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", PLAIN], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{name} is compiled code: unset NUMBA_DISABLE_JIT, or take kernel='scalar'"
        for name in ("'forward'", "'gate'")
    ]


def test_nothing_but_loops():
    source = Path(scalar.__file__).read_text()
    assert not [word for word in ("intrinsic", "simd", "llvmlite", "ctypes", "carray") if word in source]
