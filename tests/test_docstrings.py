"""Every public name says what it is, with an example; the examples run as doctests."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import sys
import textwrap
import types
from functools import cached_property

import pytest

import primeattn

MODULES = ["primeattn"] + [
    f"primeattn.{module.name}" for module in pkgutil.iter_modules(primeattn.__path__) if module.name[0] != "_"
]
MODULES.remove("primeattn.typing")  # names of types, which have no docstrings
NUMBERS = (int, tuple)  # constants, described where they are made


def public_names():
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name != f"primeattn.{error.name}":
                raise
            continue  # a bridge to a package that is not installed
        for public in getattr(module, "__all__", None) or [n for n in dir(module) if n[0] != "_"]:
            value = getattr(module, public)
            if not isinstance(value, (types.ModuleType, *NUMBERS)):
                yield f"{name}.{public}", value


@pytest.mark.parametrize("name, value", [pytest.param(*pair, id=pair[0]) for pair in public_names()])
def test_docstring_with_an_example(name, value):
    summary = (value.__doc__ or "").strip().splitlines()[:1]
    assert summary and summary[0] and not summary[0].startswith(f"{name.split('.')[-1]}(")
    assert doctest.DocTestParser().get_examples(value.__doc__)


def test_the_walk_finds_what_users_see():
    names = {name for name, _ in public_names()}
    expected = (
        "primeattn.Pattern primeattn.attention primeattn.analysis.hops primeattn.plot.mask primeattn.nn.Dense"
    )
    assert names >= set(expected.split()) and len(names) > 150


def raises(function):
    """Whether a function raises of its own accord."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    return any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(tree))


def test_errors_are_described():
    functions = {name: value for name, value in public_names() if isinstance(value, types.FunctionType)}
    silent = [
        name for name, f in functions.items() if raises(f) and "\nRaises\n------" not in inspect.getdoc(f)
    ]
    assert silent == []


# numpydoc's checks that do not hold here: periods and verbs of summaries, as formulae may follow them; order,
# types and capitals, as some arguments are best described together or in lower case; extended summaries.
LEFT_OUT = {"SS03", "SS05", "PR03", "PR04", "PR08", "RT02", "RT04", "ES01"}


@pytest.mark.parametrize("name, value", [pytest.param(*pair, id=pair[0]) for pair in public_names()])
def test_numpydoc_finds_nothing_missing(name, value):
    validation = pytest.importorskip("numpydoc.validate")
    if not isinstance(value, (type, types.FunctionType)):
        return  # an instance of a class that is described
    name = f"{value.__module__}.{value.__name__}"  # the public one may be that of a file, too
    assert [error for error in validation.validate(name)["errors"] if error[0] not in LEFT_OUT] == []


def methods():
    """Methods and properties of public classes, with what ``help`` says of them."""
    for name, value in public_names():
        for attribute in dir(value) if isinstance(value, type) else ():
            member = inspect.getattr_static(value, attribute)
            owner = next(base for base in value.__mro__ if attribute in vars(base))
            if not owner.__module__.startswith("primeattn.") or attribute[0] == "_":
                continue
            if isinstance(member, (property, cached_property, classmethod)) or inspect.isfunction(member):
                yield f"{name}.{attribute}", inspect.getdoc(member)


def test_every_method_says_what_it_does():
    assert [name for name, said in methods() if not said] == []


@pytest.mark.parametrize("owner", ["Layer", "tasks.Task"])  # from which users derive
def test_numpydoc_finds_all_arguments_of_methods(owner):
    validation = pytest.importorskip("numpydoc.validate")
    errors = [
        (name, *error)
        for name in {name for name, _ in methods() if name.rpartition(".")[0] == f"primeattn.{owner}"}
        for error in validation.validate(name)["errors"]
        if error[0] not in {*LEFT_OUT, "SA01", "EX01"}  # what the class shows
    ]
    assert errors == []


def test_what_is_to_be_seen_also_is_there():
    docscrape = pytest.importorskip("numpydoc.docscrape")
    missing = []
    for name, value in public_names():
        module = vars(sys.modules[name.rpartition(".")[0]])
        for names, _ in docscrape.NumpyDocString(value.__doc__)["See Also"]:
            for seen, _ in names:
                try:
                    eval(seen, {"primeattn": primeattn, **module})
                except (AttributeError, NameError):
                    missing.append((name, seen))
    assert missing == []
