"""How the gallery takes its figures: from ``save``, which examples call at their end."""

from pathlib import Path

# In the order in which the gallery shows them.
ORDER = (
    *("quickstart", "masks", "mask_gallery", "large_masks"),
    *("pairs", "wheel", "hops", "reach", "pareto", "two_hop_paths", "spectrum", "residues"),
    *("attention_map", "heads", "offset_bias"),
    *("study_needle", "study_mqar", "study_relays", "study_curves", "study_text", "study_positions"),
    "own_study",
)
# These train, or measure much: the page shows the figure of the repository.
SLOW = ("quickstart", "spectrum", "attention_map", "heads", "offset_bias", "own_study")

_figures = []


def keep(figure, name):
    """In place of ``_save.save``."""
    _figures.append(figure)


def scrape(block, block_vars, gallery_conf):
    """Write the kept figures where the gallery wants them; return the text that shows them."""
    from sphinx_gallery.scrapers import figure_rst

    paths = []
    while _figures:
        paths.append(next(block_vars["image_path_iterator"]))
        Path(paths[-1]).parent.mkdir(parents=True, exist_ok=True)
        _figures.pop(0).savefig(paths[-1], dpi=120)
    return figure_rst(paths, gallery_conf["src_dir"])


def place(name):
    """Sort key of an example."""
    return ORDER.index(Path(name).stem) if Path(name).stem in ORDER else len(ORDER)
