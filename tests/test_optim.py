import math
from itertools import pairwise

import numpy as np
import pytest

from primeattn import tree
from primeattn.bench.step import allocation
from primeattn.optim import SGD, Adam, AdamW, clip_by_global_norm, warmup_cosine

OPTIMISERS = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    Adam(0.05),
    Adam(0.05, betas=(0.8, 0.9), eps=1e-3),
    AdamW(0.05, weight_decay=0.3),
]


def example(rng, dtype=np.float64):
    def draw(*shape):
        return np.asarray(rng.standard_normal(shape), dtype)

    # more rows than one block, a vector, a scalar, an empty array
    return {"d": {"w": draw(40, 1000), "b": draw(5)}, "s": draw(), "none": draw(0, 3), "empty": {}}


def naive_step(opt, p, g, memory, t, lr):
    """One step for one array, as the papers print it."""
    if isinstance(opt, SGD):
        memory["v"] = opt.momentum * memory.get("v", 0) + g
        return p - lr * memory["v"]
    b1, b2 = opt.betas
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    step = lr * (memory["m"] / (1 - b1**t)) / (np.sqrt(memory["v"] / (1 - b2**t)) + opt.eps)
    decay = opt.weight_decay if isinstance(opt, AdamW) and p.ndim >= 2 else 0
    return p - lr * decay * p - step


@pytest.mark.parametrize("opt", OPTIMISERS, ids=repr)
def test_five_steps_against_the_formulae(rng, opt):
    ps = example(rng)
    state, expected = opt.init(ps), tree.flatten(ps)
    memories = {path: {} for path in expected}
    for t in range(1, 6):
        grads = example(rng)
        lr = 0.1 / t
        ps, state = opt.update(ps, grads, state, lr=lr)
        for path, g in tree.flatten(grads).items():
            expected[path] = naive_step(opt, expected[path], g, memories[path], t, lr)
            np.testing.assert_allclose(tree.flatten(ps)[path], expected[path], rtol=1e-12, atol=1e-12)
    assert state["step"] == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("opt", OPTIMISERS, ids=repr)
def test_in_place_is_bitwise_the_same(rng, opt, dtype):
    ps = example(rng, dtype)
    mine, state = tree.map(np.copy, ps), opt.init(ps)
    mine_state, leaves = opt.init(mine), tree.flatten(mine)
    for _ in range(3):
        grads = example(rng, dtype)
        before = tree.map(np.copy, {"ps": ps, "grads": grads, "state": state})
        new_ps, new_state = opt.update(ps, grads, state)
        assert_same({"ps": ps, "grads": grads, "state": state}, before)
        assert all(leaf.dtype == dtype for leaf in tree.flatten(new_ps).values())
        ps, state = new_ps, new_state
        mine, mine_state = opt.update(mine, grads, mine_state, out=(mine, mine_state))
        assert_same(mine, ps)
        assert_same(mine_state, state)
    assert all(leaf is leaves[path] for path, leaf in tree.flatten(mine).items())


def assert_same(a, b):
    for (path, x), y in zip(tree.flatten(a).items(), tree.flatten(b).values(), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)


def test_in_place_reaches_strided_parameters():
    buffer = np.ones((6, 4))
    ps = {"w": buffer[::2, ::2]}
    opt = SGD(1.0)
    opt.update(ps, {"w": np.full((3, 2), 0.25)}, opt.init(ps), out=(ps, opt.init(ps)))
    assert (buffer[::2, ::2] == 0.75).all() and (buffer[1::2] == 1).all()


def test_in_place_allocates_next_to_nothing(rng):
    ps = {"w": rng.standard_normal((1000, 1000))}
    grads, opt = tree.map(np.copy, ps), AdamW(0.1)
    state = opt.init(ps)

    def step():
        opt.update(ps, grads, state, out=(ps, state))
        clip_by_global_norm(grads, 1.0, out=grads)

    assert allocation(step) < 32 * 1024


def test_first_adam_step_is_the_learning_rate_in_each_entry():
    ps = {"w": np.zeros(3)}
    ps, _ = Adam(0.1).update(ps, {"w": np.array([3.0, -1e-3, 0.0])}, Adam(0.1).init(ps))
    np.testing.assert_allclose(ps["w"], [-0.1, 0.1, 0], rtol=1e-4)


def test_decay_is_for_matrices_unless_told_otherwise():
    ps = {"w": np.ones((2, 2)), "b": np.ones(2)}
    zero = tree.zeros_like(ps)
    for opt, w, b in [
        (AdamW(0.1, weight_decay=0.5), 0.95, 1),
        (AdamW(0.1, weight_decay=0.5, decay=lambda path, p: path == "b"), 1, 0.95),
        (Adam(0.1), 1, 1),
    ]:
        new, _ = opt.update(ps, zero, opt.init(ps))
        assert (new["w"] == w).all() and (new["b"] == b).all()


