"""Checkpoints with the suffix .safetensors; what they share with .npz is in test_checkpoint."""

import json
import os
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from primeattn import _safetensors, checkpoint

needed = pytest.mark.skipif(find_spec("safetensors") is None, reason="safetensors is missing")
HEADER = {"format": "primeattn checkpoint 1", "model": None}


@pytest.fixture
def tree(rng):
    return {"parameters": {"layer_2": {"weight": rng.standard_normal((4, 3))}, "layer_1": {}}, "step": 7}


@needed
def test_safetensors_are_read_without_this_library(tree, tmp_path):
    from safetensors.numpy import load_file

    checkpoint.save(tmp_path / "a.safetensors", tree)
    stored = load_file(tmp_path / "a.safetensors")
    weight = tree["parameters"]["layer_2"]["weight"]
    np.testing.assert_array_equal(stored["parameters/layer_2/weight"], weight)


@needed
def test_arrays_of_all_layouts_come_back(tmp_path, rng):
    path = tmp_path / "a.safetensors"
    a = rng.standard_normal((4, 6))
    arrays = {
        "columns": a[:, ::2],
        "transposed": a.T,
        "backwards": a[::-1],
        "none": a[:0],
        "one": np.array(3),
    }
    arrays |= {np.dtype(c).name: np.zeros((2, 3), c) for c in "?bhilBHILefd"}
    checkpoint.save(path, arrays)
    loaded = checkpoint.load(path, like=arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
    checkpoint.save(path, {"step": 1})
    assert checkpoint.load(path) == {"step": 1}


@needed
def test_what_safetensors_cannot_store(tmp_path):
    path = tmp_path / "a.safetensors"
    for dtype in (">f4", np.complex64):
        with pytest.raises(TypeError, match=r"tree: expected a dtype that .* know at 'a/b', got"):
            checkpoint.save(path, {"a": {"b": np.zeros(2, dtype)}})
    with pytest.raises(ValueError, match="tree: expected another name than '__metadata__'"):
        checkpoint.save(path, {"__metadata__": np.zeros(2)})
    assert os.listdir(tmp_path) == []


@needed
def test_other_safetensors_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    texts = [json.dumps(HEADER | {"leaves": leaves}) for leaves in ({"b": ["array"]}, {"a": {"b": 1}})]
    for metadata in (None, {"format": "pt"}, {"primeattn": "[]"}, *({"primeattn": text} for text in texts)):
        if metadata and "primeattn" in metadata:
            metadata["sha256"] = _safetensors._hash(metadata["primeattn"], {"a": np.zeros(2)})
        save_file({"a": np.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match="not a primeattn checkpoint"):
            checkpoint.load(path)


@needed
def test_a_failed_write_of_safetensors_keeps_the_old_file(tree, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, tree)
    before, write = path.read_bytes(), _safetensors.write

    def full_disk(file, *rest):
        write(file, *rest)
        raise OSError("no space left on device")

    monkeypatch.setattr(_safetensors, "write", full_disk)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, tree | {"step": 8})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.safetensors"]


def test_without_the_package_one_sentence_says_what_to_install(tree, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    path = tmp_path / "a.safetensors"
    message = r"which is not installed \(pip install 'primeattn\[safetensors\]'\)"
    with pytest.raises(RuntimeError, match=message):
        checkpoint.save(path, tree)
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"")
    with pytest.raises(RuntimeError, match=message):
        checkpoint.load(path)
    checkpoint.save(tmp_path / "a.npz", tree)
