"""A copy shows the same picture and holds nothing that is not on the list."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client.dicom_strip import KEPT, stripped, write_stripped
from mfm_core.config import ImageConfig
from mfm_core.errors import DataError
from mfm_core.images import quiet_decoders, read_image
from tests.client.archive import SYNTAXES, put, rich, several_frames

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom"
SQUARE = ImageConfig(size_px=64)


def keywords(dataset: Dataset) -> set[str]:
    found = set()
    for element in dataset:
        found.add(element.keyword or str(element.tag))
        if element.VR == "SQ":
            found |= {word for item in element.value for word in keywords(item)}
    return found


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_same_picture_same_syntax_nothing_else(tmp_path: Path, syntax: str) -> None:
    path = put(tmp_path / "a.dcm", rich(), syntax)
    copy = pydicom.dcmread(BytesIO(stripped(path)))
    assert keywords(copy) <= KEPT | {"SOPInstanceUID"}
    assert copy.file_meta.TransferSyntaxUID == syntax
    name = write_stripped(path, tmp_path)
    assert (read_image(tmp_path / name, SQUARE) == read_image(path, SQUARE)).all()


def test_sequences_are_filtered_inside(tmp_path: Path) -> None:
    header = rich()
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4096, 0, 8], "for Anna"
    table.add_new(0x00283006, "OW", (np.arange(4096, dtype="<u2") // 16).tobytes())
    header.VOILUTSequence = Sequence([table])
    copy = pydicom.dcmread(BytesIO(stripped(put(tmp_path / "a.dcm", header))))
    assert keywords(copy.VOILUTSequence[0]) == {"LUTDescriptor", "LUTData"}


def test_the_name_is_the_content(tmp_path: Path) -> None:
    one = put(tmp_path / "a.dcm", rich(1))
    renamed = rich(1)
    renamed.PatientName, renamed.PatientID = "Other^Name", "OTHER"
    other = put(tmp_path / "b.dcm", renamed)
    assert write_stripped(one, tmp_path / "o") == write_stripped(other, tmp_path / "o")
    assert write_stripped(put(tmp_path / "c.dcm", rich(2)), tmp_path / "o") != write_stripped(
        one, tmp_path / "o"
    )


def test_all_frames_are_kept(tmp_path: Path) -> None:
    path = put(tmp_path / "a.dcm", several_frames(3))
    name = write_stripped(path, tmp_path)
    for frame in range(3):
        assert (read_image(tmp_path / name, SQUARE, frame) == read_image(path, SQUARE, frame)).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real DICOM files are not on this machine")
def test_real_files_show_the_same_picture(tmp_path: Path) -> None:
    with (REAL / "index.csv").open(newline="") as file:
        small = [
            row["file"].split("/")[-1] for row in csv.DictReader(file) if "N2D" not in row["file"]
        ]
    checked = 0
    with quiet_decoders():
        for name in small:
            path = REAL / name
            if path.stat().st_size > 400_000:
                continue
            try:
                expected = read_image(path, SQUARE)
            except DataError:
                continue
            copy = tmp_path / write_stripped(path, tmp_path)
            assert (read_image(copy, SQUARE) == expected).all(), name
            checked += 1
    assert checked >= 25