def test_adamw_finds_the_minimum():
    target, ps, opt = np.array([[1.0, -2.0]]), {"w": np.zeros((1, 2))}, AdamW(0.1, weight_decay=0)
    state = opt.init(ps)
    for step in range(300):
        lr = warmup_cosine(step, base_lr=0.1, warmup=10, total=300, final=0)
        ps, state = opt.update(ps, {"w": 2 * (ps["w"] - target)}, state, lr=lr)
    np.testing.assert_allclose(ps["w"], target, atol=1e-3)


def test_update_refuses_and_writes_nothing():
    opt, ps = Adam(0.1), {"w": np.ones((2, 2)), "b": np.ones(2)}
    state = opt.init(ps)
    grads = tree.map(np.ones_like, ps)
    frozen = tree.map(np.copy, ps)
    frozen["b"].flags.writeable = False
    for arguments, error, match in [
        ((ps, {"w": grads["w"]}, state), ValueError, r"grads: expected keys \['w', 'b'\]; missing \['b'\]"),
        ((ps, {**grads, "b": np.ones(3)}, state), ValueError, r"grads/b: expected shape \(2,\), got \(3,\)"),
        ((ps, {**grads, "b": np.ones(2, np.float32)}, state), TypeError, "grads/b: expected dtype float64"),
        (
            (ps, grads, SGD(0.1).init(ps)),
            ValueError,
            r"state: .* missing \['m', 'v'\], unexpected \['velocity'\]",
        ),
        ((ps, grads, state, (ps, {"step": state["step"]})), ValueError, r"out\[1\]: .* missing \['m', 'v'\]"),
        ((ps, grads, state, ({"w": ps["w"]}, state)), ValueError, r"out\[0\]: .* missing \['b'\]"),
        ((ps, grads, state, (frozen, state)), ValueError, "out: ps/b is read-only"),
        ((ps, grads, state, (grads, state)), ValueError, r"out: grads/. shares memory with ps/."),
    ]:
        with pytest.raises(error, match=match):
            opt.update(*arguments[:3], out=(arguments[3] if len(arguments) > 3 else (ps, state)))
        assert (
            (ps["w"] == 1).all()
            and (frozen["w"] == 1).all()
            and state["step"] == 0
            and not state["m"]["w"].any()
        )
    with pytest.raises(TypeError, match="ps/w: expected float32 or float64, got int64"):
        opt.update({"w": np.ones(2, np.int64)}, grads, state)
    with pytest.raises(ValueError, match="lr: expected a finite number of at least 0, got nan"):
        opt.update(ps, grads, state, lr=math.nan)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: SGD(-1), ValueError, r"SGD: lr must be in \[0, inf\), got -1"),
        (lambda: SGD("x"), TypeError, "SGD: lr must be a number"),
        (lambda: SGD(0.1, momentum=1), ValueError, r"momentum must be in \[0, 1\)"),
        (lambda: Adam(math.nan), ValueError, "lr must be in"),
        (lambda: Adam(True), TypeError, "lr must be a number"),
        (lambda: Adam(0.1, betas=(0.9, 1.0)), ValueError, "betas must be two"),
        (lambda: Adam(0.1, betas=0.9), ValueError, "betas must be two"),
        (lambda: AdamW(0.1, weight_decay=-1), ValueError, "weight_decay must be"),
        (lambda: AdamW(0.1, decay=3), TypeError, "decay must be callable"),
    ],
)
def test_configuration_refuses(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_configuration_is_a_value():
    assert Adam(0.1) == Adam(lr=0.1) != AdamW(0.1) and hash(Adam(0.1)) == hash(Adam(0.1))
    assert repr(AdamW(0.1, betas=[0.9, 0.95])) == "AdamW(0.1, betas=(0.9, 0.95))"
    with pytest.raises(AttributeError):
        Adam(0.1).lr = 0.2


def test_clipping(rng):
    grads = {"a": np.array([3.0, 0.0]), "b": {"c": np.array([[4.0]])}}
    clipped, norm = clip_by_global_norm(grads, 1.0)
    assert norm == 5 and isinstance(norm, float)
    np.testing.assert_allclose(clipped["a"], [0.6, 0]), np.testing.assert_allclose(clipped["b"]["c"], [[0.8]])
    assert grads["a"][0] == 3
    same, norm = clip_by_global_norm(grads, 5.0)
    assert_same(same, grads)
    assert norm == 5 and not np.shares_memory(same["a"], grads["a"])
    out, _ = clip_by_global_norm(grads, 1.0, out=grads)
    assert out["a"] is grads["a"]
    assert_same(grads, clipped)


def test_clipping_does_not_hide_what_is_not_finite():
    for bad in (np.nan, np.inf):
        grads = {"a": np.array([1.0, bad]), "b": np.array([2.0])}
        clipped, norm = clip_by_global_norm(grads, 1.0)
        assert not math.isfinite(norm) and clipped["b"][0] == 2
        np.testing.assert_array_equal(clipped["a"], grads["a"])


def test_norm_is_summed_in_float64():
    assert clip_by_global_norm({"a": np.full(4, 1e30, np.float32)}, 1.0)[1] == pytest.approx(2e30)


def test_clipping_refuses():
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="max_norm: expected"):
            clip_by_global_norm({"a": np.ones(2)}, bad)
    with pytest.raises(ValueError, match=r"out/a: expected shape \(2,\), got \(3,\)"):
        clip_by_global_norm({"a": np.ones(2)}, 1.0, out={"a": np.ones(3)})


