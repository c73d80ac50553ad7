import copy
import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest

from primeattn import Chain, Pattern, SparseIndexAttention, checkpoint, sequences

needs_safetensors = pytest.mark.skipif(find_spec("safetensors") is None, reason="safetensors is missing")


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


@pytest.fixture(params=["a", pytest.param("a.safetensors", marks=needs_safetensors)])
def path(request, tmp_path):
    """A file of each format."""
    return tmp_path / request.param


def equal(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, np.random.Generator):
        return a.bit_generator.state == b.bit_generator.state
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.all(a == b))
    return type(a) is type(b) and a == b


def test_round_trip_keeps_values_types_empty_dicts_and_order(tree, path):
    checkpoint.save(path, tree)
    assert equal(checkpoint.load(path), tree)
    assert equal(checkpoint.load(str(path), like=tree), tree)
    assert os.listdir(path.parent) == [path.name]
    assert checkpoint.load(path)["optimizer"]["moments"].flags.writeable


def test_it_is_an_npz_without_pickle(tree, tmp_path):
    checkpoint.save(tmp_path / "a", tree)
    with np.load(tmp_path / "a", allow_pickle=False) as stored:
        np.testing.assert_array_equal(
            stored["parameters/layer_2/weight"], tree["parameters"]["layer_2"]["weight"]
        )
        assert all(stored[name] is not None for name in stored.files)


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_generators_go_on_where_they_were(path, name):
    rng = np.random.Generator(getattr(np.random, name)(5))
    rng.integers(10, dtype=np.int32)  # half of a 64-bit draw is left over
    checkpoint.save(path, {"rng": rng})
    loaded = checkpoint.load(path)["rng"]
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
    "where, change, message",
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
def test_another_structure_is_named(tree, path, where, change, message):
    checkpoint.save(path, tree)
    like = edited(tree, *where.split(), value=change, delete=isinstance(change, str))
    with pytest.raises(ValueError, match=f"is of another model: .*{message}"):
        checkpoint.load(path, like=like)


class Model:
    def __init__(self, width):
        self.width = width

    def __repr__(self):
        return f"Model({self.width})"


def test_another_model_with_equal_shapes_is_refused(tree, path):
    checkpoint.save(path, tree, Model(4))
    assert equal(checkpoint.load(path, model=Model(4)), tree)
    with pytest.raises(ValueError, match=r"another model: expected\nModel\(8\)\ngot\nModel\(4\)"):
        checkpoint.load(path, model=Model(8))
    checkpoint.save(path, tree)
    with pytest.raises(ValueError, match="another model"):
        checkpoint.load(path, model=Model(4))


def attending(*patterns):
    return Chain(SparseIndexAttention(8, patterns, heads=len(patterns)))


def test_models_with_functions_of_the_user_cannot_be_told_apart(tmp_path):
    def threes(limit):
        return range(3, limit + 1, 3)

    for f, g in ((threes, lambda limit: range(5, limit + 1, 5)), (lambda limit: [1], lambda limit: [])):
        checkpoint.save(tmp_path / "a", {"step": 1}, attending(Pattern(f)))
        for other in (f, g):
            for sequence in (other, 2 * sequences.from_callable(other) | sequences.primes):
                with pytest.raises(ValueError, match=r"(may be|is) of another model"):
                    checkpoint.load(tmp_path / "a", model=attending(Pattern(sequence)))
        assert checkpoint.load(tmp_path / "a") == {"step": 1}


def test_models_that_print_alike_are_told_apart_by_their_offsets(tmp_path, monkeypatch):
    monkeypatch.setattr(Pattern, "__repr__", lambda self: "Pattern(...)")
    checkpoint.save(tmp_path / "a", {"step": 1}, attending(Pattern([1, 2, 4]), Pattern("primes")))
    for patterns in (([1, 2, 4], "primes"), (sequences.from_array([4, 2, 1]), sequences.primes)):
        model = attending(*map(Pattern, patterns))
        assert checkpoint.load(tmp_path / "a", model=model) == {"step": 1}
    for patterns in (([1, 3, 4], "primes"), ([1, 2, 4], "squares"), ("primes", [1, 2, 4])):
        with pytest.raises(ValueError, match="another model: expected other offsets in"):
            checkpoint.load(tmp_path / "a", model=attending(*map(Pattern, patterns)))


def test_checkpoints_from_before_sequences_were_stored(tmp_path):
    model = attending(Pattern("primes"))
    checkpoint.save(tmp_path / "a", {"step": 1}, model)
    edit_text(tmp_path / "a", lambda header: {name: header[name] for name in ("format", "model", "leaves")})
    assert checkpoint.load(tmp_path / "a", model=model) == {"step": 1}


