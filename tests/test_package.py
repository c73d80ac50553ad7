"""What the package says of itself in more than one place."""

import re
from pathlib import Path

import primeattn as pa

ROOT = Path(__file__).parent.parent


def test_the_citation_names_this_version():
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == pa.__version__
