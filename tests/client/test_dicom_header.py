"""Only listed elements come out of a header, and only in the form their element has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage

from client.dicom_header import (
    ATTRIBUTES,
    DEFAULT_ATTRIBUTES,
    Header,
    check_attributes,
    class_name,
    read_header,
)
from client.pseudonyms import Pseudonyms
from mfm_core.errors import DataError
from mfm_core.images import quiet_decoders
from tests.client.archive import NESTED_NAME, PRIVATE_TEXT, SYNTAXES, put, rich

NAMES = Pseudonyms(b"k" * 32)
EVERY = tuple(ATTRIBUTES)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Wrong values warn when they are written; reading is quiet in every caller."""
    with quiet_decoders():
        yield


def read(path: Path, header: Dataset) -> Header:
    found = read_header(put(path / "a.dcm", header), NAMES, EVERY)
    assert isinstance(found, Header)
    return found


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_gives_the_same(tmp_path: Path, syntax: str) -> None:
    found = read_header(put(tmp_path / "a", rich(), syntax), NAMES, DEFAULT_ATTRIBUTES)
    assert isinstance(found, Header)
    assert found.attributes == {
        "view": "PA",
        "sex": "F",
        "age_decade": "60-69",
        "scanner": "ACME MEDICAL RAY 3",
        "body_part": "CHEST",
    }
    assert found.names["patient"] == NAMES.name("patient", "PID-1")
    assert (found.modality, found.withheld) == ("DX", ())


def test_nothing_raw_is_in_the_result(tmp_path: Path) -> None:
    header = rich()
    text = repr(read(tmp_path, header))
    raw = [
        *(header.PatientID, "Family", header.StudyInstanceUID, header.SOPInstanceUID),
        *(header.SeriesInstanceUID, header.AccessionNumber, "19610704", "20200102"),
        *(NESTED_NAME, PRIVATE_TEXT, "St. Example", "ROOM-3", "House"),
    ]
    assert [value for value in raw if str(value) in text] == []


@pytest.mark.parametrize(
    ("age", "birth", "decade"),
    [
        ("062Y", "", "60-69"),
        ("009M", "", "0-9"),
        ("089Y", "", "80-89"),
        ("090Y", "", "90+"),
        ("104Y", "", "90+"),
        ("", "19610704", "50-59"),
        ("", "1900.01.01", "90+"),
        ("", "20300101", ""),
        ("", "", ""),
    ],
)
def test_age_becomes_a_decade(tmp_path: Path, age: str, birth: str, decade: str) -> None:
    header = rich()
    header.PatientAge, header.PatientBirthDate = age, birth
    assert read(tmp_path, header).attributes["age_decade"] == decade


@pytest.mark.parametrize(
    ("keyword", "value", "attribute"),
    [
        ("BodyPartExamined", "Miller^Jane", "body_part"),
        ("BodyPartExamined", "Jane Miller, born 1961-07-04", "body_part"),
        ("ManufacturerModelName", "Miller^Jane", "scanner"),
        ("ManufacturerModelName", "Ray 12345678", "scanner"),
        ("Manufacturer", "1.2.840.113619.2", "scanner"),
        ("PatientSex", "JANE", "sex"),
        ("ViewPosition", "see Dr. House", "view"),
        ("Laterality", "JANE", "laterality"),
    ],
)
def test_a_value_of_another_form_is_withheld(
    tmp_path: Path, keyword: str, value: str, attribute: str
) -> None:
    header = rich()
    setattr(header, keyword, value)
    found = read(tmp_path, header)
    assert found.attributes[attribute] == ""
    assert found.withheld == (attribute,)


def test_the_view_may_stand_in_a_code(tmp_path: Path) -> None:
    header = rich()
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "399348003", "SCT", "AP"
    header.ViewPosition, header.ViewCodeSequence = "", Sequence([code])
    assert read(tmp_path, header).attributes["view"] == "AP"
    code.CodeValue = "0"
    assert read(tmp_path, header).attributes["view"] == ""


def test_a_file_that_is_none_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"x" * 500)
    (tmp_path / "rest").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0" + b"\xff" * 7)
    reasons = [read_header(tmp_path / n, NAMES, EVERY) for n in ("empty", "text", "gone")]
    assert reasons == ["empty", "not_dicom", "closed_file"]
    broken = read_header(tmp_path / "rest", NAMES, EVERY)
    assert broken == "damaged" or isinstance(broken, Header)


def test_a_dicomdir_is_known_by_its_class(tmp_path: Path) -> None:
    header = rich()
    header.SOPClassUID = "1.2.840.10008.1.3.10"
    assert read_header(put(tmp_path / "any name", header), NAMES, EVERY) == "directory"


def test_classes_have_names_and_private_ones_are_not_quoted() -> None:
    assert class_name(CTImageStorage) == "CT Image Storage"
    assert "1.2.3" not in class_name("1.2.3.4.5")


def test_only_listed_attributes_can_be_asked_for() -> None:
    check_attributes(DEFAULT_ATTRIBUTES)
    with pytest.raises(DataError, match="'PatientName' is not on the list") as refusal:
        check_attributes(("view", "PatientName", "InstitutionName"))
    assert len(refusal.value.problems) == 2
