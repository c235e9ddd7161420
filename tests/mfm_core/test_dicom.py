"""DICOM files look as a viewer would show them, or say why not."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.images import read_image
from mfm_core.raster import own_range

IMAGE = ImageConfig(size_px=32)
RAMP = np.linspace(0, 1000, 32 * 32).astype(np.uint16).reshape(32, 32)

PACK = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
needs_pack = pytest.mark.skipif(not PACK.is_dir(), reason="real DICOM files are not here")
BROKEN = {
    "no_meta.dcm": "damaged start",
    "rtplan.dcm": "without pixels",
    "MR_truncated.dcm": "cut off",
}


def make(pixels: np.ndarray, **elements: Any) -> Dataset:
    """Return a data set of `[H, W]`, `[F, H, W]` or `[H, W, 3]` stored values."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    colour = pixels.shape[-1] == 3
    if pixels.ndim == 3 and not colour:
        dataset.NumberOfFrames = pixels.shape[0]
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    return dataset


def write(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    make(pixels, **elements).save_as(path, enforce_file_format=True)
    return path


def show(tmp_path: Path, pixels: np.ndarray, frame: Any = "middle", **elements: Any) -> np.ndarray:
    return read_image(write(tmp_path / "a.dcm", pixels, **elements), IMAGE, frame)[0]


def reason(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path, IMAGE)
    return caught.value.problems[0]


def test_without_a_window_the_own_range(tmp_path: Path) -> None:
    assert np.array_equal(show(tmp_path, RAMP), own_range(RAMP))
    assert own_range(RAMP).min() == 0 and own_range(RAMP).max() == 255


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    plain = show(tmp_path, RAMP)
    inverted = show(tmp_path, RAMP, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(inverted, 255 - plain)
    window = {"WindowCenter": 500, "WindowWidth": 400}
    plain = show(tmp_path, RAMP, **window)
    inverted = show(tmp_path, RAMP, PhotometricInterpretation="MONOCHROME1", **window)
    assert np.array_equal(inverted, 255 - plain)


def test_a_linear_window_is_the_standards_formula(tmp_path: Path) -> None:
    shown = show(tmp_path, RAMP, WindowCenter=500, WindowWidth=401)
    expected = np.clip((RAMP - 499.5) / 400 + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(shown - expected).max() <= 0.51
    assert shown[RAMP < 299].max() == 0 and shown[RAMP > 700].min() == 255


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", np.clip((RAMP - 500.0) / 400 + 0.5, 0, 1)),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (RAMP - 500.0) / 400))),
    ],
)
def test_other_window_functions(tmp_path: Path, function: str, expected: np.ndarray) -> None:
    window = {"WindowCenter": 500, "WindowWidth": 400, "VOILUTFunction": function}
    assert np.abs(show(tmp_path, RAMP, **window) - expected * 255).max() <= 0.51


def test_the_window_applies_to_rescaled_values(tmp_path: Path) -> None:
    stored = (RAMP.astype(np.int16) - 500) // 2
    rescaled = stored * 2.0 - 24
    shown = show(
        tmp_path, stored, RescaleSlope=2, RescaleIntercept=-24, WindowCenter=0, WindowWidth=401
    )
    expected = np.clip((rescaled + 0.5) / 400 + 0.5, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.51


def test_a_negative_slope_turns_the_picture_round(tmp_path: Path) -> None:
    shown = show(tmp_path, RAMP, RescaleSlope=-1, RescaleIntercept=1000)
    assert shown[0, 0] == 255 and shown[-1, -1] == 0


def test_the_first_of_several_windows(tmp_path: Path) -> None:
    several = show(tmp_path, RAMP, WindowCenter=[500, 100], WindowWidth=[401, 50])
    assert np.array_equal(several, show(tmp_path, RAMP, WindowCenter=500, WindowWidth=401))


@pytest.mark.parametrize(("center", "width"), [(90000, 10), (500, 0), (500, -3)])
def test_a_window_without_contrast_is_ignored(tmp_path: Path, center: int, width: int) -> None:
    shown = show(tmp_path, RAMP, WindowCenter=center, WindowWidth=width)
    assert np.array_equal(shown, own_range(RAMP))


def lut(first: int, bits: int, values: list[int]) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    return Sequence([item])


def test_voi_and_modality_tables(tmp_path: Path) -> None:
    table = [4095 - 4 * value for value in range(1001)]
    shown = show(tmp_path, RAMP, VOILUTSequence=lut(0, 12, table))
    assert np.abs(shown - (4095 - 4.0 * RAMP) / 4095 * 255).max() <= 0.51
    shown = show(tmp_path, RAMP, ModalityLUTSequence=lut(0, 16, [2000 - v for v in range(1001)]))
    assert shown[0, 0] == 255 and shown[-1, -1] == 0


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_does_not_count(tmp_path: Path, photometric: str) -> None:
    stored = RAMP.astype(np.int16)
    stored[:8] = -30000
    shown = show(tmp_path, stored, PixelPaddingValue=-30000, PhotometricInterpretation=photometric)
    assert shown[:8].max() == 0
    assert shown[8:].min() <= 3 and shown[8:].max() >= 252


def test_frames(tmp_path: Path) -> None:
    frames = np.stack([RAMP // 5 * (index + 1) for index in range(5)]).astype(np.uint16)
    window = {"WindowCenter": 500, "WindowWidth": 1000}
    means = [float(show(tmp_path, frames, frame, **window).mean()) for frame in range(5)]
    assert means == sorted(means) and means[4] > 4 * means[0]
    assert show(tmp_path, frames, "middle", **window).mean() == means[2]
    with pytest.raises(DataError, match="has 5 frames"):
        show(tmp_path, frames, 5)


def test_windows_and_slopes_of_single_frames(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP])

    def group(center: float, slope: float) -> Dataset:
        window, transform, item = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 401
        transform.RescaleSlope, transform.RescaleIntercept = slope, 0
        item.FrameVOILUTSequence = Sequence([window])
        item.PixelValueTransformationSequence = Sequence([transform])
        return item

    groups = Sequence([group(500, 1), group(1000, 2)])
    shown = [
        show(tmp_path, frames, frame, PerFrameFunctionalGroupsSequence=groups) for frame in (0, 1)
    ]
    for picture, center, slope in zip(shown, (500, 1000), (1, 2), strict=True):
        expected = np.clip((RAMP * slope - (center - 0.5)) / 400 + 0.5, 0, 1) * 255
        assert np.abs(picture - expected).max() <= 0.51


def test_colour_of_8_and_16_bits_and_its_gray(tmp_path: Path) -> None:
    colour = np.zeros((32, 32, 3), dtype=np.uint8)
    colour[..., 0] = 200
    config = ImageConfig(size_px=32, channels=3)
    path = write(tmp_path / "a.dcm", colour)
    assert read_image(path, config)[:, 5, 5].tolist() == [200, 0, 0]
    assert read_image(path, IMAGE)[0, 5, 5] == 60
    path = write(tmp_path / "b.dcm", colour.astype(np.uint16) * 257)
    assert read_image(path, config)[:, 5, 5].tolist() == [200, 0, 0]


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    ybr = np.tile(np.array([76, 85, 255], dtype=np.uint8), (32, 32, 1))  # pure red
    path = write(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    red, green, blue = read_image(path, ImageConfig(size_px=32, channels=3))[:, 5, 5]
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes(tmp_path: Path, bits: int) -> None:
    table = np.arange(256, dtype=np.uint16) * (257 if bits == 16 else 1)
    dark = np.zeros(256, dtype=np.uint16)
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in (("Red", table), ("Green", dark), ("Blue", table[::-1])):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"{name}PaletteColorLookupTableData"] = values.tobytes()
    pixels = np.full((32, 32), 250, dtype=np.uint8)
    path = write(tmp_path / "a.dcm", pixels, **elements)
    assert read_image(path, ImageConfig(size_px=32, channels=3))[:, 3, 3].tolist() == [250, 0, 5]


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    tall = np.full((32, 64), 255, dtype=np.uint8)
    tall[0, 0] = 0
    padded = show(tmp_path, tall)
    assert (padded > 100).sum() == pytest.approx(32 * 16, abs=4)
    # Pixels twice as high as wide make the picture itself a square.
    assert (show(tmp_path, tall, PixelSpacing=[0.8, 0.4]) > 100).all(axis=1).sum() >= 31
    assert (show(tmp_path, tall, PixelAspectRatio=[2, 1]) > 100).all(axis=1).sum() >= 31
    assert np.array_equal(show(tmp_path, tall, PixelSpacing=[0, 0]), padded)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_header_is_known_by_its_content(tmp_path: Path, implicit: bool) -> None:
    dataset = make(RAMP)
    del dataset.file_meta
    path = tmp_path / "scan"
    dataset.save_as(path, implicit_vr=implicit, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(read_image(path, IMAGE)[0], own_range(RAMP))


def test_big_endian(tmp_path: Path) -> None:
    dataset = make(RAMP)
    dataset.PixelData = RAMP.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert np.array_equal(read_image(path, IMAGE)[0], own_range(RAMP))


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_compressed_pixels_are_the_same(tmp_path: Path, syntax: uid.UID) -> None:
    dataset = make(RAMP)
    dataset.compress(syntax)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert np.array_equal(read_image(path, IMAGE)[0], own_range(RAMP))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 200])
    assert "cut off" in reason(path)


def test_reasons(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", RAMP)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut off" in reason(path)
    dataset = make(RAMP)
    del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)
    assert "cut off" in reason(path)
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"):
        delattr(dataset, keyword)
    dataset.save_as(path, enforce_file_format=True)
    assert "cut off" in reason(path)  # the header still announces an image
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.RTPlanStorage
    dataset.Modality = "RTPLAN"
    dataset.save_as(path, enforce_file_format=True)
    assert "without pixels (RTPLAN)" in reason(path)
    dataset = make(RAMP)
    del dataset.PhotometricInterpretation
    dataset.save_as(path, enforce_file_format=True)
    assert "PhotometricInterpretation missing" in reason(path)
    write(path, RAMP, Rows=60000, Columns=60000)
    assert "larger than" in reason(path)


def test_an_unknown_coding_is_named(tmp_path: Path) -> None:
    dataset = make(RAMP)
    dataset.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    dataset.PixelData = encapsulate([b"\0\0\1\xb3" * 8])
    dataset["PixelData"].is_undefined_length = True
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    assert "MPEG2" in reason(path)


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEG2000Lossless])
def test_damaged_pixels_are_a_reason_or_a_picture(tmp_path: Path, syntax: uid.UID) -> None:
    dataset = make(np.random.default_rng(0).integers(0, 999, (32, 32)).astype(np.uint16))
    dataset.compress(syntax)
    path = tmp_path / "a.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(40):
        damaged = bytearray(content)
        for place in rng.integers(len(content) - 1500, len(content), 20):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_image(path, IMAGE)
        except DataError:
            refused += 1
    assert refused > 0


