"""Terms of the score and dropout in the gather kernels, run as Python by the emulator, against the reference.

Here float64 only, whose bounds are tight; :mod:`test_machine_code_terms` has what the compilers make of it.
"""

import itertools

import numpy as np
import pytest
from cases import spoil_padding
from emulator import DeviceArray, emulated

import primeattn as pa
from primeattn.kernels import dispatch, reference

PATTERN = pa.Pattern("primes", window=3, global_tokens=5)
TERMS = ("offset_bias", "global_bias", "slopes", "softcap", "dropout")
GRADIENTS = ("doffset_bias", "dglobal_bias")
LIMIT = 1e-12


def terms(rng, names, heads, pattern, n, dtype=np.float64):
    """Options for distances below n."""
    patterns = pattern if isinstance(pattern, list) else [pattern]
    offsets = max(p.offsets(n).size for p in patterns) + 3
    made = {
        "offset_bias": rng.standard_normal((heads, offsets)).astype(dtype),
        "global_bias": rng.standard_normal((heads, max(p.global_tokens for p in patterns))).astype(dtype),
        "slopes": rng.uniform(0, 10 / n, heads).astype(dtype),
        "softcap": 1.5,
        "dropout": 0.3,
    }
    seed = {"dropout_seed": int(rng.integers(2**64, dtype=np.uint64))} if "dropout" in names else {}
    return {name: made[name] for name in names} | seed


def inputs(rng, heads, kv_heads, n_q, n_k, head_dim, batch=1):
    q, dout = rng.standard_normal((2, batch, heads, n_q, head_dim))
    k, v = rng.standard_normal((2, batch, kv_heads, n_k, head_dim))
    return q, k, v, dout, rng.standard_normal(q.shape[:3])


def run(q, k, v, dout, dlse, pattern, wanted=GRADIENTS, **options):
    """out, lse, dq, dk, dv, and those of the gradients of biases that are wanted."""
    out, lse = pa.attention(q, k, v, pattern, device="cuda", **options)
    rows = [np.full_like(a, np.nan) for a in (q, k, v)]
    sums = {name: np.full_like(options[name[1:]], np.nan) for name in wanted if name[1:] in options}
    given = dout, q, k, v, out, lse, pattern
    pa.sparse_index_kernel_backward(*rows, *given, dlse=dlse, device="cuda", **options, **sums)
    return [out, lse, *rows, *sums.values()]


def oracle(q, k, v, dout, dlse, pattern, **options):
    options["dropout_seed"] = int(options.get("dropout_seed", 0))
    out, lse = reference.forward(q, k, v, pattern, **options)
    return [out, lse, *reference.backward(dout, q, k, v, out, lse, pattern, dlse=dlse, **options)]


