"""Burned-in words are found at several sizes and places, and anatomy-like texture is not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mfm_core.text_regions import Region, find_text

WORDS = "MUELLER ANNA 1961"


def texture(seed: int, side: int = 224) -> np.ndarray:
    """Return `[side, side] uint8`: smooth structures over fine ones, as in an X-ray film."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 10)
    fine = ndimage.gaussian_filter(rng.normal(size=(side, side)), side / 120)
    picture = 110 + 45 * coarse / coarse.std() + 12 * fine / fine.std()
    return np.asarray(np.clip(picture, 0, 235), dtype=np.uint8)


def written(picture: np.ndarray, size: float, at: tuple[int, int], fill: int = 255) -> np.ndarray:
    canvas = Image.fromarray(picture)
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(canvas).text(at, WORDS, fill=fill, font=font)
    return np.asarray(canvas)


def as_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.mark.parametrize(("side", "size"), [(256, 13), (512, 18), (512, 40), (1024, 64)])
@pytest.mark.parametrize("fill", [255, 0])
def test_words_are_found_where_they_are(side: int, size: float, fill: int) -> None:
    ground = np.full((side, side), 120, np.uint8)
    found = find_text(written(ground, size, (10, 14), fill))
    assert found
    assert sum(region.characters for region in found) >= 8
    for region in found:
        assert 10 <= region.top < region.bottom <= 14 + 1.5 * size
        assert 6 <= region.left < region.right <= 14 + 12 * size


def test_most_words_on_texture_are_found_and_texture_alone_is_not() -> None:
    hits = [bool(find_text(written(texture(seed), 15, (12, 12)))) for seed in range(5)]
    alarms = [bool(find_text(texture(seed))) for seed in range(5)]
    assert sum(hits) >= 4
    assert sum(alarms) == 0


def test_jpeg_does_not_hide_words() -> None:
    assert find_text(as_jpeg(written(texture(1), 16, (12, 180)), 80))


def test_turned_words_are_found() -> None:
    upright = written(np.full((300, 300), 30, np.uint8), 18, (20, 20))
    found = find_text(np.ascontiguousarray(np.rot90(upright)))
    assert found
    assert all(region.bottom - region.top > region.right - region.left for region in found)


def test_turned_and_inverted_images_give_the_same_number_of_lines() -> None:
    picture = written(np.full((300, 300), 30, np.uint8), 18, (20, 20))
    assert len(find_text(picture)) == len(find_text(255 - picture))


def test_a_side_marker_and_a_ruler_name_nobody() -> None:
    canvas = Image.fromarray(texture(2, 400))
    draw = ImageDraw.Draw(canvas)
    draw.text((30, 60), "L", fill=255, font=ImageFont.load_default(size=40))
    for step in range(10):
        draw.line([(380, 60 + 30 * step), (390, 60 + 30 * step)], fill=255, width=2)
    assert find_text(np.asarray(canvas)) == ()


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (40, 2000), (0, 5)])
def test_odd_shapes_are_no_problem(shape: tuple[int, int]) -> None:
    assert find_text(np.zeros(shape, np.uint8)) == ()


def test_noise_is_no_text() -> None:
    rng = np.random.default_rng(0)
    assert find_text(rng.integers(0, 256, (256, 256), dtype=np.uint8)) == ()


def test_regions_do_not_repeat_each_other() -> None:
    found = find_text(written(np.full((512, 512), 60, np.uint8), 30, (20, 20)))
    assert found
    for one in found:
        for other in found:
            assert one is other or overlap(one, other) <= 0.5


def overlap(one: Region, other: Region) -> float:
    down = min(one.bottom, other.bottom) - max(one.top, other.top)
    across = min(one.right, other.right) - max(one.left, other.left)
    return max(0, down) * max(0, across) / ((one.bottom - one.top) * (one.right - one.left))


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real images are not on this machine")
@pytest.mark.parametrize(
    ("name", "text"),
    [("N2D_0171.dcm", False), ("US1_J2KI.dcm", True)],
)
def test_real_images(name: str, text: bool) -> None:
    from mfm_core.dicom import read_dicom

    pixels = read_dicom(SHARED / "dicom" / name, "middle").pixels
    gray = np.asarray(Image.fromarray(pixels).convert("L"))
    assert bool(find_text(gray)) is text
