"""The pages of the API reference: one for each public module, with a page for each of its names."""

import pkgutil
import re
from importlib import import_module
from types import FunctionType, GenericAlias, ModuleType, UnionType

from sphinx.ext.autodoc.mock import mock

import primeattn

EXTRAS = ["torch", "jax", "dask", "distributed", "transformers", "safetensors"]
GROUPS = {
    "Patterns": ["sequences", "analysis", "plot"],
    "Attention and layers": ["kernels", "nn"],
    "Training": ["losses", "optim", "tree", "checkpoint", "data", "stepper", "train", "language_model"],
    "Research": ["tasks", "study", "baselines"],
    "Bridges": ["torch", "transformers", "jax", "dask"],
    "The machine": ["bench", "info"],
}
PARTS = {  # of the package's own page, by where an object is made
    "Patterns and kernels": ("primeattn.patterns", "primeattn.kernels"),
    "Layers": ("primeattn.nn",),
    "States, memory, checks": ("",),
}
CONSTANTS = (int, tuple, GenericAlias, UnionType)  # the last two: names for types


def modules():
    """Public modules that have names of their own, by group; {heading: [name, ...]}."""
    known = [module.name for module in pkgutil.iter_modules(primeattn.__path__)]
    found = [name for name in known if name[0] != "_" and name != "cli" and _own(name)]
    groups = {heading: [name for name in known if name in found] for heading, known in GROUPS.items()}
    left = sorted(set(found) - {name for known in groups.values() for name in known})
    return {heading: known for heading, known in {**groups, "What these use": left}.items() if known}


def public(name):
    """What a module makes public: {name: value}."""
    with mock(EXTRAS):
        module = import_module(f"primeattn.{name}")
        return {name: getattr(module, name) for name in getattr(module, "__all__", ())}


def _own(name):
    """The part of it that ``primeattn`` does not have itself."""
    return {key: value for key, value in public(name).items() if getattr(primeattn, key, None) is not value}


def write(folder):
    """Write index.rst and a page for each module."""
    folder.mkdir(exist_ok=True)
    pages = {"primeattn": _own_page()}
    index = [*_title("API reference", "="), "Every public name, by module. ``import primeattn as pa``.", ""]
    index += _contents("The package", ["primeattn"])
    for heading, known in modules().items():
        index += _contents(heading, known)
        pages |= {name: _module_page(name) for name in known}
    for name, lines in {**pages, "index": index}.items():
        path, text = folder / f"{name}.rst", "\n".join(lines)
        if not path.exists() or path.read_text() != text:  # an unchanged page is not built again
            path.write_text(text)


def _contents(heading, known):
    """A section of the index: each module with the first line of its docstring."""
    lines = _title(heading, "-")
    for name in known:
        module = "primeattn" if name == "primeattn" else f"primeattn.{name}"
        with mock(EXTRAS):
            summary = import_module(module).__doc__.strip().splitlines()[0]
        lines += [f":doc:`{module} <{name}>`", f"    {summary}", ""]
    return [*lines, ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in known), ""]


def _own_page():
    lines = [*_title("primeattn", "="), ".. py:module:: primeattn", "", ".. currentmodule:: primeattn", ""]
    left = list(primeattn.__all__)
    for heading, places in PARTS.items():
        part = [name for name in left if getattr(primeattn, name).__module__.startswith(places)]
        left = [name for name in left if name not in part]
        lines += [*_title(heading, "-"), *_table(part)]
    return lines


def _module_page(name):
    module, values, own = f"primeattn.{name}", public(name), _own(name)
    constants = {key: value for key, value in own.items() if _is_constant(value)}
    inner = [key for key, value in own.items() if isinstance(value, ModuleType)]
    top = [f"~primeattn.{key}" for key in values if key not in own]
    own = [key for key in own if key not in {*constants, *inner}]
    lines = [*_title(module, "="), f".. automodule:: {module}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {module}", ""]
    if own:
        lines += [*_title("Names", "-"), *_table(own)]
    if top:
        lines += [*_title("Also in primeattn itself", "-"), *_table(top, pages=False)]
    for key in inner:
        lines += [*_title(f"{module}.{key}", "-"), f".. automodule:: {module}.{key}", "   :members:", ""]
    for key, value in constants.items():
        shown = repr(value) if len(repr(value)) < 100 else "..."
        lines += [f".. py:data:: {key}", f"   :value: {shown}", ""]
    return lines


def _is_constant(value):
    return isinstance(value, CONSTANTS) or type(value).__module__ == "typing"


def _table(known, pages=True):
    lines = [".. autosummary::", *(["   :toctree: generated"] if pages else []), "   :nosignatures:", ""]
    return [*lines, *(f"   {name}" for name in known), ""]


def _title(text, line):
    return [text, line * len(text), ""]


def skipped(app, what, name, obj, skip, options):
    """Leave out what has no text of its own: fields of named tuples, and functions as defaults."""
    field = str(getattr(obj, "__doc__", "")).startswith("Alias for field number")
    default = what == "class" and isinstance(obj, FunctionType) and "." not in obj.__qualname__
    return True if field or default else None


def without_back_links(app, page, template, context, doctree):
    """Pages of source lead back to one name of an object, but its page may be of another: no link back."""
    if page.startswith("_modules/"):
        context["body"] = re.sub(r'<a class="viewcode-back".*?</a>', "", context["body"])
