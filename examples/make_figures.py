"""Render every figure of the examples, in one to two minutes on two cores.

python examples/make_figures.py [FOLDER]
"""

import io
import runpy
import sys
from contextlib import redirect_stdout
from pathlib import Path

from _save import FIGURES
from tqdm import tqdm

here = Path(__file__).parent
scripts = sorted(path for path in here.glob("[!_]*.py") if "import save\n" in path.read_text())
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURES
folder.mkdir(parents=True, exist_ok=True)
bar = tqdm(scripts, unit=" figures", disable=None)
for script in bar:
    bar.set_description(script.stem)
    sys.argv = [str(script), str(folder / f"{script.stem}.png")]
    with redirect_stdout(io.StringIO()):
        runpy.run_path(str(script), run_name="__main__")
print(f"{len(scripts)} figures in {folder}")
