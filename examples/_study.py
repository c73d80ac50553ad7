"""Results of studies, as ``primeattn study`` left them."""

import json
from typing import Any

from _save import FIGURES


def report(name: str) -> Any:
    """Return what is in figures/data/study_NAME.json (see ``pa.study.report``)."""
    return json.loads((FIGURES / "data" / f"study_{name}.json").read_text())
