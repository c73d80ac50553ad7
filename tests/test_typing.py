"""Tools that read types see all that is public, and accept what users write."""

import ast
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_docstrings import public_names

import primeattn
from primeattn import sequences

ROOT = Path(__file__).parent.parent
WRONG = """\
import primeattn as pa
pa.Pattern(3.5)
pa.Pattern("primes").offsets("12")
pa.sequences.primess
pa.plott
pa.plot.maskk
"""


def only_for_tools(module):
    """What a module says only to tools that read types."""
    for node in ast.parse(Path(module.__file__).read_text()).body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from node.body


def test_tools_know_the_modules_that_are_imported_at_first_use():
    [node] = only_for_tools(primeattn)
    assert sorted(alias.name for alias in node.names) == sorted(primeattn._LAZY + primeattn._BRIDGES)


def test_tools_know_the_sequences_of_the_registry():
    said = {
        f"{node.name}({', '.join(arg.arg for arg in node.args.args)})"
        if isinstance(node, ast.FunctionDef)
        else node.target.id
        for node in only_for_tools(sequences)
    }
    own = {
        name for name in sequences.names() if sequences.get(name)._rule.__module__.startswith("primeattn.")
    }
    families = {
        text
        for text in sequences.families()
        if vars(sequences)[text.split("(")[0]].__module__.startswith("primeattn.")
    }
    assert said == own | families


def functions():
    for name, value in public_names():
        if inspect.isfunction(value):
            yield name, value
        for attribute, member in vars(value).items() if inspect.isclass(value) else ():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if inspect.isfunction(member) and (attribute[0] != "_" or attribute in ("__init__", "__call__")):
                yield f"{name}.{attribute}", member


def test_public_functions_are_annotated():
    missing = []
    for name, function in functions():
        if hasattr(function, "__signature__"):  # a family of sequences, see above
            continue
        signature = inspect.signature(function)
        named = {parameter: p.annotation for parameter, p in signature.parameters.items()}
        named = {parameter: said for parameter, said in named.items() if parameter not in ("self", "cls")}
        named["return"] = signature.return_annotation
        missing += [
            f"{name}: {parameter}" for parameter, said in named.items() if said is inspect.Parameter.empty
        ]
    assert missing == []


def readable(source):
    """Whether the packages that a source imports are there; Dask's own types are too few for tools."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    packages = {name.split(".")[0] for name in names if name[0] != "_"}
    return not packages & {"dask", "distributed"} and all(map(importlib.util.find_spec, packages))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder of users' code: that of the README in one file, the examples, the tests' own, and mistakes."""
    folder = tmp_path_factory.mktemp("project")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert blocks
    sources = {"readme": "\n".join(filter(readable, blocks)), "wrong": WRONG}
    sources["users"] = (ROOT / "tests" / "users.py").read_text()
    sources |= {path.stem: path.read_text() for path in (ROOT / "examples").glob("*.py")}
    for name, source in sources.items():
        if readable(source):
            (folder / f"{name}.py").write_text(source)
    return folder


def checked(errors):
    """Raise unless ``errors``, as (file, line, message), are those of the mistakes made on purpose."""
    assert [error for error in errors if error[0] != "wrong.py"] == []
    assert {line for _, line, _ in errors} == set(range(2, 2 + WRONG.count("\n") - 1))


@pytest.mark.slow
def test_mypy_accepts_what_users_write(project):
    pytest.importorskip("mypy")
    # Others' packages without types are no fault of the code, and names in a README are used again.
    options = [
        "--strict",
        "--follow-imports=silent",
        "--disable-error-code=import-untyped",
        "--allow-redefinition",
    ]
    command = [sys.executable, "-m", "mypy", *options, "--output=json", "."]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    found = map(json.loads, done.stdout.splitlines())
    checked(
        [(error["file"], error["line"], error["message"]) for error in found if error["severity"] == "error"]
    )


@pytest.mark.slow
def test_pyright_accepts_what_users_write(project):
    pytest.importorskip("pyright")
    (project / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT)]}))
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    checked(
        [
            (Path(error["file"]).name, error["range"]["start"]["line"] + 1, error["message"])
            for error in found
            if error["severity"] == "error"
        ]
    )