def test_every_truncation_is_refused(tree, path):
    checkpoint.save(path, tree)
    content = path.read_bytes()
    for size in [*range(0, len(content), 101), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(
            ValueError, match=rf"{path.name}' is truncated, damaged, or not a primeattn checkpoint"
        ):
            checkpoint.load(path)


def check_damage(tree, path, rng, rounds):
    """Flip bits and cut: what is loaded is equal, all else a ValueError that names the file."""
    checkpoint.save(path, tree)
    content, refused = path.read_bytes(), 0
    for _ in range(rounds):
        damaged = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(0, 4)):
            damaged[place] ^= 1 << int(rng.integers(8))
        if rng.random() < 0.3:
            del damaged[rng.integers(len(content)) :]
        path.write_bytes(damaged)
        try:
            assert equal(checkpoint.load(path), tree)  # dates and permissions of entries do not matter
        except ValueError as error:
            assert "damaged" in str(error) and str(path) in str(error)
            refused += 1
    assert refused > rounds / 2


def test_damage_is_refused_or_harmless(tree, path, rng):
    check_damage(tree, path, rng, 200)


@pytest.mark.slow
def test_much_damage(tree, path, rng):
    check_damage(tree, path, rng, 5000)


def edit_text(path, change):
    """Write ``path`` anew with ``change(header)``, and checksums that are right."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    header = json.loads(entries["checkpoint.json"])
    changed = change(header)
    entries["checkpoint.json"] = json.dumps(header if changed is None else changed)
    write_zip(path, entries)


def write_zip(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


HOSTILE_STATES = [
    ("MT19937", "state pos", 10**9),
    ("MT19937", "state pos", -1),
    ("MT19937", "state pos", True),
    ("MT19937", "state key", [1] * 623),
    ("MT19937", "state key", [1] * 623 + [2**32]),
    ("MT19937", "state key", 1),
    ("MT19937", "state more", 1),
    ("Philox", "buffer_pos", 5),
    ("Philox", "buffer", [1, 2, 3]),
    ("Philox", "state counter", [1, 2, 3, 2**64]),
    ("PCG64", "state inc", 2**128),
    ("PCG64", "uinteger", 2**32),
    ("PCG64", "has_uint32", 2),
    ("PCG64DXSM", "state state", -1),
    ("SFC64", "state state", [1, 2, 3, 4.5]),
    ("SFC64", "bit_generator", "PCG64"),
    ("SFC64", "bit_generator", "seed"),
    ("SFC64", "state", None),
]


@pytest.mark.parametrize("name, place, value", HOSTILE_STATES)
def test_states_of_generators_are_checked(name, place, value, tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, {"rng": np.random.Generator(getattr(np.random, name)(5))})

    def change(header):
        *parents, key = place.split()
        state = header["leaves"]["rng"][1]
        for parent in parents:
            state = state[parent]
        state[key] = value

    edit_text(path, change)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: [],
        lambda header: {"format": header["format"]},
        lambda header: {**header, "model": ["array"]},
        lambda header: {**header, "leaves": ["a"]},
        lambda header: {**header, "leaves": {"a": {"b": 1}}},
        lambda header: {**header, "leaves": {"a": ["array"], "a/b": 1}},
        lambda header: {**header, "leaves": {"a/b": 1, "a": ["array"]}},
        lambda header: {**header, "leaves": {"a/": 1}},
        lambda header: {**header, "leaves": {"b": ["array"]}},
        lambda header: {**header, "leaves": {"b": ["generator", None]}},
        lambda header: {**header, "leaves": {"b": [1, 2, 3]}},
        lambda header: {**header, "leaves": {"/".join("a" * 5000): 1}},
    ],
)
def test_hostile_headers(change, tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, {"a": np.zeros(3)})
    edit_text(path, change)
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(path)


def test_a_header_nested_too_deeply(tmp_path):
    write_zip(tmp_path / "a", {"checkpoint.json": "[" * 100_000})
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(tmp_path / "a")


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


HEADER = {"format": "primeattn checkpoint 1", "model": None, "leaves": {"a": ["array"]}}
HOSTILE_ARRAYS = {
    "text": npy(np.array(["text"])),
    "dates": npy(np.array(["2020-01-01"], "M8[D]")),
    "bytes": npy(np.array([b"text"])),
    "records": npy(np.zeros(2, "i4,f4")),
    "void": npy(np.zeros(2, "V4")),
    "objects": npy(np.zeros(2, int)).replace(b"'<i8'", b"'|O' "),
    "an unknown type": npy(np.zeros(2, int)).replace(b"<i8", b"<i7"),
    "more than there is": npy(np.zeros(2, int)).replace(b"(2,), }", b"(2000000000,), }"),
    "far more than there is": npy(np.zeros(2, int)).replace(b"(2,), }", b"(99999999999999999999,), }"),
    "less than there is": npy(np.zeros(2, int)).replace(b"(2,), }", b"(1,), }"),
    "no array": b"",
    "no end": npy(np.zeros(2, int))[:100],
    "a call": npy(np.zeros(2, int)).replace(b"(2,), }", b"((1),exit(),), }"),
    "another length": npy(np.zeros(8, int)).replace(b"v\0", b"u\0"),
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_hostile_arrays(name, tmp_path):
    write_zip(tmp_path / "a", {"checkpoint.json": json.dumps(HEADER), "a.npy": HOSTILE_ARRAYS[name]})
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load(tmp_path / "a")


def test_bombs_ask_for_no_memory(tmp_path):
    zeros = npy(np.zeros(2**24))  # 128 MiB, in a file of 130 KB
    entries = {"checkpoint.json": json.dumps(HEADER), "a.npy": zeros}
    write_zip(tmp_path / "compressed", entries, zipfile.ZIP_DEFLATED)
    names = [f"a{i}" for i in range(100)]
    entries = {"checkpoint.json": json.dumps({**HEADER, "leaves": {name: ["array"] for name in names}})}
    with zipfile.ZipFile(tmp_path / "overlapping", "w") as archive:
        archive.writestr("checkpoint.json", entries["checkpoint.json"])
        archive.writestr("a.npy", npy(np.zeros(2**20)))
        one = archive.getinfo("a.npy")
        for name in names:  # all are the same bytes of the file
            entry = archive.NameToInfo[f"{name}.npy"] = copy.copy(one)
            entry.filename = f"{name}.npy"
            archive.filelist.append(entry)
    del zeros
    code = """
