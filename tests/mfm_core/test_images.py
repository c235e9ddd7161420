"""Image files of every kind become the same square, or say why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.images import read_image

GRAY = ImageConfig(size_px=32)
RGB = ImageConfig(size_px=32, channels=3)
RAMP = np.linspace(0, 255, 64 * 64).reshape(64, 64)


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def reason(path: Path, frame: int | str = "middle") -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, GRAY, frame)  # type: ignore[arg-type]
    (text,) = caught.value.problems
    assert path.name not in text
    return text


def write_png16(path: Path, values: np.ndarray, colour_type: int) -> Path:
    """Write a 16-bit PNG of `[H, W, C]`, which Pillow cannot do in colour."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_the_same_gray_picture_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(RAMP.astype(np.uint8)), tmp_path / f"a.{suffix}")
    pixels = read_image(path, GRAY)
    assert pixels.shape == (1, 32, 32)
    assert pixels.dtype == np.uint8
    expected = RAMP.reshape(32, 2, 32, 2).mean(axis=(1, 3))
    assert np.abs(pixels[0] - expected).max() <= 3


def test_the_name_decides_nothing(tmp_path: Path) -> None:
    path = save(Image.fromarray(RAMP.astype(np.uint8)), tmp_path / "a.png")
    disguised = tmp_path / "b.dcm"
    disguised.write_bytes(path.read_bytes())
    assert np.array_equal(read_image(path, GRAY), read_image(disguised, GRAY))


