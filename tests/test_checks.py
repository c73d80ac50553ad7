"""What is taken for an array, and integers that do not fit: the same everywhere."""

import numpy as np
import pytest

import primeattn as pa
from primeattn.checks import extent, integers, share_memory

PATTERN = pa.Pattern("primes", window=1, global_tokens=1)


class Metres(np.ndarray):
    """A subclass that means something."""


def odd_arrays(array):
    yield np.ma.masked_array(array, array != array.flat[0])
    yield array.view(Metres)


def calls(rng):
    """Calls by what they take, each with a good array, which is then replaced."""
    x = rng.standard_normal((6, 4)).astype(np.float32)
    q = x.reshape(1, 1, 6, 4)
    dense, embedding = pa.Dense(4, 4), pa.Embedding(5, 2)
    (ps, st), (table, _) = pa.setup(rng, dense), pa.setup(rng, embedding)
    adam = pa.optim.Adam(0.1)
    labels, tree = np.array([0, 1, 2, 3, 0, 1]), {"w": x}
    yield q, lambda a: pa.attention(a, q, q, PATTERN)
    yield np.array([3]), lambda a: pa.attention(q, q, q, PATTERN, q_start=a)
    yield np.array([0, 2, 6]), lambda a: pa.attention(q, q, q, PATTERN, cu_seqlens=a)
    yield np.array([0, 2, 6]), lambda a: pa.tree.with_segments({"cu_seqlens": None}, a)
    yield x, lambda a: dense(a, ps, st)
    yield x, lambda a: pa.relu(a, {}, {})
    yield ps["bias"], lambda a: dense(x, {**ps, "bias": a}, st)
    yield x, lambda a: dense.pullback(x, ps, st)[2](a)
    yield labels, lambda a: embedding(a, table, {})
    yield x, lambda a: pa.losses.cross_entropy(a, labels)
    yield labels, lambda a: pa.losses.cross_entropy(x, a)
    yield x, lambda a: pa.losses.mse(x, a)
    yield x, lambda a: adam.update({"w": a}, tree, adam.init(tree))
    yield x, lambda a: adam.update(tree, {"w": a}, adam.init(tree))
    yield x, lambda a: pa.optim.clip_by_global_norm({"w": a}, 1.0)
    yield x.astype(np.float64), lambda a: pa.check_gradients(pa.relu, a)
    yield labels + 1, lambda a: pa.Pattern(a)


def test_subclasses_are_refused_and_files_are_taken(rng, tmp_path):
    for i, (good, call) in enumerate(calls(rng)):
        for odd in odd_arrays(good):
            with pytest.raises(TypeError, match=type(odd).__name__):
                call(odd)
        mapped = np.memmap(tmp_path / str(i), good.dtype, "w+", shape=good.shape)
        mapped[...] = good
        call(mapped)


@pytest.mark.parametrize("name", ["q_start", "k_start"])
@pytest.mark.parametrize("value", [2**62, 2**63 - 1, 2**63, 2**100, np.uint64(2**63), np.uint64(2**64 - 1)])
def test_positions_beyond_int64(name, value, rng):
    q = rng.standard_normal((2, 1, 3, 4))
    given = [value] if value > np.uint64(2**64 - 1) else [value, np.array(value), np.array([0, value], "u8")]
    for start in given:
        with pytest.raises(ValueError, match=f"{name}: expected"):
            pa.attention(q, q, q, PATTERN, **{name: start})


def test_the_last_position_that_is_taken(rng):
    q, start = rng.standard_normal((1, 1, 3, 4)), 2**62 - 1
    window = pa.Pattern(None, window=2)
    expected = pa.attention(q, q, q, window)
    for got in (
        pa.attention(q, q, q, window, q_start=start, k_start=start),
        pa.attention(q, q, q, window, q_start=np.array([start], np.uint64), k_start=start),
    ):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("ends", [[0, 2**63, 3], np.array([0, 2**64 - 1, 3], np.uint64), [0, 2**80, 3]])
def test_boundaries_beyond_int64(ends, rng):
    q = rng.standard_normal((1, 1, 3, 4))
    with pytest.raises(ValueError, match="cu_seqlens: expected integers below"):
        pa.attention(q, q, q, PATTERN, cu_seqlens=ends)
    with pytest.raises(ValueError, match="cu_seqlens: expected integers below"):
        pa.tree.with_segments({"cu_seqlens": None}, ends)


@pytest.mark.parametrize("scale", [1e39, -1e39, 10**400, np.float64(1e300)])
def test_a_scale_must_be_finite_in_the_dtype_that_is_computed_in(scale, rng):
    q = rng.standard_normal((1, 1, 3, 4)).astype(np.float32)
    with pytest.raises(ValueError, match=r"scale: expected a finite number, got .* for float32"):
        pa.attention(q, q, q, PATTERN, scale=scale)
    if abs(scale) < 1e50:
        pa.attention(q.astype(np.float64), *2 * [q.astype(np.float64)], PATTERN, scale=1e39)


def test_integers():
    assert integers("a", [1, 2]).dtype == np.int64
    with pytest.raises(TypeError, match="a: expected integers, got float64"):
        integers("a", [1.0])
    with pytest.raises(TypeError, match="a: expected integers, got object"):
        integers("a", ["1", 2**70, None])


def test_extents_and_shared_memory():
    a = np.zeros((3, 4))
    for view in (a, a.T, a[::-1], a[:, 1:3], a[0, ::-2]):
        begin, end = extent(view)
        offsets = sum(i * s for i, s in zip(np.indices(view.shape), view.strides, strict=True))
        assert begin == view.ctypes.data + offsets.min()
        assert end == view.ctypes.data + offsets.max() + 8
    assert share_memory(a, a[2]) and not share_memory(a[:, ::2], a[:, 1::2])


@pytest.mark.parametrize("attend", ["attention", "layer", "hops", "mask", "explain"])
def test_a_mask_in_place_of_a_pattern_is_told_in_one_line(attend):
    """Whoever has a mask passes it; its numbers would fill the screen."""
    mask, q = np.tril(np.ones((64, 64), bool)), np.ones((1, 2, 64, 8), np.float32)
    calls = {
        "attention": lambda: pa.attention(q, q, q, mask),
        "layer": lambda: pa.SparseIndexAttention(8, mask),
        "hops": lambda: pa.analysis.hops(mask, 64),
        "mask": lambda: pa.plot.mask(mask, 64),
        "explain": lambda: pa.kernels.explain_kernel(mask, 64),
    }
    with pytest.raises(TypeError, match=r"pattern.* Pattern.*got an array of bool of shape \(64") as caught:
        calls[attend]()
    assert "\n" not in str(caught.value)
