"""Machine code on disk: damaged, in no place, of another version."""

import numba

from primeattn.compiled import disk_cache
from primeattn.compiled.disk_cache import DiskCache


def double(x):
    return 2 * x


def compiled(folder):
    dispatcher = numba.njit(double)
    dispatcher._cache = DiskCache(double, folder)
    assert dispatcher(21) == 42
    return sum(dispatcher.stats.cache_hits.values())


def test_damaged_code_is_compiled_anew(tmp_path, rng):
    assert compiled(tmp_path) == 0 and compiled(tmp_path) == 1
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = [bytearray(content) for _ in range(8)]
    for damaged, place in zip(flipped, rng.integers(len(content), size=8), strict=True):
        damaged[place] ^= 1 << int(rng.integers(8))
    for damaged in (b"", content[:20], content[:-1], content + b"x", *flipped):
        path.write_bytes(damaged)
        assert compiled(tmp_path) == 0 and compiled(tmp_path) == 1  # and is whole again
    assert [*tmp_path.iterdir()] == [path]
    path.unlink()
    path.mkdir()  # can be neither read nor replaced
    assert compiled(tmp_path) == 0


def test_a_full_disk_is_gone_on_without(tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_cache, "written_whole", full)
    assert compiled(tmp_path) == 0
    monkeypatch.undo()
    assert compiled(tmp_path / "gone") == 0


def test_code_of_another_version_is_none(tmp_path, monkeypatch):
    assert compiled(tmp_path) == 0
    monkeypatch.setattr(disk_cache.numba, "__version__", "0.0")
    assert compiled(tmp_path) == 0