def test_schedule():
    lrs = [warmup_cosine(s, base_lr=2.0, warmup=4, total=14, final=0.1) for s in range(20)]
    assert lrs[:5] == [0.5, 1, 1.5, 2, 2]
    assert lrs[6] == pytest.approx(2 * (0.1 + 0.9 * (1 + math.cos(0.2 * math.pi)) / 2))
    assert lrs[9] == pytest.approx(2 * (0.1 + 0.9 / 2))
    assert lrs[14:] == pytest.approx([0.2] * 6)
    assert all(a > b for a, b in pairwise(lrs[4:15]))
    assert warmup_cosine(0, base_lr=1.0, warmup=0, total=1) == 1


@pytest.mark.parametrize("bad", [{"warmup": 5, "total": 5}, {"warmup": -1, "total": 5}])
def test_schedule_refuses(bad):
    with pytest.raises(ValueError, match="0 <= warmup < total"):
        warmup_cosine(0, base_lr=1.0, **bad)
    with pytest.raises(ValueError, match="step: expected at least 0, got -1"):
        warmup_cosine(-1, base_lr=1.0, warmup=0, total=5)
    with pytest.raises(ValueError, match="base_lr"):
        warmup_cosine(0, base_lr=-1.0, warmup=0, total=5)


def leaves(rng):
    ps = {"a": rng.standard_normal((3, 4)), "b": rng.standard_normal((3, 4))}
    return ps, tree.map(np.ones_like, ps)


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), AdamW(0.1)], ids=["SGD", "AdamW"])
def test_leaves_that_share_memory_are_refused(optimizer, rng):
    ps, grads = leaves(rng)
    state, moment = optimizer.init(ps), optimizer.moments[0]
    swapped = {"a": ps["b"], "b": ps["a"]}
    tied = {"a": ps["a"], "b": ps["a"]}
    crossed = {**state, moment: {"a": ps["a"], "b": state[moment]["b"]}}
    fresh, twice = np.zeros((3, 4)), np.zeros((4, 4))
    for given, out in (
        (ps, (swapped, state)),
        (ps, (ps, crossed)),
        (ps, ({"a": fresh, "b": fresh}, optimizer.init(ps))),
        (ps, ({"a": twice[:3], "b": twice[1:]}, optimizer.init(ps))),
        (ps, ({"a": ps["a"][::-1], "b": fresh}, optimizer.init(ps))),
        (tied, None),
        (tied, (tied, state)),
        ({"a": twice[:3], "b": twice[1:]}, None),
    ):
        before = tree.map(np.copy, ps)
        with pytest.raises(ValueError, match=r"(out|ps): .* shares memory with"):
            optimizer.update(given, grads, state, out=out)
        tree.map(np.testing.assert_array_equal, ps, before)
    frozen = tree.map(np.copy, ps)
    for leaf in frozen.values():
        leaf.flags.writeable = False
    optimizer.update(frozen, grads, state)  # nothing of it is written
    # Slices of one buffer that share no element are leaves like any other.
    buffer = np.zeros((3, 8))
    columns = {"a": buffer[:, ::2], "b": buffer[:, 1::2]}
    tree.map(np.copyto, columns, ps)
    expected, _ = optimizer.update(ps, grads, state)
    got, _ = optimizer.update(columns, grads, state, out=(columns, state))
    tree.map(np.testing.assert_array_equal, got, expected)


def test_clipping_into_other_gradients_is_refused(rng):
    _, grads = leaves(rng)
    with pytest.raises(ValueError, match=r"out: .* shares memory with"):
        clip_by_global_norm(grads, 1.0, out={"a": grads["b"], "b": grads["a"]})


def test_a_rate_that_float32_cannot_hold(rng):
    ps = {"w": np.ones(3, np.float32)}
    with pytest.raises(ValueError, match=r"lr: expected a finite number of float32, got 1e\+39"):
        AdamW(1e39).update(ps, ps, AdamW(1e39).init(ps))
