"""The order of the house: who may import whom, as the package's docstring writes it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import primeattn

PACKAGE = Path(primeattn.__file__).parent
DOOR = {"primeattn", "primeattn.__main__"}  # which may import everything


@cache
def modules():
    """Files by their dotted names."""
    names = {path.relative_to(PACKAGE.parent).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in names.items()}


def run(node):
    """Nodes below one that are run: what is only for tools that read types is not."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from run(child)


def imports(source, known):
    """Modules of the package that a source imports, inside of functions too; ``known`` are all there are."""
    for node in run(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name


def order():
    """Number of the line of each name in the picture of the house."""
    picture = re.search(r"\n\n((    \S.*\n)+)", primeattn.__doc__).group(1)
    lines = [re.split(r"\s{2,}", line.strip())[0].split() for line in picture.splitlines()]
    return {name: number for number, names in enumerate(lines) for name in names}


@cache
def arrows():
    known = modules()
    return {name: set(imports(path.read_text(), known)) - {name} for name, path in known.items()}


def upward(graph, level):
    """Imports that go neither down nor into the file's own folder."""
    for name, targets in graph.items():
        for target in targets if name not in DOOR else ():
            own, other = name.split(".")[1], target.partition(".")[2].partition(".")[0]
            if own != other and target != "primeattn" and level[other] >= level[own]:
                yield f"{name} -> {target}"


def circle(graph):
    """Modules that import each other by way of others; empty where there are none."""
    left = {name: targets & graph.keys() for name, targets in graph.items()}
    while True:
        leaves = {name for name, targets in left.items() if not targets & left.keys()}
        if not leaves:
            return sorted(left)
        left = {name: targets for name, targets in left.items() if name not in leaves}


def test_every_file_has_its_place():
    assert {name.split(".")[1] for name in modules() if name not in DOOR} == set(order())


def test_no_import_goes_up_and_none_in_a_circle():
    assert list(upward(arrows(), order())) == []
    assert circle({name: targets for name, targets in arrows().items() if name != "primeattn"}) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("primeattn.patterns", "def f():\n    from primeattn import plot"),
        ("primeattn.patterns", "from primeattn.kernels.explain import explain_kernel"),
        ("primeattn.kernels.gpu.device", "from primeattn.kernels.dispatch import run"),
        ("primeattn.wheel.cost", "import primeattn.analysis.reach"),
    ],
)
def test_an_arrow_that_was_there_once_is_seen(name, line):
    graph = {**arrows(), name: arrows()[name] | set(imports(line, modules()))}
    assert list(upward(graph, order())) or circle({n: t for n, t in graph.items() if n != "primeattn"})
