import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from primeattn import cli, get_num_threads, info
from primeattn.kernels.gpu import device


def test_sections():
    sections = json.loads(json.dumps(info.collect()))
    assert list(sections) == ["versions", "machine", "cpu", "gpu"]
    versions, machine, cpu, gpu = sections.values()
    assert versions["numpy"] == np.__version__ and versions["python"] == sys.version.split()[0]
    for name in ("primeattn", "numba", "llvmlite", "scipy", "matplotlib"):
        assert re.match(r"\d+\.\d+", versions[name])
    assert {"numba-cuda", "torch"} <= versions.keys()
    assert machine["cores"] >= machine["usable_cores"] >= 1 and machine["cpu"] and machine["system"]
    assert cpu["kernels"] == "tiles, scalar" and cpu["vector_bits"] in (256, 512)
    assert cpu["threads"] == get_num_threads()
    assert cpu["compiled_code"] is None or Path(cpu["compiled_code"]).is_dir()
    assert gpu == device.describe()


def test_a_package_that_is_not_there_is_none(monkeypatch):
    monkeypatch.setattr(info, "PACKAGES", ("numpy", "no-such-package"))
    assert info.versions()["no-such-package"] is None
    assert re.search(r"no-such-package +-$", info.report({"versions": info.versions()}), re.MULTILINE)


def test_compiled_code_and_threads_follow_the_environment(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "3"}
    command = [sys.executable, "-m", "primeattn", "info", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    cpu = json.loads(done.stdout)["cpu"]
    assert Path(cpu["compiled_code"]).parent == tmp_path and cpu["threads"] == 3


def test_command(capsys):
    assert cli.main(["info", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert sections == json.loads(json.dumps(info.collect()))
    assert cli.main(["info"]) == 0
    printed = capsys.readouterr().out
    assert printed == info.report(sections) + "\n"
    for name in ("numpy", "vector_bits", "compiled_code", "device"):
        assert re.search(rf"^  {name} +\S", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), ({}, "-"), ({"L1": "32K", "L2": None}, "L1 32K, L2 -"), (2, "2")]
)
def test_text(value, text):
    assert info.report({"title": {"name": value}}) == f"title\n  name  {text}"


def test_caches(tmp_path):
    for index, (level, kind, size) in enumerate([("1", "Data", "32K"), ("2", "Unified", "1024K")]):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, content in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(content + "\n")
    (tmp_path / "index2").mkdir()  # one that tells nothing
    assert info._caches(tmp_path) == {"L1 Data": "32K", "L2": "1024K"}
    assert info._caches(tmp_path / "missing") == {}
