import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from primeattn import cli, get_num_threads, info
from primeattn.kernels.gpu import device, toolchain


def test_sections():
    sections = json.loads(json.dumps(info.collect()))
    assert list(sections) == ["versions", "machine", "cpu", "gpu"]
    versions, machine, cpu, gpu = sections.values()
    assert versions["numpy"] == np.__version__ and versions["python"] == sys.version.split()[0]
    for name in ("primeattn", "numba", "llvmlite", "scipy", "matplotlib"):
        assert re.match(r"\d+\.\d+", versions[name])
    assert {"numba-cuda", "cuda-bindings", "torch"} <= versions.keys()
    assert machine["cores"] >= machine["usable_cores"] >= 1 and machine["cpu"] and machine["system"]
    assert cpu["kernels"] == "tiles, scalar" and cpu["vector_bits"] in (256, 512)
    assert cpu["threads"] == get_num_threads()
    assert cpu["compiled_code"] is None or Path(cpu["compiled_code"]).is_dir()
    assert gpu == device.describe()


def test_a_package_that_is_not_there_is_none(monkeypatch):
    monkeypatch.setattr(info, "PACKAGES", ("numpy", "no-such-package"))
    assert info.versions()["no-such-package"] is None
    assert re.search(r"no-such-package +-$", info.report({"versions": info.versions()}), re.MULTILINE)


@pytest.mark.parametrize(
    ("packages", "line"),
    [
        ({"cuda-bindings": "13.5.0", "nvidia-nvvm": "13.5.37", "nvidia-nvjitlink": "13.0.88"},
         "nvvm 13.5.37, nvjitlink 13.0.88"),
        ({"cuda-bindings": "12.9.4", "nvidia-nvjitlink-cu12": "12.8.93"}, "nvjitlink 12.8.93"),
        ({}, "-"),
    ],
    ids=["both", "one", "none"],
)  # fmt: skip
def test_compilers_and_driver_of_the_gpu(packages, line, monkeypatch):
    monkeypatch.setattr(toolchain, "version", packages.get)
    printed = info.report({"gpu": device.describe()})
    assert re.search(rf"^  compilers +{line}$", printed, re.MULTILINE)
    assert re.search(r"^  driver +(CUDA \d+\.\d+|-)$", printed, re.MULTILINE)


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
