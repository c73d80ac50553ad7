import copy
import os

import numpy as np
import pytest

from primeattn import checkpoint


@pytest.fixture
def tree(rng):
    layer = {"weight": rng.standard_normal((4, 3), dtype=np.float32), "bias": np.zeros(3, np.float32)}
    return {
        "parameters": {"layer_2": layer, "layer_1": {}, "scale": np.float64(2.5)},
        "optimizer": {"moments": rng.standard_normal((2, 5)), "count": 7},
        "states": {"rng": np.array([3, 2**64 - 1], np.uint64), "flags": np.array([True, False])},
        "options": {"text": None, "lr": 0.1, "name": "primes", "resume": False},
        "rng": np.random.default_rng(5),
    }


def equal(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, np.random.Generator):
        return a.bit_generator.state == b.bit_generator.state
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.all(a == b))
    return type(a) is type(b) and a == b


def test_round_trip_keeps_values_types_empty_dicts_and_order(tree, tmp_path):
    path = tmp_path / "run.npz"
    checkpoint.save(path, tree)
    assert equal(checkpoint.load(path), tree)
    assert equal(checkpoint.load(str(path), like=tree), tree)
    assert os.listdir(tmp_path) == ["run.npz"]


def test_it_is_an_npz_without_pickle(tree, tmp_path):
    checkpoint.save(tmp_path / "a", tree)
    with np.load(tmp_path / "a", allow_pickle=False) as stored:
        np.testing.assert_array_equal(
            stored["parameters/layer_2/weight"], tree["parameters"]["layer_2"]["weight"]
        )
        assert all(stored[name] is not None for name in stored.files)


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_generators_go_on_where_they_were(tmp_path, name):
    rng = np.random.Generator(getattr(np.random, name)(5))
    rng.integers(10, dtype=np.int32)  # half of a 64-bit draw is left over
    checkpoint.save(tmp_path / "a", {"rng": rng})
    loaded = checkpoint.load(tmp_path / "a")["rng"]
    np.testing.assert_array_equal(
        loaded.integers(99, size=9, dtype=np.int32), rng.integers(99, size=9, dtype=np.int32)
    )
    np.testing.assert_array_equal(loaded.standard_normal(5), rng.standard_normal(5))


def edited(tree, *path, value=None, delete=False):
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    if delete:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return tree


@pytest.mark.parametrize(
    "path, change, message",
    [
        (
            "parameters layer_2 weight",
            np.zeros((4, 5), np.float32),
            r"\(4, 5\), got float32 of shape \(4, 3\)",
        ),
        ("parameters layer_2 weight", np.zeros((4, 3)), r"float64 of shape \(4, 3\), got float32"),
        ("parameters layer_2 gain", np.zeros(3), "expected 'parameters/layer_2/gain', which it lacks"),
        ("parameters layer_2 bias", "delete", "it has 'parameters/layer_2/bias', which is not expected"),
        ("parameters layer_1", {"weight": np.zeros(1)}, "'parameters/layer_1/weight', which it lacks"),
        ("options lr", 1, "'options/lr' to be int, got float"),
        ("rng", np.random.Generator(np.random.Philox(1)), "a Philox generator, got a PCG64 generator"),
    ],
)
def test_another_structure_is_named(tree, tmp_path, path, change, message):
    checkpoint.save(tmp_path / "a", tree)
    like = edited(tree, *path.split(), value=change, delete=isinstance(change, str))
    with pytest.raises(ValueError, match=f"is of another model: .*{message}"):
        checkpoint.load(tmp_path / "a", like=like)


class Model:
    def __init__(self, width):
        self.width = width

    def __repr__(self):
        return f"Model({self.width})"


def test_another_model_with_equal_shapes_is_refused(tree, tmp_path):
    checkpoint.save(tmp_path / "a", tree, Model(4))
    assert equal(checkpoint.load(tmp_path / "a", model=Model(4)), tree)
    with pytest.raises(ValueError, match=r"another model: expected\nModel\(8\)\ngot\nModel\(4\)"):
        checkpoint.load(tmp_path / "a", model=Model(8))
    checkpoint.save(tmp_path / "a", tree)
    with pytest.raises(ValueError, match="another model"):
        checkpoint.load(tmp_path / "a", model=Model(4))


def test_every_truncation_is_refused(tree, tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, tree)
    content = path.read_bytes()
    for size in [*range(0, len(content), 101), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"a' is truncated, damaged, or not a primeattn checkpoint"):
            checkpoint.load(path)


def test_damage_is_refused_or_harmless(tree, tmp_path, rng):
    path = tmp_path / "a"
    checkpoint.save(path, tree)
    content, refused = path.read_bytes(), 0
    for place in rng.choice(len(content), size=400, replace=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert equal(checkpoint.load(path), tree)  # dates and permissions of entries do not matter
        except ValueError as error:
            assert "damaged" in str(error)
            refused += 1
    assert refused > 200


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("no checkpoint")
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    for name in ("text", "other.npz"):
        with pytest.raises(ValueError, match="not a primeattn checkpoint"):
            checkpoint.load(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="missing"):
        checkpoint.load(tmp_path / "missing")


@pytest.mark.parametrize(
    "tree, error, message",
    [
        ({"a": {"b": [1, 2]}}, TypeError, r"at 'a/b', got \[1, 2\]"),
        ({"a": np.array([None])}, TypeError, "at 'a', got dtype object"),
        ({"a": np.array(["text"])}, TypeError, "at 'a', got dtype <U4"),
        ({"a": {1: np.zeros(1)}}, ValueError, "string keys without '/', got 1 under 'a/'"),
        ({"a/b": np.zeros(1)}, ValueError, "got 'a/b'"),
        ({"": np.zeros(1)}, ValueError, "non-empty string keys"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_written(tmp_path, tree, error, message):
    with pytest.raises(error, match=message):
        checkpoint.save(tmp_path / "a", tree)
    assert os.listdir(tmp_path) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tree, tmp_path, monkeypatch):
    path = tmp_path / "a"
    checkpoint.save(path, tree)
    before, write_array, calls = path.read_bytes(), np.lib.format.write_array, []

    def full_disk(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("no space left on device")
        write_array(*args, **kwargs)

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, edited(tree, "rng", value=None))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a"]


def test_a_missing_folder_is_an_error(tree, tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.save(tmp_path / "no" / "a", tree)
