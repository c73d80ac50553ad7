"""Links that lead somewhere: in a checkout to files, in the site to its pages."""

import re

PAGES = {"figures/README.md": "gallery/index.rst", "figures/STUDY.md": "study.md"}


def to_pages(app, docname, source):
    """Change the links of a page, as Sphinx reads it; an example has a page of the gallery."""
    up = "../" * docname.count("/")

    def page(link):
        file = link[1]
        return f"]({up}{PAGES.get(file) or 'gallery/' + file.removeprefix('examples/')[:-2] + 'rst'})"

    source[0] = re.sub(rf"\]\({re.escape(up)}\.\./((?:figures/\w+\.md|examples/\w+\.py))\)", page, source[0])


def without_dead_entries(app):
    """Take modules without a page of source out of the list of those that have one."""
    modules = app.env._viewcode_modules
    for name in [name for name, source in modules.items() if not source]:
        del modules[name]
    return []
