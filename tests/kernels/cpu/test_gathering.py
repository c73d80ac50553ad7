"""Steps of decoding: one query per sequence, whose keys are copied, or read where they are."""

import numpy as np
import pytest
from cases import FORWARD, largest_error, random_pattern, random_terms

import primeattn as pa
from primeattn.kernels import reference
from primeattn.kernels.cpu import gathering, launch, plan


def step(rng, dtype, head_dim, terms):
    """A random step of decoding: q, keys and values that lie well, and options."""
    batch, kv_heads, group = (int(n) for n in rng.integers(1, 4, 3))
    heads, n = kv_heads * group, int(rng.integers(1200, 1500))
    pattern = (
        [random_pattern(rng, 60) for _ in range(heads)] if rng.random() < 0.5 else random_pattern(rng, 60)
    )
    q = rng.standard_normal((batch, heads, 1, head_dim)).astype(dtype)
    k, v = rng.standard_normal((2, batch, kv_heads, n, head_dim)).astype(dtype)
    if rng.random() < 0.5:  # rows of several heads side by side
        k, v = (np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (k, v))
    options = {"q_start": rng.integers(n // 2, n, batch)}
    if terms:
        options |= random_terms(rng, dtype, heads, pattern, n)
    return q, k, v, pattern, options


@pytest.fixture
def ways(monkeypatch):
    """How the rows of calls were taken."""
    taken, make_job = [], launch.records.make_job

    def watched(arrays, numbers):
        taken.append(numbers["gather"])
        return make_job(arrays, numbers)

    monkeypatch.setattr(launch.records, "make_job", watched)
    return taken


@pytest.mark.parametrize("terms", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_rows_read_in_place_give_the_bits_of_copies(dtype, terms, rng, ways, one_head_at_a_time):
    seen = set()
    for head_dim in 2 * (16, 32, 64, 128, 256):
        q, k, v, pattern, options = step(rng, dtype, head_dim, terms)
        there = pa.attention(q, k, v, pattern, **options)
        copied = pa.attention(q, *(spread(x) for x in (k, v)), pattern, **options)
        assert all(np.array_equal(a, b) for a, b in zip(there, copied, strict=True))
        expected, _ = reference.forward(q, k, v, pattern, **options)
        assert largest_error(there[0], expected) < FORWARD[dtype] / (1 - options.get("dropout", 0))
        assert ways[-1] != gathering.IN_PLACE
        seen.add(ways[-2])
    assert gathering.IN_PLACE in seen


def spread(x):
    """The same rows, a number further apart."""
    wide = np.empty((*x.shape[:3], x.shape[3] + 1), x.dtype)
    wide[..., :-1] = x
    return wide[..., :-1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_a_query_does_not_see_does_not_matter(value, rng, ways, one_head_at_a_time):
    pattern = pa.Pattern("squares", window=1, global_tokens=3)
    q = rng.standard_normal((1, 1, 1, 32)).astype("f4")
    k, v = rng.standard_normal((2, 1, 1, 1000, 32)).astype("f4")
    expected = pa.attention(q, k, v, pattern, q_start=999)
    unseen = ~pattern.to_dense(1000)[999]
    k[:, :, unseen] = v[:, :, unseen] = value
    assert all(map(np.array_equal, expected, pa.attention(q, k, v, pattern, q_start=999)))
    v[:, :, 999] = np.inf  # a seen value that unused slots must not multiply by 0
    assert np.isposinf(pa.attention(q, k, v, pattern, q_start=999)[0]).all()
    assert set(ways) == {gathering.IN_PLACE}


@pytest.mark.parametrize(
    ("head_dim", "well"),
    [(16, True), (32, True), (64, True), (128, True), (48, False), (96, False), (20, False)],
)
def test_which_rows_lie_well(head_dim, well):
    k = np.zeros((1, 2, 70, head_dim), np.float32)
    lines = -(-head_dim * 4 // 64)
    assert gathering.lie_well(k, k, lines) == well
    assert not gathering.lie_well(k, k[:, :, ::2], lines)
    assert gathering.lie_well(k[:, :, ::2], k[:, :, ::2], lines) == well


def test_a_step_takes_the_plan_of_an_earlier_one(rng, monkeypatch, one_head_at_a_time):
    """And computes what a plan of its own does."""
    made, make_plan = [], plan.make_plan
    monkeypatch.setattr(plan, "make_plan", lambda *call: made.append(call) or make_plan(*call))
    pattern = tuple(pa.Pattern("primes", window=2, global_tokens=g) for g in (0, 3))
    q = rng.standard_normal((2, 2, 1, 16)).astype("f4")
    k, v = rng.standard_normal((2, 2, 1, 3000, 16)).astype("f4")
    steps = [np.array([end - 1, end - 5]) for end in range(2100, 2140)]
    results = [
        pa.attention(q, k[:, :, : max(at) + 1], v[:, :, : max(at) + 1], pattern, q_start=at) for at in steps
    ]
    assert len(made) == 1
    monkeypatch.setattr(plan, "_plans_of_step", lambda *call: ())
    for at, result in zip(steps, results, strict=True):
        k_seen, v_seen = k[:, :, : max(at) + 1], v[:, :, : max(at) + 1]
        assert all(map(np.array_equal, result, pa.attention(q, k_seen, v_seen, pattern, q_start=at)))
