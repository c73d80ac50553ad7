"""The PTX that really runs, of every kernel and for two targets, interpreted against the float64 reference.

Needs no GPU, but the compilers of the extra ``gpu-test``; skipped without them. Operands and constraints of
inline assembly, and all that the compiler does, are in what is interpreted here.
"""

import numpy as np
import pytest
from interpreted import interpreted
from runtime_path import CAPABILITIES

import primeattn as pa
from primeattn.bench.gpu_device import numbers, stored
from primeattn.kernels import reference
from primeattn.wheel import cost, tables

PRIMES = pa.Pattern("primes", window=3, global_tokens=2)
NARROW = pa.Pattern("primes", window=2, global_tokens=2)
DENSE = pa.Pattern(np.flatnonzero(np.random.default_rng(5).random(900) < 0.8) + 1, window=1, global_tokens=1)
# Largest error relative to the largest number. Of 16 bits it is two roundings for out; gradients have two
# more, as out, of which they are made, was rounded.
LIMITS = {"float64": 1e-12, "float32": 3e-6, "float16": 2**-10, "bfloat16": 2**-8}
targets = pytest.mark.parametrize("capability", CAPABILITIES, ids=CAPABILITIES.get)


def draw(rng, storage, heads, kv_heads, n_q, n_k, head_dim, batch=1):
    q, dout = rng.standard_normal((2, batch, heads, n_q, head_dim))
    k, v = rng.standard_normal((2, batch, kv_heads, n_k, head_dim))
    return [stored(a, storage) for a in (q, k, v, dout)]


def run(q, k, v, dout, pattern, dlse=None, **options):
    """out, lse, dq, dk, dv of NumPy arrays."""
    out, lse = pa.attention(q, k, v, pattern, device="cuda", **options)
    return [numbers(out), numbers(lse), *gradients(q, k, v, dout, out, lse, pattern, dlse, **options)]


def gradients(q, k, v, dout, out, lse, pattern, dlse=None, **options):
    found = [np.zeros_like(a) for a in (q, k, v)]
    pa.sparse_index_kernel_backward(
        *found, dout, q, k, v, out, lse, pattern, dlse=dlse, device="cuda", **options
    )
    return [numbers(a) for a in found]


def oracle(q, k, v, dout, pattern, dlse=None, **options):
    q, k, v, dout = map(numbers, (q, k, v, dout))
    out, lse = reference.forward(q, k, v, pattern, **options)
    return [out, lse, *reference.backward(dout, q, k, v, out, lse, pattern, dlse=dlse, **options)]