import resource, sys
from primeattn import checkpoint
space = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (space + 2**26, space + 2**26))
for path in sys.argv[1:]:
    try:
        checkpoint.load(path)
    except ValueError as error:
        assert "damaged" in str(error), error
    else:
        sys.exit(1)
"""
    paths = [tmp_path / "compressed", tmp_path / "overlapping"]
    assert subprocess.run([sys.executable, "-c", code, *paths]).returncode == 0


def check_concurrent(path, loads):
    """Four threads save, this one loads: every load is whole."""
    stop, failed = threading.Event(), []

    def write(i):
        try:
            while not stop.is_set():
                checkpoint.save(path, {"a": np.full(3000, i), "b": {"c": np.full(500, i)}, "i": i})
        except BaseException as error:
            failed.append(error)

    checkpoint.save(path, {"a": np.zeros(3000, int), "b": {"c": np.zeros(500, int)}, "i": 0})
    threads = [threading.Thread(target=write, args=(i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(loads):
            tree = checkpoint.load(path)
            assert (tree["a"] == tree["i"]).all() and (tree["b"]["c"] == tree["i"]).all()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed and os.listdir(path.parent) == [path.name]


def test_a_load_beside_writers_is_whole(path):
    check_concurrent(path, 200)


@pytest.mark.slow
def test_many_loads_beside_writers_are_whole(tmp_path):
    check_concurrent(tmp_path / "a", 5000)


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
        ({"a": {1: np.zeros(1)}}, ValueError, "without '/', got 1 under 'a/'"),
        ({"a/b": np.zeros(1)}, ValueError, "got 'a/b'"),
        ({"": np.zeros(1)}, ValueError, "non-empty string keys"),
        ({"a\0b": np.zeros(1)}, ValueError, r"without '\\0' .* got 'a\\x00b'"),
        ({"\udcff": np.zeros(1)}, ValueError, r"of Unicode text, .* got '\\udcff'"),
        ({"ä" * 40_000: np.zeros(1)}, ValueError, "names of at most 65000 bytes, got ää"),
        ({"a": np.array(["2020-01-01"], "M8[D]")}, TypeError, "at 'a', got dtype datetime64"),
        ({"a": np.zeros(1, "V4")}, TypeError, r"at 'a', got dtype \|V4"),
        ({"a": np.ma.array([1.0, 2.0], mask=[0, 1])}, TypeError, "a plain array at 'a', got MaskedArray"),
        ({"losses": [0.5, 0.25]}, TypeError, r"got \[0\.5, 0\.25\]; store a list of numbers as np\.array"),
        ([1], TypeError, r"tree: expected a dict, got \[1\]"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_written(path, tree, error, message):
    with pytest.raises(error, match=message):
        checkpoint.save(path, tree)
    assert os.listdir(path.parent) == []


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
