"""As :mod:`test_machine_code`, for the gather kernels with terms of the score and dropout."""

import itertools

import numpy as np
import pytest
from interpreted import interpreted
from test_machine_code import DENSE, PRIMES, is_right

import primeattn as pa
from primeattn.bench.gpu_device import numbers, stored
from primeattn.kernels import reference
from primeattn.kernels.gpu import launch

TERMS = ("offset_bias", "global_bias", "slopes", "softcap", "dropout")
GRADIENTS = ("doffset_bias", "dglobal_bias")


def draw(rng, storage, names, pattern, heads, kv_heads, n_q, n_k, head_dim, batch=1, farthest=None):
    """Arrays, and options for distances below ``farthest``."""
    patterns, n = pattern if isinstance(pattern, list) else [pattern], farthest or n_q
    q, dout = rng.standard_normal((2, batch, heads, n_q, head_dim))
    k, v = rng.standard_normal((2, batch, kv_heads, n_k, head_dim))
    made = {
        "offset_bias": rng.standard_normal((heads, max(p.offsets(n).size for p in patterns) + 2)),
        "global_bias": rng.standard_normal((heads, max(p.global_tokens for p in patterns))),
        "slopes": rng.uniform(0, 5 / n, heads),
    }
    options = {name: stored(made[name], storage) for name in names if name in made}
    options |= {"softcap": 2.5} if "softcap" in names else {}
    options |= {"dropout": 0.3, "dropout_seed": 2**64 - 3} if "dropout" in names else {}
    return [stored(a, storage) for a in (q, k, v, dout)], options


def run(q, k, v, dout, pattern, **options):
    """out, lse, dq, dk, dv of NumPy arrays, and the gradients of biases."""
    out, lse = pa.attention(q, k, v, pattern, device="cuda", **options)
    rows = [np.zeros_like(a) for a in (q, k, v)]
    sums = {name: np.zeros_like(options[name[1:]]) for name in GRADIENTS if name[1:] in options}
    given = dout, q, k, v, out, lse, pattern
    pa.sparse_index_kernel_backward(*rows, *given, device="cuda", **options, **sums)
    return [numbers(a) for a in (out, lse, *rows, *sums.values())]


def oracle(q, k, v, dout, pattern, **options):
    q, k, v, dout = map(numbers, (q, k, v, dout))
    options = {name: numbers(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    out, lse = reference.forward(q, k, v, pattern, **options)
    return [out, lse, *reference.backward(dout, q, k, v, out, lse, pattern, **options)]


PER_HEAD = [pa.Pattern("squares", window=w, global_tokens=g) for w, g in ((0, 0), (5, 1), (9, 0), (1, 7))]
CASES = {
    # storage, (heads, kv_heads, n_q, n_k, head_dim, batch), pattern, options, blocks
    "float32": ("float32", (2, 1, 67, 67, 64, 1), PRIMES, {}, 1),
    "float64, split rows": ("float64", (1, 1, 53, 53, 16, 1), PRIMES, {}, 64),
    "bfloat16, odd width": ("bfloat16", (2, 1, 40, 40, 37, 1), PRIMES, {}, 4),
    "float16, a pattern per head": ("float16", (4, 2, 33, 33, 8, 1), PER_HEAD, {}, 16),
    "more offsets than a block stages": ("float32", (1, 1, 170, 170, 8, 1), DENSE, {}, 64),
    "whole warp": ("float32", (1, 1, 13, 13, 260, 1), PRIMES, {}, 4),
    "many globals": ("float32", (1, 1, 150, 150, 8, 1), pa.Pattern(None, global_tokens=199), {}, 64),
    "decoding": (
        "float32", (2, 1, 2, 4000, 8, 2), PRIMES,
        {"q_start": np.array([3998, 20]), "k_start": np.array([0, 1])}, 64,
    ),
    "padded": (
        "float32", (2, 1, 30, 30, 8, 2), PRIMES,
        {"q_start": np.array([-7, 60]), "k_start": np.array([-7, 50])}, 4,
    ),
    "packed": ("float32", (2, 2, 70, 70, 8, 1), PRIMES, {"cu_seqlens": [0, 1, 33, 33, 64, 70]}, 4),
}  # fmt: skip


SLOW = "float32", "whole warp"
SM_80 = "bfloat16, odd width", "packed"


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        *(pytest.param(name, (9, 0), marks=pytest.mark.slow if name in SLOW else ()) for name in CASES),
        *((name, (8, 0)) for name in SM_80),
    ],
)
def test_all_terms_together(name, capability, rng):
    storage, shape, pattern, where, blocks = CASES[name]
    arrays, options = draw(rng, storage, TERMS, pattern, *shape, farthest=max(shape[3], 100))
    with interpreted(capability, blocks=blocks) as machine:
        got = run(*arrays, pattern, **options, **where)
    assert machine.executed.keys() >= {"forward", "backward_queries", "backward_keys", "bias_gradients"}
    assert is_right(got, oracle(*arrays, pattern, **options, **where), storage)


few = [names for count in (1, 2) for names in itertools.combinations(TERMS, count)]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["float32", "float16"])
@pytest.mark.parametrize("names", few, ids=", ".join)
def test_every_term_and_every_pair(names, storage, rng):
    arrays, options = draw(rng, storage, names, PRIMES, 2, 1, 60, 60, 16)
    with interpreted((9, 0), blocks=16):
        got = run(*arrays, PRIMES, **options)
    assert is_right(got, oracle(*arrays, PRIMES, **options), storage)


def test_repeats_bit_for_bit_in_any_order_of_blocks(rng, monkeypatch):
    """Two blocks have the sums of three tiles."""
    monkeypatch.setattr(launch, "SLOTS", 2)
    arrays, options = draw(rng, "float32", TERMS, PRIMES, 1, 1, 100, 100, 64)
    results = []
    for seed in range(2):
        with interpreted((9, 0), blocks=1, seed=seed) as machine:
            results.append(run(*arrays, PRIMES, **options))
            assert {launch[1] for launch in machine.launches if launch[0] == "backward_queries"} == {2}
    assert is_right(results[0], oracle(*arrays, PRIMES, **options), "float32")
    for a, b in zip(*results, strict=True):
        assert a.tobytes() == b.tobytes()


def test_soft_cap_far_below_about_and_far_beyond_it(rng):
    """Small scores keep their digits, large ones stay at the cap."""
    arrays, _ = draw(rng, "float32", (), PRIMES, 1, 1, 50, 50, 16)
    for scale, cap in ((1e-3, 30.0), (1.0, 2.0), (1e3, 5.0), (1.0, 3e38), (0.1, 4e-38)):
        with interpreted((9, 0)):
            out, lse = pa.attention(*arrays[:3], PRIMES, softcap=cap, scale=scale, device="cuda")
        expected = reference.forward(*arrays[:3], PRIMES, softcap=cap, scale=scale)
        assert np.abs(out - expected[0]).max() < 2e-6 and np.abs(lse - expected[1]).max() < 4e-6