def error(got, expected):
    """Largest deviation relative to the largest number, or to 0.1; of lse as of the others."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(np.isfinite(a), np.isfinite(b))
        a, b = np.nan_to_num(a, neginf=-99), np.nan_to_num(b, neginf=-99)
        worst = max(worst, np.abs(a - b).max(initial=0) / max(np.abs(b[b > -99]).max(initial=0), 0.1))
    return worst


def is_right(got, expected, storage):
    limit = LIMITS[storage]
    of_gradients = 2 * limit if storage in ("float16", "bfloat16") else limit
    return error(got[:2], expected[:2]) < limit and error(got[2:], expected[2:]) < of_gradients


GATHER = {
    # storage, (heads, kv_heads, n_q, n_k, head_dim, batch), pattern, options, blocks
    "float32": ("float32", (2, 2, 67, 67, 64, 1), PRIMES, {}, 1),
    "float64, split rows": ("float64", (1, 1, 53, 53, 16, 1), PRIMES, {}, 64),
    "float64, odd width": ("float64", (1, 1, 53, 53, 3, 1), PRIMES, {}, 4),
    "float16": ("float16", (2, 1, 40, 40, 24, 1), PRIMES, {}, 4),
    "float16, odd width": ("float16", (2, 1, 40, 40, 7, 1), PRIMES, {}, 4),
    "bfloat16": ("bfloat16", (2, 1, 40, 40, 16, 1), PRIMES, {}, 4),
    "bfloat16, odd width": ("bfloat16", (2, 1, 40, 40, 37, 1), PRIMES, {}, 4),
    "odd width": ("float32", (1, 1, 45, 45, 5, 1), PRIMES, {"scale": -0.3}, 1),
    "one lane": ("float32", (1, 1, 131, 131, 3, 1), pa.Pattern("squares", global_tokens=3), {}, 1),
    "whole warp": ("float32", (1, 1, 13, 13, 260, 1), PRIMES, {}, 4),
    "more offsets than a block stages": ("float32", (1, 1, 340, 340, 8, 1), DENSE, {}, 64),
    "one token": ("float32", (1, 1, 1, 1, 8, 2), PRIMES, {}, 4),
    "all pairs are global": ("float32", (1, 1, 37, 37, 8, 1), pa.Pattern(None, global_tokens=99), {}, 4),
    "a pattern per head": (
        "float32",
        (4, 2, 41, 41, 8, 2),
        [pa.Pattern("squares", window=w, global_tokens=g) for w, g in ((0, 0), (5, 1), (9, 0), (1, 7))],
        {},
        16,
    ),
    "key range": ("float32", (2, 1, 30, 50, 8, 1), PRIMES, {"q_start": 40, "k_start": 7}, 4),
    "keys after queries": ("float32", (1, 1, 20, 20, 8, 1), PRIMES, {"q_start": 3, "k_start": 9}, 4),
    "decoding": (
        "float32",
        (2, 1, 2, 4000, 8, 2),
        PRIMES,
        {"q_start": np.array([3998, 20]), "k_start": np.array([0, 1])},
        64,
    ),
    "no keys": ("float32", (1, 1, 9, 0, 8, 1), PRIMES, {"q_start": 5}, 4),
    "no queries": ("float32", (1, 1, 0, 9, 8, 1), PRIMES, {"q_start": 5}, 4),
    "packed": ("float32", (2, 2, 70, 70, 8, 1), PRIMES, {"cu_seqlens": [0, 1, 33, 33, 64, 70]}, 4),
}


@targets
@pytest.mark.parametrize("name", GATHER)
def test_gather_kernels(name, capability, rng):
    storage, shape, pattern, options, blocks = GATHER[name]
    arrays = draw(rng, storage, *shape)
    dlse = rng.standard_normal(arrays[0].shape[:3]).astype("f8" if storage == "float64" else "f4")
    with interpreted(capability, blocks=blocks) as machine:
        got = run(*arrays, pattern, dlse, kernel="gather", **options)
        assert {launch[0] for launch in machine.launches} <= {"forward", "backward_queries", "backward_keys"}
    assert is_right(got, oracle(*arrays, pattern, dlse, **options), storage)


WHEEL = {
    # storage, (heads, kv_heads, n_q, n_k, head_dim, batch), pattern, wheel, options
    "primes 2": ("bfloat16", (1, 1, 333, 333, 64, 1), PRIMES, 2, {}),
    "primes 6, grouped": ("float16", (2, 1, 601, 601, 64, 1), NARROW, 6, {"scale": 0.3}),
    "primes 30": ("float16", (1, 1, 300, 300, 128, 1), NARROW, 30, {}),
    "squares 6": (
        "bfloat16",
        (1, 1, 500, 500, 128, 1),
        pa.Pattern("squares", window=3, global_tokens=5),
        6,
        {},
    ),
    "random 2": ("float16", (1, 1, 283, 283, 128, 2), DENSE, 2, {}),
    "natural order": ("bfloat16", (1, 1, 300, 300, 64, 1), pa.Pattern("mian_chowla"), 1, {}),
    "a pattern per head": (
        "float16",
        (4, 2, 149, 149, 64, 1),
        [NARROW, DENSE, pa.Pattern("squares"), NARROW],
        2,
        {},
    ),
    "all pairs are global": ("float16", (1, 1, 37, 37, 64, 1), pa.Pattern("primes", global_tokens=99), 2, {}),
    "one token": ("bfloat16", (1, 1, 1, 1, 128, 2), NARROW, 6, {}),
    "chunk of a prefill": ("float16", (1, 1, 140, 495, 128, 1), NARROW, 2, {"q_start": 360, "k_start": 5}),
    "decoding": ("float16", (2, 1, 1, 400, 64, 2), NARROW, 2, {"q_start": np.array([399, 133])}),
    "packed": ("bfloat16", (1, 1, 510, 510, 64, 1), NARROW, 2, {"cu_seqlens": [0, 1, 270, 270, 402, 510]}),
    "packed, wide": ("float16", (2, 1, 310, 310, 128, 1), NARROW, 2, {"cu_seqlens": [0, 7, 207, 310]}),
}


FEW_TILES = "all pairs are global", "one token"
STEPS = {"primes 6, grouped": 0.5, "primes 30": 0.15}  # at which some classes are rare


@targets
@pytest.mark.parametrize("name", WHEEL)
def test_wheel_kernels(name, capability, rng):
    storage, shape, pattern, wheel, options = WHEEL[name]
    arrays = draw(rng, storage, *shape)
    dlse = rng.standard_normal(arrays[0].shape[:3]).astype(np.float32)
    with interpreted(capability, wheel=wheel, step=STEPS.get(name, 0.01)) as machine:
        got = run(*arrays, pattern, dlse, kernel="wheel", **options)
        kind = "wheel" if shape[4] == 64 else "wide"
        kernels = {"wheel_forward", f"{kind}_queries", f"{kind}_keys"}
        assert kernels <= {launch[0] for launch in machine.launches}
        with_tiles = {name for name in kernels if any("mma" in opcode for opcode in machine.executed[name])}
        assert with_tiles == kernels or name in FEW_TILES
    expected = oracle(*arrays, pattern, dlse, **options)
    assert np.abs(got[1] - expected[1]).max() < 3e-6
    assert is_right(got, expected, storage)


def test_some_cases_have_offsets_in_tiles_and_others_met_one_by_one():
    for name, step in STEPS.items():
        _, (_, _, _, n, head_dim, _), pattern, wheel, _ = WHEEL[name]
        with interpreted((9, 0), step=step):
            for backward in (False, True):
                found = cost.divide(pattern, n, wheel, head_dim, backward)
                assert found.singles.max() > pattern.window and len(found.regrouped) > 40


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_other_tilings_of_the_wheel(head_dim, number, rng, monkeypatch):
    """What the day of measurement may choose is right."""
    for key, tilings in tables.TILINGS.items():
        monkeypatch.setitem(tables.TILINGS, key, (tilings[min(number, len(tilings) - 1)],))
    arrays = draw(rng, "bfloat16", 2, 1, 290, 290, head_dim)
    with interpreted((9, 0), wheel=2) as machine:
        got = run(*arrays, NARROW, kernel="wheel")
    for launch in machine.launches[:3]:
        (tiling,) = tables.TILINGS[head_dim > tables.ONE_WARP, launch[0] != "wheel_forward"]
        assert launch[3] == 2 * tiling.rows * (2 if launch[0].startswith("wide") else 1)
    assert is_right(got, oracle(*arrays, NARROW), "bfloat16")


@targets
def test_scores_that_rise_by_more_than_the_slack(capability, rng):
    """Sums are scaled anew while tiles are met, for some rows of a warp and not for others."""
    q, k, v, dout = draw(rng, "float16", 1, 1, 300, 300, 64)
    k *= (1 + 40 * (np.arange(300) % 17 == 0)[:, None]).astype(np.float16)
    with interpreted(capability, wheel=2):
        out, lse = pa.attention(q, k, v, NARROW, device="cuda", kernel="wheel")
    expected = oracle(q, k, v, dout, NARROW)
    assert error([numbers(out)], expected[:1]) < 2**-10 and np.abs(lse - expected[1]).max() < 1e-4


@pytest.mark.parametrize("kernel", ["gather", "wheel"])
def test_repeats_bit_for_bit_in_any_order_of_blocks(kernel, rng):
    arrays = draw(rng, "float16", 2, 1, 300, 300, 64)
    results = []
    for seed in range(2):
        with interpreted((9, 0), wheel=2, seed=seed):
            results.append(run(*arrays, NARROW, kernel=kernel))
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


def test_nan_stays_in_the_rows_that_attend_it(rng):
    q, k, v, dout = draw(rng, "float32", 1, 1, 47, 47, 8)
    k[0, 0, 30], v[0, 0, 11], q[0, 0, 7] = np.nan, np.nan, np.nan
    with interpreted((9, 0)):
        got = run(q, k, v, dout, PRIMES)
    with np.errstate(invalid="ignore"):
        expected = oracle(q, k, v, dout, PRIMES)
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b))
