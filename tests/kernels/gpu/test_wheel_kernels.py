"""The wheel kernels, run as Python by the emulator, against the dense float64 reference.

One case of each kind; :mod:`test_machine_code` has them all, where the compilers are at hand.
"""

import numpy as np
import pytest
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.kernels import reference
from primeattn.wheel import cost, tables

pytestmark = pytest.mark.slow  # the emulator takes its time
PRIMES = pa.Pattern("primes", window=2, global_tokens=2)


def relative(got, expected):
    return np.max(np.abs(got - expected), initial=0) / np.abs(expected).max()


def inputs(rng, heads, kv_heads, n_q, n_k, head_dim, batch=1):
    q, dout = rng.standard_normal((2, batch, heads, n_q, head_dim)).astype(np.float16)
    k, v = rng.standard_normal((2, batch, kv_heads, n_k, head_dim)).astype(np.float16)
    return q, k, v, dout


CASES = {
    # (heads, kv_heads, n_q, n_k, head_dim, batch), pattern, wheel, options
    "natural order": ((1, 1, 70, 70, 32), pa.Pattern("mian_chowla"), 1, {}),
    "one token": ((1, 1, 1, 1, 32, 2), PRIMES, 6, {}),
    "chunk of a prefill": ((1, 1, 40, 95, 32), PRIMES, 2, {"q_start": 60, "k_start": 5}),
    "padded keys": ((1, 1, 60, 75, 32), PRIMES, 2, {"k_start": -15}),
    "packed": ((1, 1, 110, 110, 32), PRIMES, 2, {"cu_seqlens": [0, 1, 70, 70, 102, 110]}),
}


def run(q, k, v, dout, pattern, dlse=None, **options):
    """out, lse, dq, dk, dv of NumPy arrays."""
    options |= {"device": "cuda", "kernel": "wheel"}
    out, lse = pa.attention(q, k, v, pattern, **options)
    gradients = [np.full_like(a, np.nan) for a in (q, k, v)]
    pa.sparse_index_kernel_backward(*gradients, dout, q, k, v, out, lse, pattern, dlse=dlse, **options)
    return [out, lse, *gradients]


def oracle(q, k, v, dout, pattern, dlse=None, **options):
    q, k, v, dout = (a.astype(np.float64) for a in (q, k, v, dout))
    out, lse = reference.forward(q, k, v, pattern, **options)
    return [out, lse, *reference.backward(dout, q, k, v, out, lse, pattern, dlse=dlse, **options)]


@pytest.mark.parametrize(
    ("name", "one_warp"),
    [
        *((name, tables.ONE_WARP) for name in CASES if name != "packed"),
        ("chunk of a prefill", 0),
        *(pytest.param("packed", warps, marks=pytest.mark.slow) for warps in (tables.ONE_WARP, 0)),
    ],
)
def test_matches_the_reference(name, one_warp, rng, monkeypatch):
    """Rows wider than ``one_warp`` are shared by two warps in the backward."""
    shape, pattern, modulus, options = CASES[name]
    arrays = inputs(rng, *shape)
    dlse = rng.standard_normal(arrays[0].shape[:3]).astype(np.float32)
    with emulated(monkeypatch, wheels=(modulus,), one_warp=one_warp) as machine:
        got = run(*arrays, pattern, dlse, **options)
        queries = "wheel_queries" if one_warp else "wide_queries"
        assert {"wheel_forward", queries} <= {launch[0] for launch in machine.launches}
    expected = oracle(*arrays, pattern, dlse, **options)
    assert np.max(np.abs(got[1] - expected[1])) < 2e-6
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < 2**-10


def test_tiles_may_begin_before_the_first_row(rng, monkeypatch):
    """Where the rows of a block are no multiple of the tile's."""
    arrays = inputs(rng, 1, 1, 93, 93, 32)
    for pattern in (PRIMES, pa.Pattern("primes")):
        with emulated(monkeypatch, tiling=(48, 32)):
            got = run(*arrays, pattern)
        for a, b in zip(got, oracle(*arrays, pattern), strict=True):
            assert relative(a, b) < 2**-10


def test_scores_that_rise_by_more_than_the_slack(rng, monkeypatch):
    """Sums are scaled anew while tiles are met, for some rows of a warp and not for others."""
    q, k, v, _ = inputs(rng, 1, 1, 100, 100, 32)
    k *= 1 + 40 * (np.arange(100) % 17 == 0)[:, None]
    with emulated(monkeypatch):
        out, lse = pa.attention(q, k, v, PRIMES, device="cuda", kernel="wheel")
    expected = reference.forward(*(a.astype(np.float64) for a in (q, k, v)), PRIMES)
    assert relative(out, expected[0]) < 2**-10
    assert np.max(np.abs(lse - expected[1])) < 1e-4


