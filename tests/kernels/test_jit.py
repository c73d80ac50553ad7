"""The disk cache of compiled kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import primeattn

CALL = """
import numpy as np, primeattn as pa
from primeattn.kernels import jit
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
    code = "from primeattn.kernels import jit\nprint(jit._FOLDER)"
    (folder,) = run(code, {"NUMBA_CACHE_DIR": str(tmp_path)})
    assert Path(folder).parent == tmp_path


def test_folder_changes_with_any_kernel_source(tmp_path, monkeypatch):
    from primeattn.kernels import jit

    names = "kernels/jit.py", "kernels/simd.py", "nn/_loops.py"
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# one")
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "kernels" / "jit.py"))
    folders = {jit._cache_folder(), jit._cache_folder()}
    assert len(folders) == 1
    for name in names:
        (tmp_path / name).write_text("# two")
        folders.add(jit._cache_folder())
    assert len(folders) == 4


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root can write anywhere")
def test_nowhere_to_write_still_runs(tmp_path):
    tmp_path.chmod(0o500)
    everywhere = {"NUMBA_CACHE_DIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert run(CALL, everywhere)[0] == "40.0"


def test_unusable_folders_are_passed_over(tmp_path, monkeypatch):
    from primeattn.kernels import jit

    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(jit, "__file__", str(blocked / "jit.py"))
    assert Path(jit._cache_folder()).parent == tmp_path / "user" / "primeattn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert jit._cache_folder() is None


def test_import_touches_no_driver_and_nothing_heavy():
    heavy = ("torch", "matplotlib", "scipy.sparse", "tqdm", "numba.cuda.cudadrv.driver", "hypothesis")
    code = f"import sys, primeattn\nprint([m for m in {heavy!r} if m in sys.modules])"
    assert run(code, {}) == ["[]"]
    assert primeattn.__doc__