def test_reasons_and_warnings_quote_no_patient(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = make(RAMP, PatientName="Nobody^Known", PatientID="X" * 80)
    dataset.StudyDate = "not a date"
    path = tmp_path / "a.dcm"
    recwarn.clear()
    with pydicom.config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-100])
    assert "Nobody" not in reason(path)
    assert not list(recwarn)
    assert capfd.readouterr().err == ""


@needs_pack
def test_every_real_file_is_a_picture_or_a_reason() -> None:
    with (PACK / "index.csv").open() as file:
        names = [Path(row["file"]).name for row in csv.DictReader(file)]
    assert len(names) == 44
    for name in names:
        if name in BROKEN:
            assert BROKEN[name] in reason(PACK / name), name
        else:
            pixels = read_image(PACK / name, IMAGE)
            assert np.ptp(pixels) > 70 and pixels.std() > 10, name


@needs_pack
def test_the_same_real_image_in_different_codings() -> None:
    def far(first: str, second: str) -> float:
        one, two = (read_image(PACK / name, IMAGE).astype(int) for name in (first, second))
        return float(np.abs(one - two).max())

    for name in ("CT1_J2KR.dcm", "CT1_JLSL.dcm", "CT1_JPLL.dcm"):
        assert far("CT1_RLE.dcm", name) == 0, name
    for name in ("emri_small_RLE.dcm", "emri_small_big_endian.dcm"):
        assert far("emri_small.dcm", name) == 0, name
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm"):
        assert far("MR_small.dcm", name) == 0, name
    # Lossy: near-lossless JPEG-LS, and 12-bit JPEG whose scan header needs the repair.
    for name in ("MR1_JLSN.dcm", "MR1_JPLY.dcm"):
        assert far("MR1_RLE.dcm", name) <= 3, name
    assert far("US1_UNCR.dcm", "US1_J2KI.dcm") <= 12
    chest = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"
    one, two = (read_image(PACK / name, IMAGE).astype(int) for name in (chest, "Fake_MONOHR1.dcm"))
    assert np.abs(one + two - 255).max() <= 1
