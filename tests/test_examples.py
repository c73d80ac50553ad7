"""The examples draw what the gallery shows."""

import os
import re
import runpy
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.text import Text

from primeattn import plot

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
OF_DASK = ("cluster", "data_parallel")  # which draw nothing
SCRIPTS = sorted({path.stem for path in EXAMPLES.glob("[!_]*.py")} - {"make_figures", *OF_DASK})
QUICK = ("hops", "reach", "wheel")
GALLERY = (ROOT / "figures" / "README.md").read_text()


def texts_of(figure):
    """The texts that are drawn, with their boxes on the page."""
    figure.draw_without_rendering()
    beyond = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = axis.get_major_ticks() + axis.get_minor_ticks()
            hidden = [tick for tick in ticks if not low <= tick.get_loc() <= high]
            beyond |= {label for tick in hidden for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text not in beyond]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in SCRIPTS
        if name != "quickstart"
    ],
)
def test_texts_of_a_figure_overlap_nowhere_and_lie_on_the_page(script, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    import _save
    import _trained

    figures = []
    monkeypatch.setattr(_trained, "STEPS", 2)
    monkeypatch.setattr(_save, "save", lambda figure, name: figures.append((figure, name)))
    runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
    [(figure, name)] = figures
    assert name == script
    texts = texts_of(figure)
    assert not [(a, b) for (a, here), (b, there) in combinations(texts, 2) if here.overlaps(there)]
    page = figure.bbox.padded(1)
    assert not [a for a, box in texts if not (page.contains(*box.min) and page.contains(*box.max))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_gallery_shows_each_figure_with_its_command(script):
    assert f"({script}.png)" in GALLERY
    assert f"python examples/{script}.py" in GALLERY
    assert f"python examples/{script}.py [OUTPUT]" in (EXAMPLES / f"{script}.py").read_text()


def test_every_plot_has_an_example():
    code = "".join(path.read_text() for path in EXAMPLES.glob("*.py"))
    assert [name for name in plot.__all__ if f"pa.plot.{name}(" not in code] == []


def test_the_gallery_shows_figures_that_are_there():
    shown = re.findall(r"!\[[^]]+\]\((\w+\.png)\)", GALLERY)
    assert sorted(shown) == sorted(path.name for path in (ROOT / "figures").glob("*.png"))


@pytest.mark.slow
def test_make_figures_renders_every_script_and_no_helper(tmp_path):
    for name in ("make_figures", "_save"):
        (tmp_path / f"{name}.py").write_text((EXAMPLES / f"{name}.py").read_text())
    script = (
        "from _save import save\nfrom matplotlib.figure import Figure\n"
        "print('chatter')\nsave(Figure(figsize=(1, 1)), 'NAME')\n"
    )
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(script.replace("NAME", name))
    options = {"check": True, "capture_output": True, "text": True}
    options["env"] = {**os.environ, "PYTHONPATH": str(ROOT)}  # of this checkout, as all tests
    command = [sys.executable, tmp_path / "make_figures.py", tmp_path / "out"]
    done = subprocess.run(command, **options)
    assert done.stdout == f"2 figures in {tmp_path / 'out'}\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["one.png", "two.png"]
    one = subprocess.run([sys.executable, tmp_path / "one.py", tmp_path / "own.pdf"], **options)
    assert one.stdout == f"chatter\n{tmp_path / 'own.pdf'}\n"
    assert (tmp_path / "own.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@pytest.mark.parametrize("script", OF_DASK)
def test_workers_compute_what_one_process_does(script):
    pytest.importorskip("distributed")
    command = [sys.executable, EXAMPLES / f"{script}.py", *(["2000"] if script == "cluster" else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "the same bits" in done.stdout


def test_make_figures_takes_the_scripts_that_draw():
    code = {name: (EXAMPLES / f"{name}.py").read_text() for name in (*SCRIPTS, *OF_DASK)}
    assert [name for name, text in code.items() if "import save\n" in text] == SCRIPTS
