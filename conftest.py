import pytest

from primeattn import sequences


@pytest.fixture(autouse=True)
def registry_as_it_was():
    """Names registered by a test or an example disappear after it."""
    registry = sequences.registry._registry
    known = set(registry)
    yield
    for name in set(registry) - known:
        del registry[name], vars(sequences)[name]
        sequences.__all__.remove(name)
