import pytest
from matplotlib.figure import Figure

from primeattn import plot


@pytest.mark.parametrize(
    ("name", "beginning"), [("a.png", b"\x89PNG"), ("new/folder/b.pdf", b"%PDF"), ("c.SVG", b"<?xml")]
)
def test_the_suffix_names_the_format(name, beginning, tmp_path):
    plot.save(Figure(figsize=(1, 1)), tmp_path / name)
    path = tmp_path / name
    assert path.read_bytes().startswith(beginning) and list(path.parent.iterdir()) == [path]


def test_what_cannot_be_a_picture(tmp_path):
    for name in ("a", "a.xyz", "a.png.txt"):
        with pytest.raises(
            ValueError, match=r"path: expected a file name that ends in \.eps, .*\.png.*, got '"
        ):
            plot.save(Figure(), tmp_path / name)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(TypeError, match=r"figure: expected a Figure, such as ax\.figure, got Axes"):
        plot.save(Figure().subplots(), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"path: expected a file, got the folder '.*b\.png'"):
        plot.save(Figure(), tmp_path / "b.png")
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


def test_an_error_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_text("old")
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        plot.save(Figure(), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
