import numpy as np
import pytest

from primeattn import tree
from primeattn.nn import Chain, Dense, Dropout, PositionalEmbedding, setup

TREE = {"a": np.arange(3.0), "b": {"c": np.ones((2, 2), np.float32), "empty": {}}}


def test_map_keeps_the_structure_and_combines_trees():
    result = tree.map(
        lambda a, b, c: (a, b, c), {"x": 1, "d": {"y": 2}}, {"d": {"y": 20}, "x": 10}, {"x": 5, "d": {"y": 6}}
    )
    assert result == {"x": (1, 10, 5), "d": {"y": (2, 20, 6)}}
    assert tree.map(lambda leaf: leaf.shape, TREE) == {"a": (3,), "b": {"c": (2, 2), "empty": {}}}


@pytest.mark.parametrize(
    ("other", "error", "match"),
    [
        ({"a": 1}, ValueError, r"missing \['b'\], unexpected \[\]"),
        ({"a": 1, "b": {"c": 2, "empty": {}, "z": 3}}, ValueError, r"b: expected keys .* unexpected \['z'\]"),
        ({"a": 1, "b": 3}, TypeError, "b: expected a dict"),
        ({"a": {}, "b": {"c": 2, "empty": {}}}, ValueError, "a is a leaf in the first tree"),
    ],
)
def test_map_refuses_different_structures(other, error, match):
    with pytest.raises(error, match=match):
        tree.map(lambda *leaves: None, TREE, other)


def test_paths():
    assert tree.map_with_path(lambda path, leaf: path, TREE) == {"a": "a", "b": {"c": "b/c", "empty": {}}}
    flat = tree.flatten(TREE)
    assert list(flat) == ["a", "b/c"] and flat["b/c"] is TREE["b"]["c"]


def test_unflatten_is_the_inverse_of_flatten(rng):
    ps, _ = setup(rng, Chain(Dense(2, 3), Dropout(0.1), inner=Chain(Dense(3, 1))))
    back = tree.unflatten(tree.flatten(ps), like=ps)
    assert list(back) == list(ps) and back["layer_1"] == {}
    assert back["inner"]["layer_0"]["weight"] is ps["inner"]["layer_0"]["weight"]
    shuffled = dict(sorted(tree.flatten(TREE).items(), reverse=True))
    assert list(tree.unflatten(shuffled, TREE)) == ["a", "b"]
    assert tree.unflatten(tree.flatten({}), {}) == {}


def test_unflatten_takes_an_npz_file(tmp_path):
    np.savez(tmp_path / "flat.npz", **tree.flatten(TREE))
    with np.load(tmp_path / "flat.npz") as flat:
        tree.check(tree.unflatten(flat, TREE), TREE)


@pytest.mark.parametrize(
    ("flat", "error", "match"),
    [
        ({"a": 1}, ValueError, r"flat: expected the paths of like; missing \['b/c'\], unexpected \[\]"),
        ({"a": 1, "b/c": 2, "b/empty": 3}, ValueError, r"missing \[\], unexpected \['b/empty'\]"),
        ({"a": 1, "b": 2}, ValueError, r"missing \['b/c'\], unexpected \['b'\]"),
        ({"a/x": 1, "b/c": 2}, ValueError, r"missing \['a'\], unexpected \['a/x'\]"),
        ({"a": {"x": 1}, "b/c": 2}, TypeError, "flat: expected a leaf at 'a', got a dict"),
        ([1, 2], TypeError, "flat: expected a mapping from paths to leaves, got list"),
    ],
)
def test_unflatten_refuses(flat, error, match):
    with pytest.raises(error, match=match):
        tree.unflatten(flat, TREE)


def test_zeros_like_is_new_and_keeps_dtypes():
    zeros = tree.zeros_like(TREE)
    assert (zeros["a"] == 0).all() and zeros["a"].dtype == np.float64 and zeros["b"]["c"].dtype == np.float32
    assert not np.shares_memory(zeros["a"], TREE["a"])


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"a": np.arange(4.0)}, ValueError, r"ps/a: expected shape \(3,\), got \(4,\)"),
        ({"a": np.arange(3)}, TypeError, "ps/a: expected dtype float64, got int64"),
        ({"a": [1, 2, 3]}, TypeError, r"ps/a: expected an array of shape \(3,\), got list"),
        (
            {"b": {"c": TREE["b"]["c"]}},
            ValueError,
            r"ps/b: expected keys \['c', 'empty'\]; missing \['empty'\]",
        ),
        ({"extra": 1}, ValueError, r"unexpected \['extra'\]"),
        ({"b": None}, TypeError, "ps/b: expected a dict with keys .* got NoneType"),
    ],
)
def test_check_names_path_expected_and_got(changed, error, match):
    tree.check(TREE, TREE, "ps")
    with pytest.raises(error, match=match):
        tree.check({**TREE, **changed}, TREE, "ps")


def test_modes_do_not_mutate(rng):
    _, st = setup(rng, Chain(Dense(2, 2), Dropout(0.5), inner=Chain(Dropout(0.1))))
    test = tree.test_mode(st)
    assert st["layer_1"]["training"] and st["inner"]["layer_0"]["training"]
    assert not test["layer_1"]["training"] and not test["inner"]["layer_0"]["training"]
    assert test["layer_1"]["rng"] is st["layer_1"]["rng"]
    assert tree.train_mode(test)["inner"]["layer_0"]["training"]


def test_segments_are_set_replaced_and_removed(rng):
    _, st = setup(rng, Chain(Dense(2, 2), PositionalEmbedding(4, 2)))
    packed = tree.with_segments(st, [0, 2, 2, 5])
    assert packed["layer_1"]["cu_seqlens"].tolist() == [0, 2, 2, 5] and packed["layer_0"] == {}
    assert st["layer_1"]["cu_seqlens"] is None
    assert tree.with_segments(packed, np.array([0, 3], np.uint8))["layer_1"]["cu_seqlens"].tolist() == [0, 3]
    assert tree.with_segments(packed, None)["layer_1"]["cu_seqlens"] is None


@pytest.mark.parametrize(
    ("bounds", "error", "match"),
    [
        ([1, 3], ValueError, "start at 0"),
        ([0, 3, 2], ValueError, "never decrease"),
        ([], (TypeError, ValueError), "cu_seqlens"),
        ([[0, 3]], ValueError, "one axis"),
        ([0.0, 3.0], TypeError, "integers, got float64"),
        ([False, True], TypeError, "integers, got bool"),
    ],
)
def test_segments_refuse(bounds, error, match):
    with pytest.raises(error, match=match):
        tree.with_segments({"cu_seqlens": None}, bounds)


def test_segments_refuse_unsigned_boundaries_that_decrease():
    with pytest.raises(ValueError, match="never decrease"):
        tree.with_segments({}, np.array([0, 3, 2], np.uint64))


def test_state_functions_refuse_what_is_no_dict():
    with pytest.raises(TypeError, match="st: expected a nested dict, got list"):
        tree.test_mode([])
