"""How Sphinx builds the site: python -m sphinx docs docs/_build"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]

import _api
import _gallery
import _links
import _save

import primeattn

project, author, release = "primeattn", "the authors of primeattn", primeattn.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_nb",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "jupyter_execute"]
smartquotes = False  # quotes in formulas and code stay as they are
templates_path = ["_templates"]
suppress_warnings = ["config.cache"]  # the gallery's scraper is a function

autodoc_mock_imports = _api.EXTRAS  # their pages are the same wherever the site is built
autosummary_generate = True
autodoc_typehints = "none"  # types are in the docstrings
numpydoc_show_class_members = False  # the template of a class lists them

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nb_execution_mode = "auto"
nb_execution_timeout = 300
nb_execution_raise_on_error = True

_save.save = _gallery.keep  # a build leaves figures/ alone
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": rf"/(?!({'|'.join(_gallery.SLOW)})\.py$)[^/]*$",
    "ignore_pattern": r"^(_|make_figures|cluster|data_parallel)",
    "within_subsection_order": "_gallery.place",
    "image_scrapers": ("_gallery.scrape",),
    "reset_modules": (),
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "show_signature": False,
    "notebook_extensions": set(),  # the examples import their neighbours
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"primeattn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_sidebars = {page: [] for page in ("start", "coming_from", "built", "benchmarks", "changelog")}
toc_object_entries_show_parents = "hide"
html_theme_options = {
    "logo": {"text": "primeattn"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": True,
    "navigation_depth": 2,
    "secondary_sidebar_items": ["page-toc"],
}
copyright = "the authors of primeattn, under the MIT License"


def setup(app):
    _api.write(HERE / "api")  # now, so that Sphinx finds the pages
    app.connect("source-read", _links.to_pages)
    app.connect("html-collect-pages", _links.without_dead_entries, priority=400)  # before viewcode's
    app.connect("autodoc-skip-member", _api.skipped)
    app.connect("html-page-context", _api.without_back_links)
