import numpy as np
import pytest

from mfm_core.config import ImageConfig
from mfm_core.raster import Raster, to_square
from mfm_core.source_grid import placement_of, strongest_region, to_source

SHAPES = [(300, 200), (200, 300), (150, 150), (37, 120), (20, 31)]
FITS = ["pad", "crop", "stretch"]


def dot_in(rows: int, columns: int, centre: tuple[float, float], radius: float):
    """Return a bright round spot on black, `[rows, columns] uint8`; centre is (row, column)."""
    down, across = np.mgrid[:rows, :columns] + 0.5
    far = (down - centre[0]) ** 2 + (across - centre[1]) ** 2
    return (255 * np.exp(-far / (2 * radius**2))).astype(np.uint8)


def middle_of(values) -> tuple[float, float]:
    """Return the centre of mass (row, column), in corner coordinates."""
    down, across = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    weight = np.asarray(values, dtype=np.float64)
    return float((down * weight).sum() / weight.sum()), float(
        (across * weight).sum() / weight.sum()
    )


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("aspect", [1.0, 1.6, 0.7])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_spot_comes_back_to_where_it_was(shape, aspect, fit):
    """The way there is the real `to_square`; off the middle, so that a swapped axis would show."""
    rows, columns = shape
    image = ImageConfig(size_px=64, fit=fit)
    edge = min(columns, rows * aspect)
    centre = (rows / 2 - 0.15 * edge / aspect, columns / 2 + 0.2 * edge)
    picture = dot_in(rows, columns, centre, 0.06 * min(shape))
    square = to_square(Raster(picture, aspect), image)[0].astype(np.float32)
    placement = placement_of(rows, columns, aspect, image)
    back = to_source(square, placement)
    assert back.shape == shape and back.dtype == np.float32
    found = middle_of(np.where(back > 20, back, 0))
    size = max(*placement.scale, 1.0)
    assert np.allclose(found, centre, atol=0.35 * size)
    outline = strongest_region(square, placement)
    low, high = outline.min(axis=0), outline.max(axis=0)
    assert (low < centre[::-1]).all() and (high > centre[::-1]).all()
    assert np.allclose((low + high) / 2, centre[::-1], atol=1.5 * size)


@pytest.mark.parametrize("fit", FITS)
def test_a_smooth_picture_survives_the_way_there_and_back(fit):
    rows, columns = 90, 140
    down, across = np.mgrid[:rows, :columns]
    picture = (20 + 1.2 * down + 0.7 * across).astype(np.uint8)
    image = ImageConfig(size_px=128, fit=fit)
    square = to_square(Raster(picture), image)[0].astype(np.float32)
    back = to_source(square, placement_of(rows, columns, 1.0, image))
    shown = back > 0
    assert np.abs(back - picture)[shown].max() < 3.0
    expected = 90 * 90 if fit == "crop" else rows * columns
    assert shown.sum() == pytest.approx(expected, abs=2 * rows)


def test_crop_shows_nothing_outside_its_part():
    placement = placement_of(60, 100, 1.0, ImageConfig(size_px=32, fit="crop"))
    back = to_source(np.ones((32, 32), dtype=np.float32), placement)
    assert (back[:, :20] == 0).all() and (back[:, 80:] == 0).all()
    assert np.allclose(back[:, 20:80], 1.0)


def test_what_is_drawn_in_the_padding_does_not_reach_the_picture():
    placement = placement_of(20, 100, 1.0, ImageConfig(size_px=64, fit="pad"))
    left, top, right, bottom = placement.square
    square = np.ones((64, 64), dtype=np.float32)
    square[top:bottom, left:right] = 0.25
    assert np.allclose(to_source(square, placement), 0.25)
    square[top + 3, left + 40] = 0.5
    outline = strongest_region(square, placement)
    assert (outline >= 0).all() and (outline <= (100, 20)).all()


def test_the_outline_is_closed_and_follows_the_region():
    change = np.zeros((32, 32), dtype=np.float32)
    change[4:6, 10:20] = -1.0
    change[6:9, 12:14] = -0.6
    change[25:30, 1:30] = 0.9  # weaker, elsewhere
    outline = strongest_region(change, placement_of(64, 32, 0.5, ImageConfig(size_px=32)))
    assert (outline[0] == outline[-1]).all()
    corners = {tuple(point) for point in outline.tolist()}
    assert corners == {(10, 8), (10, 12), (12, 12), (12, 18), (14, 18), (14, 12), (20, 12), (20, 8)}


def test_no_change_gives_the_whole_shown_part():
    placement = placement_of(30, 60, 1.0, ImageConfig(size_px=32))
    outline = strongest_region(np.zeros((32, 32), dtype=np.float32), placement)
    assert outline.min(axis=0).tolist() == [0, 0] and outline.max(axis=0).tolist() == [60, 30]
