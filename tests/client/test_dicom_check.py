"""Every kind of finding is made where it holds and only there; no value is quoted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import UltrasoundImageStorage

from client.dicom_check import KINDS, Findings, check_files
from tests.client.archive import NESTED_NAME, PRIVATE_TEXT, SYNTAXES, picture, put, rich
from tests.client.films import film


def bare() -> Dataset:
    """Return a film about nobody."""
    header = film(picture(3))
    for element in list(header):
        if element.VR in ("PN", "DA", "TM") or element.keyword in (
            *("PatientID", "AccessionNumber", "StudyID"),
        ):
            del header[element.tag]
    return header


def check(path: Path, header: Dataset, syntax: str = SYNTAXES[1]) -> dict[str, tuple[str, ...]]:
    found = check_files([put(path / "a.dcm", header, syntax)])
    return {item.kind: item.details for item in found.found}


def test_a_film_about_nobody_has_no_finding(tmp_path: Path) -> None:
    found = check_files([put(tmp_path / "a.dcm", bare())])
    assert (found.found, found.level(), found.counts(), found.lines()) == ((), "ok", {}, [])


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_names_are_found_at_any_depth_in_any_syntax(tmp_path: Path, syntax: str) -> None:
    found = check(tmp_path, rich(), syntax)
    assert {"PatientName", "PatientID", "PatientBirthDate"} <= set(found["identifiers"])
    assert "RequestingPhysician in RequestAttributesSequence" in found["identifiers"]
    assert "PersonName in VerifyingObserverSequence" in found["identifiers"]
    assert {"StudyDate", "InstitutionName", "StationName"} <= set(found["indirect"])
    assert found["private"] == ("group 0029",)


def test_no_value_is_quoted(tmp_path: Path) -> None:
    header = rich()
    path = put(tmp_path / "a.dcm", header)
    text = repr([(item.kind, item.details) for item in check_files([path]).found])
    for value in ("PID-1", "Family", NESTED_NAME, PRIVATE_TEXT, "19610704", "House", "St. Ex"):
        assert value not in text


def test_a_person_name_counts_under_any_tag(tmp_path: Path) -> None:
    header = bare()
    header.ContentCreatorName = "Some^Body"
    assert check(tmp_path, header) == {"identifiers": ("ContentCreatorName",)}


def test_empty_elements_are_no_finding(tmp_path: Path) -> None:
    header = bare()
    header.PatientName, header.PatientID, header.StudyDate = "", " ", ""
    assert check(tmp_path, header) == {}


def test_overlays_and_unknown_classes(tmp_path: Path) -> None:
    header = bare()
    header.add_new(0x60000010, "US", 4)
    header.add_new(0x60023000, "OW", b"\1\0")
    header.SOPClassUID = "1.2.3.4.5"
    found = check(tmp_path, header)
    assert found["overlay"] == ("group 6000", "group 6002")
    assert found["unknown_class"] == ("a class that is not in the standard",)


@pytest.mark.parametrize(
    ("said", "modality", "kinds"),
    [
        ("YES", "DX", {"burned_in"}),
        ("YES", "US", {"burned_in"}),
        ("NO", "US", set()),
        (None, "US", {"burned_in_unsaid"}),
        ("", "SC", {"burned_in_unsaid"}),
        (None, "DX", set()),
    ],
)
def test_the_burned_in_flag(
    tmp_path: Path, said: str | None, modality: str, kinds: set[str]
) -> None:
    header = bare()
    header.Modality = modality
    if said is None:
        del header.BurnedInAnnotation
    else:
        header.BurnedInAnnotation = said
    assert set(check(tmp_path, header)) == kinds


def test_a_class_at_risk_counts_although_the_modality_says_nothing(tmp_path: Path) -> None:
    header = bare()
    header.SOPClassUID = UltrasoundImageStorage
    del header.BurnedInAnnotation
    assert set(check(tmp_path, header)) == {"burned_in_unsaid"}


def test_deidentification_is_noted(tmp_path: Path) -> None:
    header = bare()
    header.PatientIdentityRemoved = "YES"
    assert check(tmp_path, header) == {"deidentified": ("without naming a method",)}
    header.DeidentificationMethod = "Basic Profile"
    assert check(tmp_path, header) == {"deidentified": ("by a named method",)}


def test_written_pixels_are_found_and_can_be_left_out(tmp_path: Path) -> None:
    pixels = Image.fromarray(np.zeros((256, 320), np.uint8) + 40)
    font = ImageFont.load_default(size=18)
    ImageDraw.Draw(pixels).text((10, 10), "MUELLER ANNA 1961", fill=255, font=font)
    header = bare()
    written = (np.asarray(pixels).astype(np.uint16) * 16).tobytes()
    header.Rows, header.Columns, header.PixelData = 256, 320, written
    path = put(tmp_path / "a.dcm", header)
    assert check_files([path]).counts() == {"text_like": 1}
    assert check_files([path], text=False).counts() == {}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    whole = put(tmp_path / "whole.dcm", bare()).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-800])
    (tmp_path / "text.txt").write_text("x" * 300)
    (tmp_path / "empty").touch()
    names = ("cut.dcm", "text.txt", "empty", "gone")
    found = check_files([tmp_path / name for name in names])
    assert [item.kind for item in found.found] == [
        *("unreadable", "not_dicom", "not_dicom", "unreadable"),
    ]
    assert found.level() == "fail"


def test_one_broken_value_hides_no_other_finding(tmp_path: Path) -> None:
    header = rich()
    header.add_new(0x00181151, "IS", "200")
    content = put(tmp_path / "a.dcm", header).read_bytes()
    (tmp_path / "a.dcm").write_bytes(content.replace(b"IS\4\x00200 ", b"IS\4\x00xyz "))
    assert "identifiers" in check_files([tmp_path / "a.dcm"]).counts()


def test_summary_and_list_agree(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{i}.dcm", rich(i)) for i in range(2)]
    paths.append(put(tmp_path / "b.dcm", bare()))
    told: list[tuple[int, int]] = []
    found = check_files(paths, lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert found.counts() == {"identifiers": 2, "indirect": 2, "private": 2}
    assert found.details("identifiers")["PatientName"] == 2
    assert {(file, kind) for file, kind, _ in found.rows()} == {
        (str(path), kind) for path in paths[:2] for kind in found.counts()
    }
    assert all(str(tmp_path) not in line and "2 of 3" in line for line in found.lines())


def test_every_kind_has_words_and_advice() -> None:
    assert all(kind.words and kind.advice for kind in KINDS.values())
    assert Findings((), ()).level() == "ok"