def test_what_a_window_gives_is_not_rounded_twice(rng, monkeypatch):
    """Where the nearest keys have nearly all weight, as in trained models, out is rounded once."""
    q, k, v, _ = inputs(rng, 1, 1, 80, 80, 32)
    q = k = 4 * k / np.linalg.norm(k.astype(float), axis=-1, keepdims=True)
    q, k = 4 * q.astype(np.float16), k.astype(np.float16)
    with emulated(monkeypatch):
        out, _ = pa.attention(q, k, v, PRIMES, device="cuda", kernel="wheel", scale=1.0)
    expected, _ = reference.forward(*(a.astype(np.float64) for a in (q, k, v)), PRIMES, scale=1.0)
    spacing = np.spacing(np.maximum(np.abs(expected), 2**-6).astype(np.float16)).astype(float)
    assert np.max(np.abs(out - expected) / spacing) < 0.52


def test_nan_in_a_key_stays_in_the_rows_that_attend_it(rng, monkeypatch):
    q, k, v, _ = inputs(rng, 1, 1, 70, 70, 32)
    k[0, 0, 30], q[0, 0, 7] = np.nan, np.nan
    with emulated(monkeypatch, wheels=(2,)):
        out, lse = pa.attention(q, k, v, PRIMES, device="cuda", kernel="wheel")
    met = PRIMES.to_dense(70)[:, 30]
    met[7] = True
    assert np.array_equal(np.isnan(lse[0, 0]), met) and np.array_equal(np.isnan(out[0, 0]).all(axis=1), met)
    assert np.array_equal(np.isnan(out[0, 0]).any(axis=1), met)


@pytest.mark.parametrize(
    ("words", "change", "options"),
    [
        ("float16 and bfloat16, got float32", lambda a: a.astype(np.float32), {}),
        ("head_dim 32 and 64 and 128, got 40", lambda a: np.zeros((1, 1, 20, 40), np.float16), {}),
        ("a scale above 0, got -1.0", lambda a: a, {"scale": -1}),
        (
            r"queries whose own keys are among the keys, got others \(q_start, k_start\)",
            lambda a: a,
            {"q_start": 1},
        ),
    ],
)
def test_what_it_does_not_serve_is_refused_or_gathered(words, change, options, rng, monkeypatch):
    q, k, v = (change(a) for a in inputs(rng, 1, 1, 20, 20, 32)[:3])
    with emulated(monkeypatch) as machine:
        with pytest.raises(ValueError, match=f"^kernel: 'wheel' serves {words}$"):
            pa.attention(q, k, v, PRIMES, device="cuda", kernel="wheel", **options)
        pa.attention(q, k, v, PRIMES, device="cuda", **options)
        assert [launch[0] for launch in machine.launches] == ["forward"]


def test_rows_off_the_16_byte_grid_are_refused(rng, monkeypatch):
    wide = rng.standard_normal((1, 1, 20, 33)).astype(np.float16)
    with emulated(monkeypatch) as machine:
        q, out = (
            DeviceArray(machine, wide[..., 1:]),
            DeviceArray(machine, np.zeros((1, 1, 20, 32), np.float16)),
        )
        with pytest.raises(
            ValueError, match="'wheel' serves rows that begin at multiples of 16 bytes, got others"
        ):
            pa.sparse_index_kernel(out, None, q, q, q, PRIMES, kernel="wheel")


def test_the_cheaper_kernel_is_chosen(rng, monkeypatch):
    q, k, v, _ = inputs(rng, 1, 1, 70, 70, 32)
    for step, expected in ((0, "wheel_forward"), (10**9, "forward")):
        with emulated(monkeypatch, step=step) as machine:
            pa.attention(q, k, v, PRIMES, device="cuda")
            assert [launch[0] for launch in machine.launches] == [expected]
    with emulated(monkeypatch, step=0) as machine:
        pa.attention(q, k, v, PRIMES, device="cuda", kernel="gather")
        assert [launch[0] for launch in machine.launches] == ["forward"]


def test_each_pass_has_its_own_choice(rng, monkeypatch):
    arrays = inputs(rng, 1, 1, 70, 70, 32)
    with emulated(monkeypatch, step=0) as machine:
        monkeypatch.setitem(cost.COSTS, (32, True), cost.Costs(10**9, 17, 500))
        out, lse = pa.attention(*arrays[:3], PRIMES, device="cuda")
        got = [np.full_like(a, np.nan) for a in arrays[:3]]
        pa.sparse_index_kernel_backward(*got, arrays[3], *arrays[:3], out, lse, PRIMES, device="cuda")
        launched = [launch[0] for launch in machine.launches]
    assert launched == ["wheel_forward", "backward_queries", "backward_keys"]
    for a, b in zip(got, oracle(*arrays, PRIMES)[2:], strict=True):
        assert relative(a, b) < 2**-10


def test_plans_are_kept_and_lse_may_be_none(rng, monkeypatch):
    q, k, v, _ = inputs(rng, 1, 1, 20, 20, 32)
    with emulated(monkeypatch) as machine:
        pa.sparse_index_kernel(np.empty_like(q), None, q, k, v, PRIMES, device="cuda", kernel="wheel")
        built, before = [], len(machine.uploads)
        monkeypatch.setattr(tables, "steps", lambda *a, f=tables.steps, **k: built.append(1) or f(*a, **k))
        for _ in range(2):
            pa.attention(q, k, v, PRIMES, device="cuda", kernel="wheel")
    assert len(machine.uploads) == before + 1  # the first had no lse, and so another layout
    assert not built  # but the same lists
