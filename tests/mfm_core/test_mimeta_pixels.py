from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.mimeta import find_mimeta, read_mimeta
from mfm_core.mimeta_pixels import mimeta_pixels
from tests.mfm_core.mimeta_world import change_info, pictures, write_set

SAMPLE = Path(__file__).parents[3] / "shared/data/mimeta_sample"
SMALL = ImageConfig(size_px=32)


def pixels_of(folder: Path, cache: Path, channels: int = 1) -> np.ndarray:
    image = SMALL.model_copy(update={"channels": channels})
    return np.asarray(mimeta_pixels(read_mimeta(folder), image, cache))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wanted", [1, 3])
def test_hdf5_and_tiff_give_the_same_pixels(tmp_path: Path, channels: int, wanted: int) -> None:
    found = [
        pixels_of(
            write_set(tmp_path / str(number), channels=channels, hdf5=hdf5, tiff=tiff),
            tmp_path / f"cache{number}",
            wanted,
        )
        for number, (hdf5, tiff) in enumerate([(True, True), (True, False), (False, True)])
    ]
    assert found[0].shape == (24, wanted, 32, 32) and found[0].dtype == np.uint8
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_colour_rules_grey_becomes_equal_channels_and_rgb_its_luma(tmp_path: Path) -> None:
    grey = pixels_of(write_set(tmp_path, "grey"), tmp_path / "cache", 3)
    np.testing.assert_array_equal(grey[:, 0], grey[:, 2])
    luma = pixels_of(write_set(tmp_path, "rgb", channels=3, side=32), tmp_path / "cache", 1)
    colours = pictures(24, 32, 3, 0).astype(np.float64)
    expected = colours @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma[:, 0] - expected).max() <= 1.0


def test_pixels_are_kept_and_decoded_anew_when_a_file_changes(tmp_path: Path) -> None:
    folder, cache = write_set(tmp_path, tiff=False), tmp_path / "cache"
    first = pixels_of(folder, cache)
    pixels_of(folder, cache)
    assert len(list(cache.glob("pixels-*.npy"))) == 1
    with h5py.File(folder / "images.hdf5", "r+") as file:
        file["images"][0] = 255
        file["images"].attrs["changed"] = "so that the size changes too" * 100
    assert (pixels_of(folder, cache)[0] == 255).all() and not (first[0] == 255).all()


def rewrite(pixels: np.ndarray, name: str = "images") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder / "images.hdf5", "w") as file:
            file.create_dataset(name, data=pixels)

    return change


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return change


def tiff(row: int, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: tifffile.imwrite(folder / f"images/{row:06d}.tiff", pixels)


GREY = pictures(24, 40, 1, 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewrite(GREY[:23]), "holds 23 images, info.yaml says 24"),
        (rewrite(GREY.astype(np.float32)), "holds float32, expected uint8"),
        (rewrite(GREY[:, :32]), "an image has shape (32, 40), expected (40, 40)"),
        (rewrite(pictures(24, 40, 3, 0)), "an image has shape (40, 40, 3), expected (40, 40)"),
        (rewrite(GREY, "pictures"), "expected the data set 'images', found pictures"),
        (rewrite(GREY[::-1]), "differ from the same rows of images.hdf5"),
        (
            lambda f: h5py.File(f / "images.hdf5", "w").create_group("images"),
            "as a group or as a link",
        ),
        (cut("images.hdf5", 0.5), "images.hdf5: is damaged"),
        (lambda f: (f / "images.hdf5").write_bytes(b""), "images.hdf5: is damaged"),
        (lambda f: (f / "images/000003.tiff").unlink(), "no file for row 3 of 24"),
        (tiff(24, GREY[0]), "images: row 24: info.yaml says 24 images"),
        (
            lambda f: (f / "images/notes.txt").write_text(""),
            "not called like 000012.tiff: 1; rename",
        ),
        (tiff(5, GREY[5, :32]), "row 5: the TIFF file has shape (32, 40)"),
        (tiff(5, GREY[5].astype(np.uint16)), "row 5: the TIFF file has the mode I;16"),
        (tiff(5, np.stack([GREY[5]] * 2)), "row 5: the TIFF file has 2 pages"),
        (cut("images/000005.tiff", 0.5), "row 5: the TIFF file is damaged"),
    ],
)
def test_every_way_pictures_can_be_wrong_is_said(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    folder = write_set(tmp_path)
    change(folder)
    with pytest.raises(DataError) as caught:
        pixels_of(folder, tmp_path / "cache")
    assert said in str(caught.value)
    assert not list((tmp_path / "cache").glob("pixels-*.npy"))


def test_without_hdf5_every_tiff_is_checked_and_all_problems_are_said(tmp_path: Path) -> None:
    folder = write_set(tmp_path, hdf5=False)
    tiff(5, GREY[5, :32])(folder)
    cut("images/000007.tiff", 0.3)(folder)
    with pytest.raises(DataError) as caught:
        pixels_of(folder, tmp_path / "cache")
    assert len(caught.value.problems) == 2
    for path in (folder / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"neither images\.hdf5 nor"):
        pixels_of(folder, tmp_path / "cache")


def test_what_a_file_browser_leaves_behind_is_no_picture(tmp_path: Path) -> None:
    folder = write_set(tmp_path, hdf5=False)
    (folder / "images/.DS_Store").write_bytes(b"x")
    assert pixels_of(folder, tmp_path / "cache").shape[0] == 24


def test_the_said_size_decides(tmp_path: Path) -> None:
    folder = write_set(tmp_path)
    change_info(folder, input_size=[3, 40, 40])
    with pytest.raises(DataError, match=r"expected \(40, 40, 3\)"):
        pixels_of(folder, tmp_path / "cache")


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="no shared/data beside the repository")
def test_the_real_sample_gives_pixels_in_grey_and_colour(tmp_path: Path) -> None:
    for folder in find_mimeta(SAMPLE):
        grey, colour = (pixels_of(folder, tmp_path, channels) for channels in (1, 3))
        assert grey.std() > 20
        assert (colour[:, 0] == colour[:, 2]).all() == (folder.name != "derm")