def check(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(np.isfinite(a), np.isfinite(b))
        a, b = np.nan_to_num(a, neginf=-99), np.nan_to_num(b, neginf=-99)
        assert np.abs(a - b).max(initial=0) < LIMIT * max(np.abs(b[b > -99]).max(initial=0), 0.1)


few = [names for count in (1, 2) for names in itertools.combinations(TERMS, count)]


@pytest.mark.parametrize(
    "names", [TERMS, *(pytest.param(names, marks=pytest.mark.slow) for names in few)], ids=", ".join
)
def test_every_term_and_every_pair(names, rng, monkeypatch):
    arrays, options = inputs(rng, 2, 1, 41, 41, 9), terms(rng, names, 2, PATTERN, 41)
    with emulated(monkeypatch):
        got = run(*arrays, PATTERN, **options)
    check(got, oracle(*arrays, PATTERN, **options))


PER_HEAD = [pa.Pattern("squares", window=w, global_tokens=g) for w, g in ((0, 0), (5, 1), (9, 0), (1, 7))]
CASES = {
    # (heads, kv_heads, n_q, n_k, head_dim, batch), pattern, options, blocks
    "split rows": ((1, 1, 53, 53, 16, 1), PATTERN, {}, 64),
    "a pattern per head": ((4, 2, 33, 33, 8, 2), PER_HEAD, {}, 16),
    "all pairs are global": ((1, 1, 37, 37, 8, 1), pa.Pattern(None, global_tokens=99), {}, 4),
    "key range": ((2, 1, 30, 50, 8, 1), PATTERN, {"q_start": 40, "k_start": 7}, 4),
    "keys far before": ((2, 1, 20, 20, 8, 1), PATTERN, {"q_start": 140, "k_start": 100}, 64),
    "keys after queries": ((1, 1, 20, 20, 8, 1), PATTERN, {"q_start": 3, "k_start": 9}, 4),
    "decoding": (
        (2, 1, 2, 60, 8, 2), PATTERN, {"q_start": np.array([58, 20]), "k_start": np.array([0, 1])}, 64
    ),
    "padded on the left": (
        (2, 1, 30, 30, 8, 3), PATTERN,
        {"q_start": np.array([-7, 0, -30]), "k_start": np.array([-7, 0, -40])}, 4,
    ),
    "packed": ((2, 2, 70, 70, 8, 1), PATTERN, {"cu_seqlens": [0, 1, 33, 33, 64, 70]}, 4),
    "no keys": ((1, 1, 9, 0, 8, 1), PATTERN, {"q_start": 5}, 4),
    "no queries": ((1, 1, 0, 9, 8, 1), PATTERN, {"q_start": 5}, 4),
}  # fmt: skip
QUICK = ("padded on the left",)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_every_kind_of_call(name, rng, monkeypatch):
    shape, pattern, where, blocks = CASES[name]
    arrays = inputs(rng, *shape)
    for array in arrays:
        start = "k_start" if array.ndim == 4 and array.shape[2] != shape[2] else "q_start"
        spoil_padding(array, where.get(start, 0))
    options = where | terms(rng, TERMS, shape[0], pattern, 200)
    with emulated(monkeypatch, blocks=blocks):
        got = run(*arrays, pattern, **options)
    check(got, oracle(*arrays, pattern, **options))


@pytest.mark.slow
def test_gradients_of_biases_repeat_in_any_order_of_blocks(rng, monkeypatch):
    """Blocks with several tiles each, as many as there are slots for sums."""
    from primeattn.kernels.gpu import launch

    monkeypatch.setattr(launch, "SLOTS", 2)
    arrays, options = inputs(rng, 1, 1, 70, 70, 9), terms(rng, TERMS, 1, PATTERN, 70)
    results = []
    for seed in range(2):
        with emulated(monkeypatch, seed=seed, wide=32, narrow=32, blocks=1) as machine:
            results.append(run(*arrays, PATTERN, **options))
            blocks = {launch[0]: launch[1] for launch in machine.launches}
            assert blocks["backward_queries"] == 2 < blocks["forward"]
    check(results[0], oracle(*arrays, PATTERN, **options))
    for a, b in zip(*results, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("wanted", [(), GRADIENTS[:1], GRADIENTS[1:]], ids=str)
def test_wanted_gradients_alone_are_made(wanted, rng, monkeypatch):
    arrays, options = inputs(rng, 1, 1, 40, 40, 8), terms(rng, TERMS, 1, PATTERN, 40)
    with emulated(monkeypatch) as machine:
        got = run(*arrays, PATTERN, wanted, **options)
        assert [launch[0] for launch in machine.launches].count("bias_gradients") == len(wanted)
    expected = oracle(*arrays, PATTERN, **options)
    check(got, expected[:5] + [expected[5 + GRADIENTS.index(name)] for name in wanted])


def test_a_bias_of_minus_infinity_closes_an_offset(rng, monkeypatch):
    """A row with nothing left is a row without keys, in the backward too."""
    q, k, v, dout, dlse = inputs(rng, 1, 1, 40, 40, 8)
    pattern, less = pa.Pattern([1, 5, 9], window=0), pa.Pattern([5, 9], window=0)
    bias = np.array([[0, -np.inf, 0, 0]])
    with emulated(monkeypatch):
        got = run(q, k, v, dout, dlse, pattern, offset_bias=bias)
        closed = run(q, k, v, dout, np.zeros_like(dlse), pattern, offset_bias=np.full((1, 4), -np.inf))
    expected = oracle(q, k, v, dout, dlse, less, offset_bias=np.zeros((1, 3)))
    expected[5] = np.insert(expected[5], 1, 0, axis=1)
    check(got, expected)
    assert (closed[1] == -np.inf).all() and all((a == 0).all() for a in (closed[0], *closed[2:]))


@pytest.mark.slow
def test_dropout_drops_what_it_drops_on_the_cpu(rng, monkeypatch):
    """Every pair by itself: values are unit vectors, so that a row of out tells which keys it has."""
    n = 40
    q, k = np.zeros((2, 2, 2, n, n))
    v = np.broadcast_to(np.eye(n), q.shape).copy()
    pattern, dropout = pa.Pattern(None, window=n), {"dropout": 0.4, "dropout_seed": 2**64 - 77}
    with emulated(monkeypatch):
        out, _ = pa.attention(q, k, v, pattern, device="cuda", **dropout)
    for b, h in np.ndindex(2, 2):
        i, j = np.indices((n, n))
        kept = ~reference.dropped(0.4, 2**64 - 77, b, h, i, j) & (j <= i)
        assert np.array_equal(out[b, h] != 0, kept)


@pytest.mark.slow
def test_a_relaunch_takes_the_biases_and_the_seed_at_hand(rng, monkeypatch):
    """The call is checked and planned once, whatever its seed."""
    from primeattn.kernels import api

    calls, locate = [], api.locate
    monkeypatch.setattr(api, "locate", lambda *a: calls.append(1) or locate(*a))
    ws, results, expected = pa.Workspace(), [], []
    with emulated(monkeypatch) as machine:
        for seed in (3, 2**64 - 1, np.uint64(5)):
            arrays, options = inputs(rng, 2, 1, 20, 20, 8), terms(rng, TERMS, 2, PATTERN, 20)
            options["dropout_seed"] = seed
            q, k, v, dout, _ = arrays
            out, lse, rows = np.zeros_like(q), np.zeros(q.shape[:3]), [np.zeros_like(a) for a in (q, k, v)]
            sums = {name: np.zeros_like(options[name[1:]]) for name in GRADIENTS}

            def there(array):
                return DeviceArray(machine, array) if isinstance(array, np.ndarray) else array

            held = {name: there(value) for name, value in options.items()} | {"workspace": ws}
            given = [there(a) for a in (out, lse, q, k, v)]
            pa.sparse_index_kernel(*given, PATTERN, **held)
            held |= {name: there(array) for name, array in sums.items()}
            rest = [there(a) for a in (*rows, dout, q, k, v, out, lse)]
            pa.sparse_index_kernel_backward(*rest, PATTERN, **held)
            results.append([out, lse, *rows, *sums.values()])
            expected.append(oracle(q, k, v, dout, None, PATTERN, **options))
        assert len(calls) == 2
        with pytest.raises(ValueError, match="dropout_seed: expected an integer <= 18446744073709551615"):
            pa.sparse_index_kernel(*given, PATTERN, dropout=0.1, dropout_seed=2**64)
        shared = held | {"dglobal_bias": held["global_bias"]}
        with pytest.raises(ValueError, match="dglobal_bias: expected memory of its own"):
            pa.sparse_index_kernel_backward(*rest, PATTERN, **shared)
    for got, wanted in zip(results, expected, strict=True):
        check(got, wanted)


def test_the_wheel_refuses_terms_and_auto_takes_gather(rng, monkeypatch):
    q, k, v, *_ = (a.astype(np.float16) for a in inputs(rng, 1, 1, 40, 40, 64))
    monkeypatch.setattr(dispatch, "AUTO_RULE", (0, 0))
    for name in TERMS:
        options = terms(rng, (name,), 1, PATTERN, 40, np.float16)
        with emulated(monkeypatch) as machine:
            wanted = f"kernel: 'wheel' serves scores of q·k alone and no dropout, got {name}"
            with pytest.raises(ValueError, match=wanted):
                pa.attention(q, k, v, PATTERN, device="cuda", kernel="wheel", **options)
            pa.attention(q, k, v, PATTERN, device="auto", **options)
            assert [launch[0] for launch in machine.launches] == ["forward"]
