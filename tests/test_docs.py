"""The pages and the README: their code runs, their links lead somewhere, and the reference has every name."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_docstrings import public_names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("guide/*.md"))]
MADE = "api/"  # pages that the build writes
BLOCK = re.compile(r"(<!-- not run: .+ -->\n)?^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXTRAS = ("torch", "transformers", "jax", "dask")


def blocks(page):
    """The code of a page, but for what says that it is not run."""
    return [code for skipped, code in BLOCK.findall(page.read_text()) if not skipped]


def missing(code):
    """The extras that a block needs and that are not installed."""
    needed = [name for name in EXTRAS if re.search(rf"^import .*\b{name}\b|pa\.{name}\.", code, re.MULTILINE)]
    return [name for name in needed if find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_its_top_to_its_end(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", type(sys)("page"))
    for code in blocks(page):
        if not missing(code):
            exec(compile(code, str(page), "exec"), names)


def anchors(page):
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/[\w./%-]*)?", link)
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve()
        made = DOCS in path.parents and path.relative_to(DOCS).as_posix().startswith(MADE)
        assert made or path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize(
    ("page", "link", "leads_to"),
    [
        ("index", "](../figures/README.md)", "](gallery/index.rst)"),
        ("guide/tasks", "](../../figures/STUDY.md)", "](../study.md)"),
        ("guide/tasks", "](../../examples/own_study.py)", "](../gallery/own_study.rst)"),
        ("guide/tasks", "![](../../figures/hops.png)", "![](../../figures/hops.png)"),
    ],
)
def test_links_to_files_lead_to_pages_in_the_site(page, link, leads_to, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    import _links

    source = [f"See [it]{link}, twice: [it]{link}."]
    _links.to_pages(None, page, source)
    assert source == [f"See [it]{leads_to}, twice: [it]{leads_to}."]


def test_tasks_of_a_newcomer_are_a_click_from_the_start_page():
    links = re.findall(r"\]\((guide/\w+\.md#[\w-]+)\)", (DOCS / "index.md").read_text())
    wanted = {"patterns.md#a-sequence-of-your-own", "tasks.md#a-task-of-your-own", "bridges.md#torch"}
    assert {f"guide/{link}" for link in wanted} <= set(links)


def test_the_readme_is_a_front_door():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_reference_has_every_name(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    import _api

    listed = {f"primeattn.{key}" for key in __import__("primeattn").__all__}
    for names in _api.modules().values():
        listed |= {f"primeattn.{name}.{key}" for name in names for key in _api.public(name)}
    top = {name.rpartition(".")[2] for name in listed if name.count(".") == 1}
    missed = {name for name, _ in public_names() if name not in listed and name.rpartition(".")[2] not in top}
    assert missed <= {"primeattn.cli.main"}
