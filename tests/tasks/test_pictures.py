import numpy as np
import pytest
from matplotlib import cbook, image

from primeattn.tasks import pixels


@pytest.fixture
def grey():
    """The portrait in levels of 16, by hand."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        rgb = image.imread(file, format="jpg").tolist()
    return np.array([[(299 * r + 587 * g + 114 * b) // 1000 // 16 for r, g, b in row] for row in rgb])


@pytest.mark.parametrize("part, bands", [("train", {0, 1, 3, 4, 6, 7}), ("validation", {2}), ("test", {5})])
def test_patches_are_in_the_picture(grey, part, bands):
    task = pixels(width=31, height=20, data=part)
    tokens, targets = task.draw(np.random.default_rng(0), 40)
    windows = np.lib.stride_tricks.sliding_window_view(grey, (20, 31))
    found = set()
    for row, target in zip(tokens, targets, strict=True):
        assert row[0] == 16 and np.array_equal(row[1:], target[:-1])
        patch = target.reshape(20, 31)
        corners = (windows[:, :, ::19, ::30] == patch[::19, ::30]).all(axis=(2, 3))
        tops = [top for top, left in np.argwhere(corners) if np.array_equal(windows[top, left], patch)]
        assert tops and any(top // 75 == (top + 19) // 75 and top // 75 in bands for top in tops)
        found |= {top // 75 for top in tops}
    assert found >= bands


def test_the_pixel_above_is_one_width_back():
    _, targets = pixels(width=28, height=20).draw(np.random.default_rng(0), 100)
    centred = targets - targets.mean(axis=1, keepdims=True)
    likeness = [(centred[:, d:] * centred[:, :-d]).mean() for d in range(20, 40)]
    assert 20 + int(np.argmax(likeness)) == 28


def test_an_image_of_your_own(tmp_path):
    path = str(tmp_path / "a.png")
    shades = np.linspace(0, 1, 64 * 40).reshape(64, 40)
    image.imsave(path, shades, cmap="gray", vmin=0, vmax=1)
    task = pixels(width=6, height=8, levels=256, path=path, data="test")
    _, targets = task.draw(np.random.default_rng(0), 5)
    assert (targets // 4 * 4 <= 255 * 6 // 8 + 4).all() and (targets >= 255 * 5 // 8 - 4).all()
    assert (np.diff(targets.reshape(5, 8, 6), axis=2) >= 0).all()
    assert task.digest != pixels().digest and len(task.digest) == 64
