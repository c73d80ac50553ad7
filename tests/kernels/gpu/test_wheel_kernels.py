"""The wheel kernels, run as Python by the emulator, against the dense float64 reference."""

from pathlib import Path

import numpy as np
import pytest
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.gpu.wheel import backward_wide as wheel_backward_wide
from primeattn.kernels.gpu.wheel import walk as wheel_walk
from primeattn.wheel import cost, tables

PRIMES = pa.Pattern("primes", window=2, global_tokens=2)
RANDOM = pa.Pattern(np.flatnonzero(np.random.default_rng(5).random(300) < 0.3) + 1, window=1, global_tokens=1)


class Bfloat16(DeviceArray):
    def __init__(self, machine, array):
        super().__init__(machine, array)
        self.dtype = "torch.bfloat16"


def bits_of(array):
    """bfloat16 bits of float32, cut, and the numbers they stand for."""
    bits = (np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, numbers_of(bits)


def numbers_of(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def relative(got, expected):
    return np.max(np.abs(got - expected), initial=0) / np.abs(expected).max()


def inputs(rng, heads, kv_heads, n_q, n_k, head_dim, batch=1):
    q, dout = rng.standard_normal((2, batch, heads, n_q, head_dim)).astype(np.float16)
    k, v = rng.standard_normal((2, batch, kv_heads, n_k, head_dim)).astype(np.float16)
    return q, k, v, dout


CASES = {
    # (heads, kv_heads, n_q, n_k, head_dim, batch), pattern, wheel, options
    "primes 2": ((1, 1, 131, 131, 32), PRIMES, 2, {}),
    "primes 6, grouped": ((2, 1, 101, 101, 32), PRIMES, 6, {"scale": 0.3}),
    "primes 30": ((1, 1, 75, 75, 32), PRIMES, 30, {}),
    "squares 6": ((1, 1, 97, 97, 64), pa.Pattern("squares", window=3, global_tokens=5), 6, {}),
    "random 2": ((1, 1, 83, 83, 32, 2), RANDOM, 2, {}),
    "natural order": ((1, 1, 70, 70, 32), pa.Pattern("mian_chowla"), 1, {}),
    "a pattern per head": ((4, 2, 49, 49, 32), [PRIMES, RANDOM, pa.Pattern("squares"), PRIMES], 2, {}),
    "all pairs are global": ((1, 1, 37, 37, 32), pa.Pattern("primes", global_tokens=99), 2, {}),
    "one token": ((1, 1, 1, 1, 32, 2), PRIMES, 6, {}),
    "chunk of a prefill": ((1, 1, 40, 95, 32), PRIMES, 2, {"q_start": 60, "k_start": 5}),
    "decoding": ((2, 1, 1, 80, 32, 2), PRIMES, 2, {"q_start": np.array([79, 33])}),
    "packed": ((1, 1, 110, 110, 32), PRIMES, 2, {"cu_seqlens": [0, 1, 70, 70, 102, 110]}),
}

STEPS = {"primes 6, grouped": 100, "primes 30": 12, "squares 6": 50}  # at which some classes are rare


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


WIDE = ("primes 6, grouped", "a pattern per head", "chunk of a prefill", "packed")
SLOW = {*CASES} - {"natural order", "one token", "chunk of a prefill", "packed"}


def case(name, one_warp):
    return pytest.param(name, one_warp, marks=pytest.mark.slow if name in SLOW else [])


@pytest.mark.parametrize(
    ("name", "one_warp"),
    [*(case(name, tables.ONE_WARP) for name in CASES), *(case(name, 0) for name in WIDE)],
)
def test_matches_the_reference(name, one_warp, rng, monkeypatch):
    """Rows wider than ``one_warp`` are shared by two warps in the backward."""
    shape, pattern, modulus, options = CASES[name]
    arrays = inputs(rng, *shape)
    dlse = rng.standard_normal(arrays[0].shape[:3]).astype(np.float32)
    step = STEPS.get(name, 20)
    with emulated(monkeypatch, wheels=(modulus,), step=step, one_warp=one_warp) as machine:
        got = run(*arrays, pattern, dlse, **options)
        queries = "wheel_queries" if one_warp else "wide_queries"
        assert {"wheel_forward", queries} <= {launch[0] for launch in machine.launches}
    expected = oracle(*arrays, pattern, dlse, **options)
    assert np.max(np.abs(got[1] - expected[1])) < 2e-6
    for a, b in zip(got, expected, strict=True):
        assert relative(a, b) < 2**-10


def test_the_cases_have_offsets_of_both_kinds(monkeypatch):
    for name, step in STEPS.items():
        (_, _, _, n, *_), pattern, modulus, _ = CASES[name]
        with emulated(monkeypatch, step=step):
            division = cost.divide(pattern, n, modulus, 32)
        assert division.singles.max() > pattern.window and len(division.regrouped) >= 6


@pytest.mark.parametrize(
    ("tiling", "one_warp"),
    [
        ((48, 32), tables.ONE_WARP),
        pytest.param((96, 64), tables.ONE_WARP, marks=pytest.mark.slow),
        pytest.param((48, 32), 0, marks=pytest.mark.slow),
    ],
)
def test_tiles_may_begin_before_the_first_row(tiling, one_warp, rng, monkeypatch):
    """Where the rows of a block are no multiple of the tile's."""
    arrays = inputs(rng, 1, 1, 2 * tiling[0] - 3, 2 * tiling[0] - 3, 32)
    for pattern in (PRIMES, pa.Pattern("primes")):
        with emulated(monkeypatch, tiling=tiling, one_warp=one_warp):
            got = run(*arrays, pattern)
        for a, b in zip(got, oracle(*arrays, pattern), strict=True):
            assert relative(a, b) < 2**-10


TILINGS_64 = [(tables.TILINGS[False, False][-1], backward) for backward in tables.TILINGS[False, True]]
TILINGS_128 = list(zip(tables.TILINGS[True, False], tables.TILINGS[True, True], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head_dim", "tilings", "backward"),
    [
        *((64, tilings, ("wheel_queries", "wheel_keys")) for tilings in TILINGS_64),
        (64, (tables.TILINGS[False, False][0],) * 2, ("wheel_queries", "wheel_keys")),
        *((128, tilings, ("wide_queries", "wide_keys")) for tilings in TILINGS_128),
    ],
    ids=lambda part: "-".join(map(str, part)) if isinstance(part, tuple) else str(part),
)
def test_blocks_of_full_size_in_bfloat16(head_dim, tilings, backward, rng, monkeypatch):
    wide, n = head_dim > tables.ONE_WARP, {64: 130, 128: 66}[head_dim]
    for of_backward, tiling in enumerate(tilings):
        monkeypatch.setitem(tables.TILINGS, (wide, bool(of_backward)), (tiling,))
    blocks = [2 * -(-n // (2 * tiling.rows)) for tiling in tilings]
    threads = [2 * tiling.rows for tiling in tilings]
    bits, exact = bits_of(rng.standard_normal((4, 1, 1, n, head_dim)))
    with emulated(monkeypatch, tiling=None, wheels=(2,)) as machine:
        q, k, v, dout = (Bfloat16(machine, a) for a in bits)
        out, dq, dk, dv = (Bfloat16(machine, np.zeros(bits.shape[1:], np.uint16)) for _ in range(4))
        lse = DeviceArray(machine, np.zeros((1, 1, n), np.float32))
        pa.sparse_index_kernel(out, lse, q, k, v, PRIMES, kernel="wheel")
        pa.sparse_index_kernel_backward(dq, dk, dv, dout, q, k, v, out, lse, PRIMES, kernel="wheel")
        assert machine.launches[0] == ("wheel_forward", blocks[0], 1, threads[0], 0)
        shape = blocks[1], 1, threads[1] * (1 + wide), 0
        assert machine.launches[1:3] == [(name, *shape) for name in backward]
        assert [launch[:3] for launch in machine.launches[3:]] == [("backward_keys", 2, 1)]  # global tokens
    expected = oracle(*exact, PRIMES)
    expected.pop(1)
    for array, reference_array in zip((out, dq, dk, dv), expected, strict=True):
        assert relative(numbers_of(array.array), reference_array) < 2**-8


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


@pytest.mark.slow
def test_repeats_bit_for_bit_in_any_order_of_threads(rng, monkeypatch):
    q, k, v, dout = inputs(rng, 2, 1, 75, 75, 32)
    results = []
    for seed in range(2):
        with emulated(monkeypatch, wheels=(2,), seed=seed):
            results.append(run(q, k, v, dout, PRIMES))
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


BARRIERS = [
    pytest.param((module.__file__, number), marks=pytest.mark.slow if later else [])
    for module in (wheel_walk, wheel_backward_wide)
    for later, number in enumerate(
        number
        for number, line in enumerate(Path(module.__file__).read_text().splitlines(), 1)
        if "cuda.syncthreads()" in line
    )
]


def is_right(rng, monkeypatch, barrier=None, **options):
    arrays = inputs(rng, 2, 1, 70, 70, 32)
    with emulated(monkeypatch, skip_barrier=barrier, **options):
        got = run(*arrays, PRIMES)
    return all(relative(a, b) < 2**-9 for a, b in zip(got, oracle(*arrays, PRIMES), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("barrier", BARRIERS, ids=lambda barrier: f"{Path(barrier[0]).stem}:{barrier[1]}")
def test_no_barrier_can_be_left_out(barrier, rng, monkeypatch):
    """In some order of threads the result is wrong without it."""
    one_warp = 0 if barrier[0] == wheel_backward_wide.__file__ else tables.ONE_WARP
    assert not all(is_right(rng, monkeypatch, barrier, one_warp=one_warp, seed=seed) for seed in range(10))


@pytest.mark.parametrize("one_warp", [pytest.param(0, marks=pytest.mark.slow), tables.ONE_WARP])
def test_barriers_suffice(one_warp, rng, monkeypatch):
    """What is wrong without one of them is right with all."""
    assert is_right(rng, monkeypatch, one_warp=one_warp, seed=0)


def test_copies_must_be_waited_for(rng, monkeypatch):
    q, k, v, _ = inputs(rng, 1, 1, 90, 90, 32)
    with emulated(monkeypatch) as machine:
        machine.tensor.wait_copies = lambda: None
        with pytest.raises(AssertionError, match="a block ended before its copies arrived"):
            pa.attention(q, k, v, PRIMES, device="cuda", kernel="wheel")


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
