import gc
import re
from importlib.util import find_spec

import pytest

from primeattn import sequences

BRIDGES = ("dask", "jax", "torch", "transformers")
MISSING = [name for name in BRIDGES if find_spec(name) is None]
collect_ignore = [f"primeattn/{name}{ending}" for name in MISSING for ending in ("", ".py")]


def pytest_collection_modifyitems(items):
    """Examples that import a package that is not installed are skipped."""
    for item in items:
        examples = getattr(getattr(item, "dtest", None), "examples", ())
        for name in MISSING:
            if any(re.match(rf"import .*\b{name}\b", example.source) for example in examples):
                item.add_marker(pytest.mark.skip(f"needs {name}"))


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """What lives by now may stay: benchmarks and measures of memory collect garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def registry_as_it_was():
    """Names registered by a test or an example disappear after it."""
    registry = sequences.registry._registry
    known = set(registry)
    yield
    for name in set(registry) - known:
        del registry[name], vars(sequences)[name]
        sequences.__all__.remove(name)