@pytest.mark.parametrize("top", [900, 4095, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_use_their_own_range(tmp_path: Path, suffix: str, top: int) -> None:
    values = (RAMP / 255 * (top - 100) + 100).astype(np.uint16)
    pixels = read_image(save(Image.fromarray(values), tmp_path / f"a.{suffix}"), GRAY)
    eight = read_image(save(Image.fromarray(RAMP.astype(np.uint8)), tmp_path / "b.png"), GRAY)
    assert np.abs(pixels.astype(int) - eight).max() <= 2
    assert np.ptp(pixels) > 240


def test_hot_pixels_do_not_darken_a_sixteen_bit_image(tmp_path: Path) -> None:
    values = (RAMP * 4).astype(np.uint16)
    values[3, 3] = 65535
    assert read_image(save(Image.fromarray(values), tmp_path / "a.png"), GRAY).max() > 240


def test_big_endian_and_float_tiffs(tmp_path: Path) -> None:
    eight = read_image(save(Image.fromarray(RAMP.astype(np.uint8)), tmp_path / "b.png"), GRAY)
    floats = RAMP.astype(np.float32) / 255 - 7
    floats[0, 0] = np.nan
    pixels = read_image(save(Image.fromarray(floats), tmp_path / "a.tif"), GRAY)
    assert np.abs(pixels.astype(int) - eight).max() <= 3
    big = Image.frombytes("I;16B", (64, 64), (RAMP * 200).astype(">u2").tobytes())
    pixels = read_image(save(big, tmp_path / "c.tif"), GRAY)
    assert np.abs(pixels.astype(int) - eight).max() <= 2


def test_nothing_finite_is_a_reason(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), tmp_path / "a.tif")
    assert "finite" in reason(path)


@pytest.mark.parametrize(("colour_type", "bands"), [(2, 3), (6, 4), (4, 2)])
def test_deep_colour_png_keeps_its_low_bits(tmp_path: Path, colour_type: int, bands: int) -> None:
    values = np.repeat((RAMP * 8)[..., None], bands, axis=2)
    if bands in (2, 4):
        values[..., -1] = 65535
    pixels = read_image(write_png16(tmp_path / "a.png", values, colour_type), GRAY)
    eight = read_image(save(Image.fromarray(RAMP.astype(np.uint8)), tmp_path / "b.png"), GRAY)
    assert np.abs(pixels.astype(int) - eight).max() <= 2


def test_colour_gray_and_back(tmp_path: Path) -> None:
    red = save(Image.new("RGB", (20, 20), (255, 0, 0)), tmp_path / "r.png")
    assert read_image(red, RGB)[:, 16, 16].tolist() == [255, 0, 0]
    assert set(np.unique(read_image(red, GRAY))) == {76}  # ITU-R 601: 0.299
    gray = save(Image.new("L", (20, 20), 77), tmp_path / "g.png")
    assert set(np.unique(read_image(gray, RGB))) == {77}
    assert read_image(gray, RGB).shape == (3, 32, 32)


@pytest.mark.parametrize("mode", ["P", "1", "RGBA", "LA", "CMYK", "RGB"])
def test_every_mode_shows_white_as_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    save(Image.new("RGB", (16, 16), (255, 255, 255)).convert(mode), path)
    assert read_image(path, GRAY).min() == 255


def test_transparency_lies_on_black(tmp_path: Path) -> None:
    half = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    assert read_image(save(half, tmp_path / "a.png"), GRAY).max() == 0


def test_pages_and_frames(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 8), 50 * page) for page in range(5)]
    path = save(pages[0], tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert [int(read_image(path, GRAY, frame).max()) for frame in (0, 4, "middle")] == [0, 200, 100]
    assert "5 frames" in reason(path, 5)
    single = save(pages[1], tmp_path / "b.png")
    assert read_image(single, GRAY, 7).max() == 50


@pytest.mark.parametrize("wide", [True, False])
def test_fit(tmp_path: Path, wide: bool) -> None:
    values = np.full((40, 80), 200, dtype=np.uint8)
    values[:, :20] = 90
    values[:, 60:] = 90
    path = save(Image.fromarray(values if wide else values.T), tmp_path / "a.png")
    shown = {
        fit: read_image(path, ImageConfig(size_px=32, fit=fit))[0]  # type: ignore[arg-type]
        for fit in ("pad", "crop", "stretch")
    }
    shown = {fit: pixels if wide else pixels.T for fit, pixels in shown.items()}
    assert shown["pad"][:8].max() == 0 and shown["pad"][24:].max() == 0
    assert shown["pad"][8:24].min() >= 80
    assert shown["crop"].min() >= 195
    assert shown["stretch"][:, 0].max() <= 95 and shown["stretch"].min() >= 80


def test_reduction_averages_and_does_not_alias(tmp_path: Path) -> None:
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for suffix in ("png", "jpg"):
        pixels = read_image(save(Image.fromarray(board), tmp_path / f"a.{suffix}"), GRAY)
        assert abs(float(pixels.mean()) - 127.5) < 2
        assert float(pixels.std()) < 6


def test_a_large_jpeg_is_decoded_as_well_as_a_png(tmp_path: Path) -> None:
    y, x = np.mgrid[0:1000, 0:1200]
    colour = np.stack([x / 5, y / 4, (x + y) / 9], axis=2).clip(0, 255).astype(np.uint8)
    png = read_image(save(Image.fromarray(colour), tmp_path / "a.png"), RGB)
    jpg = read_image(save(Image.fromarray(colour), tmp_path / "a.jpg", quality=95), RGB)
    assert np.abs(png.astype(int) - jpg).mean() < 1.5


def test_the_rotation_mark_is_honoured(tmp_path: Path) -> None:
    values = np.zeros((40, 40), dtype=np.uint8)
    values[:10] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    pixels = read_image(save(Image.fromarray(values), tmp_path / "a.jpg", exif=exif), GRAY)[0]
    assert pixels[:8].max() < 20
    assert pixels[-6:].min() > 230


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400)).astype(np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"scan77.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert "cut off" in reason(path) or "damaged" in reason(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty77.png").write_bytes(b"")
    assert "empty" in reason(tmp_path / "empty77.png")
    (tmp_path / "text77.png").write_text("not an image " * 50)
    assert "not a PNG, JPEG, TIFF or DICOM" in reason(tmp_path / "text77.png")
    gif = io.BytesIO()
    Image.new("L", (8, 8)).save(gif, "GIF")
    (tmp_path / "gif77.png").write_bytes(gif.getvalue())
    assert "not a PNG" in reason(tmp_path / "gif77.png")
    (tmp_path / "bare77.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 200)
    assert "damaged" in reason(tmp_path / "bare77.png")
    assert "not there" in reason(tmp_path / "nothing77.png")
    (tmp_path / "folder77").mkdir()
    assert "folder" in reason(tmp_path / "folder77")


def test_a_header_of_a_giant_is_refused_before_memory_is(tmp_path: Path) -> None:
    values = np.zeros((1, 1, 1))
    path = write_png16(tmp_path / "giant77.png", values, 0)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60000, 60000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path.write_bytes(bytes(content))
    assert "larger than" in reason(path)
