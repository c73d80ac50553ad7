import gc
from importlib.util import find_spec

import pytest

from primeattn import sequences

# Examples in the docstrings of bridges need the package that they lead to.
collect_ignore = [f"primeattn/{name}.py" for name in ("dask",) if find_spec(name) is None]


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
