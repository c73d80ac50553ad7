"""Without its extra, a bridge says in one sentence what to install, and the rest of the package works."""

import subprocess
import sys

import pytest

HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == EXTRA:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import primeattn as pa, pydoc
pydoc.render_doc(pa)  # looks at all names
def says(action):
    try:
        action()
    except ImportError as error:
        print(error)
says(lambda: getattr(pa, EXTRA))
"""
MASKS = "says(lambda: pa.Pattern('primes').to_flex(5)); says(lambda: pa.Pattern('primes').to_torch_csr(5))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "times", "more"),
    [("torch", 3, MASKS), ("transformers", 1, ""), ("jax", 1, ""), ("dask", 1, "")],
)
def test_the_sentence(extra, times, more):
    code = f"EXTRA = {extra!r}\n{HIDE}\n{more}"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    sentence = f"primeattn.{extra} needs the package {extra}, which is not installed"
    sentence += f" (pip install 'primeattn[{extra}]')"
    assert run.stdout.splitlines() == [sentence] * times
