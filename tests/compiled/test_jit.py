"""Where the machine code of the kernels is kept."""

import ast
import compileall
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import primeattn
from primeattn.compiled import jit

PACKAGE = Path(primeattn.__file__).parent
CALL = """
import numpy as np, primeattn as pa
from primeattn.compiled import jit
q = np.ones((1, 1, 5, 8), np.float32)
out, lse = pa.attention(q, q, q, pa.Pattern("primes", window=1))
print(out.sum(), jit._FOLDER)
"""


def run(code, environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_numba_cache_dir_is_honoured(tmp_path):
    code = "from primeattn.compiled import jit\nprint(jit._FOLDER)"
    (folder,) = run(code, {"NUMBA_CACHE_DIR": str(tmp_path)})
    assert Path(folder).parent == tmp_path


def test_folder_changes_with_every_source_of_compiled_code(tmp_path, monkeypatch):
    package = tmp_path / "primeattn"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "__file__", str(package / "compiled" / "jit.py"))
    folders = {jit._cache_folder(), jit._cache_folder()}
    assert len(folders) == 1
    for number, name in enumerate(sorted(compiled_modules() | constants_of_compiled_modules()), 2):
        with (package / name).open("a") as file:
            file.write("# edited")
        folders.add(jit._cache_folder())
        assert len(folders) == number, name


def compiled_modules():
    """Files that have compiled functions; those of bench keep none on disk."""
    marked = re.compile(r"^@(numba\.)?(njit|cached_njit|part_njit|plain_njit|intrinsic)", re.MULTILINE)
    files = [path for path in PACKAGE.rglob("*.py") if marked.search(path.read_text())]
    names = {path.relative_to(PACKAGE) for path in files}
    return {name for name in names if name.parts[0] != "bench"}


def constants_of_compiled_modules():
    """Files from which these take names that compiled code may have frozen: numbers, and functions."""
    found = set()
    for name in compiled_modules():
        for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("primeattn."):
                path = Path(*node.module.split(".")[1:]).with_suffix(".py")
                if (PACKAGE / path).exists():
                    found.add(path)
    return found


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write anywhere")
def test_nowhere_to_write_still_runs(tmp_path):
    tmp_path.chmod(0o500)
    everywhere = {"NUMBA_CACHE_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert run(CALL, everywhere)[0] == "40.0"


def test_unusable_folders_are_passed_over(tmp_path, monkeypatch):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(jit, "__file__", str(blocked / "jit.py"))
    assert Path(jit._cache_folder()).parent == tmp_path / "user" / "primeattn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert jit._cache_folder() is None


def test_import_touches_no_driver_and_nothing_heavy():
    heavy = ("torch", "jax", "ml_dtypes", "matplotlib", "scipy.sparse", "tqdm", "hypothesis")
    heavy += ("numba.cuda.cudadrv.driver",)
    code = f"import sys, primeattn\nprint([m for m in {heavy!r} if m in sys.modules])"
    assert run(code, {}) == ["[]"]
    assert primeattn.__doc__


def test_folders_of_earlier_versions_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    folder = Path(jit._cache_folder())
    package = folder.name.split("-")[1]
    earlier = [f"primeattn-{16 * 'a'}/kernels_0", f"primeattn-{16 * 'b'}", f"primeattn-{package}-{16 * 'c'}"]
    others = [f"primeattn-{8 * 'd'}-{16 * 'd'}", "primeattn-old", f"other-{16 * 'e'}", folder.name]
    for name in [*earlier, *others]:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        for file in ("f-1.py311.nbi", "f-1.py311.1.nbc", "f-1.py311.nbi.tmp.01", ".f-0.nbc.01234567.tmp"):
            (tmp_path / name / file).write_bytes(b"")
    theirs = tmp_path / f"primeattn-{16 * 'f'}"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("text")
    (tmp_path / f"primeattn-{16 * '0'}").symlink_to(theirs)
    assert jit._cache_folder() == str(folder)
    assert {path.name for path in tmp_path.iterdir()} == {*others, theirs.name, f"primeattn-{16 * '0'}"}
    assert (theirs / "thesis.txt").exists()


def test_a_relative_folder_is_resolved_once(tmp_path):
    code = "import os\nfrom primeattn.compiled import jit\nos.chdir('/')\nprint(jit.cache_folder())"
    environment = {**os.environ, "NUMBA_CACHE_DIR": "cache", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout
    assert Path(printed.strip()).parent == tmp_path / "cache"


def test_nobody_has_no_home(tmp_path, monkeypatch):
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert Path(jit._cache_folder()).parent == tmp_path
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(jit, "__file__", "/dev/null/jit.py")
    assert jit._cache_folder() is None


@pytest.mark.slow
def test_a_tree_without_sources(tmp_path):
    package = tmp_path / "primeattn"
    shutil.copytree(Path(primeattn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in jit._SOURCES:
        compileall.compile_dir(package / folder, quiet=1, legacy=True)
        for path in (package / folder).rglob("*.py"):
            path.unlink()
    code = (
        "import numpy as np, primeattn as pa\nfrom primeattn.compiled import jit\n"
        "print(pa.silu(np.zeros(3), {}, {})[0].sum(), pa.__file__, jit.cache_folder())"
    )
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    total, place, folder = done.stdout.decode().split()
    assert total == "0.0" and Path(place).parent == package and list(Path(folder).glob("*.nbc"))


def test_one_compilation_of_plain_loops_serves_all_layouts(tmp_path, monkeypatch):
    monkeypatch.setattr(jit, "_FOLDER", str(tmp_path))

    @jit.plain_njit
    def trace(x):
        total = 0.0
        for i in range(len(x)):
            total += x[i, i]
        return total

    x = np.arange(12.0).reshape(3, 4)[:, :3]
    read_only = x.copy()
    read_only.setflags(write=False)
    for array in (x, x.copy(), x.copy().T, x[:1, :1], read_only):
        assert trace(array) == np.trace(array)
    assert len([*tmp_path.iterdir()]) == 1
