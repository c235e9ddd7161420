import numpy as np
import pytest
from PIL import Image
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.uid import SecondaryCaptureImageStorage, UltrasoundMultiFrameImageStorage

from client.dicom_source import read_source
from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from tests.client.films import PATIENT, PATIENT_ID, blob_film, film, save, slice_of

SQUARE = ImageConfig(size_px=32)


def test_the_source_knows_its_grid_and_its_true_class(tmp_path):
    header = film(blob_film(90, 140, (45, 35), 9))
    source = read_source(save(tmp_path / "film", header), SQUARE)
    assert (source.placement.rows, source.placement.columns) == (90, 140)
    assert source.placement.square == (0, 5, 32, 26)
    assert source.sop_class == header.SOPClassUID and source.frame is None
    assert source.header.SOPClassUID == SecondaryCaptureImageStorage


def test_pixels_that_are_not_square_count(tmp_path):
    header = film(blob_film(80, 80, (40, 40), 9))
    header.ImagerPixelSpacing = [0.4, 0.2]
    source = read_source(save(tmp_path / "film", header), SQUARE)
    assert source.placement.square == (8, 0, 24, 32)


def test_elements_that_may_be_empty_are_added(tmp_path):
    header = film(blob_film(20, 20, (10, 10), 3))
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        delattr(header, keyword)
    found = read_source(save(tmp_path / "film", header), SQUARE).header
    assert (found.PatientSex, found.StudyID, found.AccessionNumber) == ("", "", "")


def test_acr_nema_dates_are_understood(tmp_path):
    header = film(blob_film(20, 20, (10, 10), 3))
    for keyword, kind, text in (
        ("StudyDate", "DA", "1997.04.24"),
        ("StudyTime", "TM", "11:20:00"),
        ("PatientBirthDate", "DA", "unknown"),
    ):
        header[keyword] = DataElement(keyword, kind, text, validation_mode=IGNORE)
    path = save(tmp_path / "film", header)
    found = read_source(path, SQUARE).header
    assert (found.StudyDate, found.StudyTime) == ("19970424", "112000")
    assert found.PatientBirthDate == ""


def test_one_frame_of_several_stands_alone(tmp_path):
    frames = np.stack([blob_film(40, 60, (20, 10 + 8 * n), 5) for n in range(5)])
    header = film(frames)
    header.SOPClassUID, header.NumberOfFrames = UltrasoundMultiFrameImageStorage, 5
    path = save(tmp_path / "film", header)
    middle, last = read_source(path, SQUARE), read_source(path, SQUARE, 4)
    assert (middle.frame, last.frame) == (3, 5)
    assert "NumberOfFrames" not in middle.header
    assert middle.sop_class == UltrasoundMultiFrameImageStorage


@pytest.mark.parametrize("lost", ["SliceThickness", "PixelSpacing", "ImageOrientationPatient"])
def test_half_a_place_in_space_is_none(lost, tmp_path):
    header = slice_of(blob_film(20, 20, (10, 10), 3))
    delattr(header, lost)
    found = read_source(save(tmp_path / "slice", header), SQUARE).header
    assert "ImagePositionPatient" not in found and "ImageOrientationPatient" not in found


def test_what_cannot_be_referred_to_is_refused_without_naming_anybody(tmp_path):
    header = film(blob_film(20, 20, (10, 10), 3))
    del header.StudyInstanceUID, header.SeriesInstanceUID
    with pytest.raises(DataError, match="StudyInstanceUID, SeriesInstanceUID") as caught:
        read_source(save(tmp_path / "film", header), SQUARE)
    assert PATIENT not in str(caught.value) and PATIENT_ID not in str(caught.value)


def test_a_png_has_no_study(tmp_path):
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"no DICOM.*leave --dicom-out away"):
        read_source(tmp_path / "a.png", SQUARE)
