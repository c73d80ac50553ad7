import hashlib

import numpy as np
import pytest

from primeattn import data


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def sources(tmp_path):
    """Twenty different source files, and files that a corpus must leave out."""
    files = {f"m{i:02}.py": f"# module {i:02}\n".encode() * (50 + i) for i in range(18)}
    files |= {"pkg/a.py": b"import a\n" * 60, "pkg/deep/b.py": b"import b\n" * 60}
    write(tmp_path, files)
    unwanted = ["test/x.py", "pkg/tests/x.py", "idlelib/idle_test/x.py", "encodings/x.py", "pydoc_data/x.py"]
    unwanted += ["site-packages/x.py", "pkg/__pycache__/x.py", "notes.txt"]
    write(tmp_path, {name: b"FORBIDDEN " + name.encode() for name in unwanted})
    write(tmp_path, {"empty.py": b"", "zz_copy.py": files["m03.py"]})
    return tmp_path, files


def test_stdlib_corpus_keeps_each_wanted_file_once(sources):
    root, files = sources
    corpus = data.stdlib_corpus(root)
    train, heldout = corpus.train.tobytes(), corpus.heldout.tobytes()
    assert b"FORBIDDEN" not in train + heldout
    assert len(heldout) == sum(map(len, files.values())) // 10
    held = [name for name, content in files.items() if content[:12] in heldout]
    by_hash = sorted(files, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert set(held) == set(by_hash[: len(held)]) and 2 <= len(held) < len(files)
    assert b"".join(files[name] for name in by_hash[: len(held)]).startswith(heldout)
    # What remains is every other file, once, in the order of the paths: the copy is gone.
    assert train == b"".join(files[name] for name in sorted(files) if name not in held)


def test_stdlib_corpus_does_not_depend_on_the_order_of_listing(sources, monkeypatch):
    root, _ = sources
    expected, walk = data.stdlib_corpus(root), data.os.walk

    def backwards(top):
        for folder, subfolders, names in walk(top):
            subfolders.sort(reverse=True)
            yield folder, subfolders, sorted(names, reverse=True)

    monkeypatch.setattr(data.os, "walk", backwards)
    assert data.stdlib_corpus(root).sha256 == expected.sha256


def test_stdlib_corpus_of_this_interpreter():
    corpus = data.load_corpus()
    assert corpus.heldout.size == data.HELDOUT_BYTES
    assert corpus.train.size > 5_000_000 and corpus.train.dtype == np.uint8
    assert corpus.heldout[:2000].tobytes() not in corpus.train.tobytes()
    assert len(corpus.sha256) == 64 and "standard library" in corpus.name


def test_stdlib_corpus_of_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match=r"root: expected at least two different \.py files .* got 0"):
        data.stdlib_corpus(tmp_path)


def test_text_corpus_holds_out_the_end(tmp_path):
    content = np.random.default_rng(0).integers(256, size=200_000, dtype=np.uint8).tobytes()
    write(tmp_path, {"small": content[:1005], "large": content * 10})
    small = data.load_corpus(tmp_path / "small")
    assert small.train.tobytes() == content[:905] and small.heldout.tobytes() == content[905:1005]
    large = data.load_corpus(str(tmp_path / "large"))
    assert large.heldout.size == 131072 and large.heldout.tobytes() == content[-131072:]
    assert small.name == "small" and small.sha256 != large.sha256


def test_text_corpus_errors(tmp_path):
    write(tmp_path, {"empty": b"", "tiny": b"too short"})
    with pytest.raises(ValueError, match=r"text: expected at least 10 bytes in .*empty.*, got an empty file"):
        data.load_corpus(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"text: .* got 9 bytes"):
        data.load_corpus(tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match=r"text: expected a file, found none at .*missing"):
        data.load_corpus(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match="text: expected a file"):
        data.load_corpus(tmp_path)


@pytest.mark.parametrize("size, context", [(101, 5), (6, 5), (7, 5), (13, 5), (64, 1)])
def test_batches_visit_every_window_once_per_epoch(size, context):
    text = np.arange(size, dtype=np.uint8)
    batches = data.Batches(text, batch=1, context=context, seed=0)
    windows = max(1, (size - 1) // context - 1)
    for _ in range(3):
        firsts = []
        for _ in range(windows):
            tokens, targets = next(batches)
            assert tokens.dtype == np.uint8 and tokens.shape == (1, context)
            np.testing.assert_array_equal(tokens[0], tokens[0, 0] + np.arange(context))
            np.testing.assert_array_equal(targets, tokens + 1)
            firsts.append(int(tokens[0, 0]))
        np.testing.assert_array_equal(np.diff(sorted(firsts)), context)  # side by side: none twice


def test_batches_reach_the_whole_text_and_shuffle():
    text = np.arange(50, dtype=np.uint8)
    batches = data.Batches(text, batch=4, context=7, seed=0)
    drawn = [next(batches) for _ in range(200)]
    assert set(np.concatenate([targets.ravel() for _, targets in drawn])) == set(range(1, 50))
    firsts = drawn[0][0][:, 0]  # four of the six windows of the first epoch
    assert list(firsts) != sorted(firsts)


def test_batches_resume_from_their_position_across_epochs():
    text = np.arange(50, dtype=np.uint8)
    one, two = (data.Batches(text, batch=4, context=7, seed=3) for _ in range(2))
    for _ in range(9):
        next(one)
    two.position = one.position
    assert one.position == 36
    for _ in range(5):
        np.testing.assert_array_equal(next(one), next(two))
    other = data.Batches(text, batch=4, context=7, seed=4)
    assert not np.array_equal(next(other)[0], next(data.Batches(text, batch=4, context=7, seed=3))[0])


def test_batches_errors():
    text = np.arange(20, dtype=np.uint8)
    with pytest.raises(ValueError, match="text: expected more than context = 20 bytes for training, got 20"):
        data.Batches(text, batch=1, context=20, seed=0)
    with pytest.raises(TypeError, match="text: expected a uint8 array of one axis, got int64"):
        data.Batches(text.astype(np.int64), batch=1, context=4, seed=0)
    with pytest.raises(ValueError, match="batch: expected an integer >= 1, got 0"):
        data.Batches(text, batch=0, context=4, seed=0)
    with pytest.raises(TypeError, match="context: expected an integer, got True"):
        data.Batches(text, batch=1, context=True, seed=0)
    with pytest.raises(TypeError, match=r"context: expected an integer, got 4\.0"):
        data.Batches(text, batch=1, context=4.0, seed=0)


@pytest.mark.parametrize("context", [1, 2, 3, 8, 9, 40, 100])
@pytest.mark.parametrize("size", [1, 2, 9, 40, 101])
def test_evaluation_windows_score_every_byte_once(size, context):
    text = np.arange(100, 100 + size, dtype=np.uint8)
    tokens, targets, scored = data.evaluation_windows(text, context)
    assert tokens.shape == targets.shape == scored.shape and tokens.shape[1] == min(size, context)
    np.testing.assert_array_equal(targets[scored], text)
    np.testing.assert_array_equal(tokens[targets > 100], targets[targets > 100] - 1)
    assert tokens[0, 0] == ord("\n")
    for row, (mask, target) in enumerate(zip(scored, targets, strict=True)):
        first = int(np.argmax(mask))  # a scored byte has half a context, or the whole text, before it
        assert mask[first:].all() and (first >= context // 2 or (row == 0 and first == 0)), target


def test_evaluation_windows_of_nothing():
    with pytest.raises(ValueError, match="text: expected at least one byte"):
        data.evaluation_windows(np.empty(0, np.uint8), 4)
