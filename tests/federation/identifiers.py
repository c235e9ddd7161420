"""Hospitals whose data are full of identifiers, each one unique and written down.

Real DICOM files through the product's own intake. Every text is invented, at least eight
characters long, and stands in one place only; pixels are marked by rows that no other image has.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from client.intake import MANIFEST, Request, take_in
from mfm_core.config import DataConfig, ImageConfig, OntologyConfig
from mfm_core.dataset import open_images
from tests.client.films import film
from tests.federation.searching import Mark, pixel_forms, text_forms

SIDE = 48
FEWEST_TONES = 14
"""Different values of a row of pixels, below which it could stand anywhere by chance."""

ONTOLOGY = OntologyConfig(classes=("left", "right"), attributes={"view": ("AP", "PA")})
_SYLLABLES = (
    "zor",
    "quil",
    "mav",
    "beth",
    "dru",
    "nyx",
    "fel",
    "gorm",
    "wys",
    "tarn",
    "jup",
    "ück",
)
_PERSONS = (
    *("ReferringPhysicianName", "PerformingPhysicianName", "OperatorsName"),
    *("NameOfPhysiciansReadingStudy", "ResponsiblePerson", "PhysiciansOfRecord"),
)
_PLACES = (
    *("InstitutionName", "InstitutionAddress", "StationName", "InstitutionalDepartmentName"),
    *("DeviceSerialNumber", "IssuerOfPatientID", "CurrentPatientLocation", "ProtocolName"),
)
_OF_PATIENT = (
    *("PatientName", "OtherPatientNames", "PatientMotherBirthName", "PatientBirthName"),
    *("PatientAddress", "PatientTelephoneNumbers", "Occupation", "MedicalRecordLocator"),
    *("PatientComments", "AdditionalPatientHistory"),
)
_OF_IMAGE = ("ImageComments", "StudyDescription", "SeriesDescription", "AdmissionID", "StudyID")
_SHORT = ("StationName", "Occupation", "StudyID", "PatientTelephoneNumbers")
"""Elements of at most 16 characters."""


@dataclass
class Words:
    """Invents identifiers of one site and remembers them."""

    site: str
    draw: random.Random
    marks: dict[str, Mark] = field(default_factory=dict)

    def keep(self, text: str, where: str) -> str:
        """Remember a text as an identifier; return it."""
        assert len(text) >= 8 and text not in self.marks
        self.marks[text] = Mark(text, where, self.site, text_forms(text))
        return text

    def word(self, where: str, longest: int = 40) -> str:
        """Return a new invented name, e.g. "Zorquilmav-4821"."""
        stem = "".join(self.draw.choice(_SYLLABLES) for _ in range(3)).capitalize()
        return self.keep(f"{stem[: longest - 5]}-{self.draw.randrange(1000, 10_000)}", where)

    def number(self, where: str, digits: int = 12) -> str:
        """Return a new number without leading zero."""
        return self.keep(str(self.draw.randrange(10 ** (digits - 1), 10**digits)), where)

    def uid(self, where: str) -> str:
        """Return a new UID."""
        return f"2.25.{self.number(where, 36)}"

    def date(self, where: str) -> str:
        """Return a new date YYYYMMDD; its other spellings are remembered as well."""
        year, month = self.draw.randrange(1911, 1990), self.draw.randrange(1, 13)
        text = f"{year}{month:02}{self.draw.randrange(1, 29):02}"
        if text in self.marks:
            return self.date(where)
        self.keep(f"{text[:4]}-{text[4:6]}-{text[6:]}", where)
        self.keep(f"{text[6:]}.{text[4:6]}.{text[:4]}", where)
        return self.keep(text, where)


@dataclass(frozen=True)
class Planting:
    """One hospital's data and everything in them that must not leave.

    Attributes:
        site: its name in the consortium, which may leave.
        data: for site.yaml; paths absolute.
        words: its texts; more can be added.
        pixels: its rows of pixels at model size and as decoded.
        files: the images, relative to the root, as the manifest names them.
    """

    site: str
    data: DataConfig
    words: Words
    pixels: tuple[Mark, ...]
    files: tuple[str, ...]

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Return all of it."""
        return (*self.words.marks.values(), *self.pixels)


def plant(folder: Path, site: str, seed: int, patients: int = 12, size_px: int = 32) -> Planting:
    """Write a hospital's DICOM files, labels and manifest below `folder`; two images a patient.

    The folder has an identifier in its own name.
    """
    words = Words(site, random.Random(f"{site} {seed}"))
    base = folder / words.word("folder name")
    fixed = {name: words.word(f"DICOM {name}", _longest(name)) for name in (*_PERSONS, *_PLACES)}
    rows, decoded = [], []
    for patient in range(patients):
        facts = _person(words)
        study, place = words.uid("DICOM StudyInstanceUID"), words.word("folder name")
        for shot in range(2):
            label, view = ("left", "right")[patient % 2], ("AP", "PA")[(patient // 2 + shot) % 2]
            picture = _picture(words, label, str(facts["PatientName"]))
            header = _header(words, picture, {**fixed, **facts})
            header.StudyInstanceUID, header.ViewPosition = study, view
            path = base / "archive" / place / f"{words.word('file name')}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            header.save_as(path, enforce_file_format=True)
            _mark_preamble(path, words.word("DICOM preamble"))
            note = words.word("column of the labels CSV")
            rows.append((str(header.AccessionNumber), label, note, str(facts["PatientName"])))
            decoded.append(picture)
    data = _take_in(base, rows, words)
    pixels = _pixel_marks(site, data, base / "looked-at", size_px, decoded)
    with data.manifest.open(encoding="utf-8", newline="") as file:  # type: ignore[union-attr]
        files = tuple(row["file"] for row in csv.DictReader(file))
    return Planting(site, data, words, pixels, files)


def _longest(element: str) -> int:
    return 16 if element in _SHORT else 40


def _person(words: Words) -> dict[str, str]:
    """Return the elements that tell who a patient is."""
    facts = {name: words.word(f"DICOM {name}", _longest(name)) for name in _OF_PATIENT}
    return {
        **facts,
        "PatientID": words.number("DICOM PatientID"),
        "PatientBirthDate": words.date("DICOM PatientBirthDate"),
    }


def _picture(words: Words, label: str, name: str) -> np.ndarray:
    """Return `[SIDE, SIDE] uint16` of 12 bits, a name drawn into it."""
    noise = np.random.default_rng(words.draw.randrange(2**32))
    values = noise.integers(20, 90, (SIDE, SIDE)).astype(np.uint8)
    column = 6 if label == "left" else 30
    values[20:34, column : column + 12] += 110
    image = Image.fromarray(values)
    ImageDraw.Draw(image).text((1, 1), name, fill=255)
    return np.asarray(image).astype(np.uint16) * 16


def _header(words: Words, picture: np.ndarray, facts: dict[str, str]) -> Dataset:
    header = film(picture)
    header.SpecificCharacterSet = "ISO_IR 192"
    for name, value in facts.items():
        setattr(header, name, value)
    for name in _OF_IMAGE:
        setattr(header, name, words.word(f"DICOM {name}", _longest(name)))
    header.AccessionNumber = words.number("DICOM AccessionNumber")
    header.SOPInstanceUID = words.uid("DICOM SOPInstanceUID")
    header.SeriesInstanceUID = words.uid("DICOM SeriesInstanceUID")
    header.Manufacturer, header.PatientAge = words.word("DICOM Manufacturer"), "062Y"
    header.PatientSex = "F"
    inside, deeper, other = Dataset(), Dataset(), Dataset()
    deeper.PersonName = words.word("DICOM nested sequence, two deep")
    inside.RequestingPhysician = words.word("DICOM nested sequence")
    inside.add_new(0x0040A073, "SQ", Items([deeper]))
    header.RequestAttributesSequence = Items([inside])
    other.PatientID = words.word("DICOM nested sequence")
    header.OtherPatientIDsSequence = Items([other])
    block = header.private_block(0x0029, "ACME 1.0", create=True)
    block.add_new(0x01, "LO", words.word("DICOM private element"))
    hidden = Dataset()
    hidden.PatientName = words.word("DICOM private sequence")
    block.add_new(0x02, "SQ", Items([hidden]))
    header.file_meta.SourceApplicationEntityTitle = words.number("DICOM file meta")
    return header


def _mark_preamble(path: Path, word: str) -> None:
    """Write a word into the 128 bytes before the DICOM prefix."""
    content = path.read_bytes()
    path.write_bytes(word.encode().ljust(128, b"\0") + content[128:])


def _take_in(base: Path, rows: Sequence[tuple[str, ...]], words: Words) -> DataConfig:
    """Make the manifest through the product's intake, and add a column to it."""
    labels = base / f"{words.word('file name')}.csv"
    lines = [("AccessionNumber", "label", words.word("column name"), "name"), *rows]
    _write_csv(labels, lines)
    manifest = base / "taken" / MANIFEST
    source = base / "archive"
    done = take_in(Request(source, manifest.parent, base / "intake-state", labels))
    assert len(done.rows) == len(rows), done.left_out
    with manifest.open(encoding="utf-8", newline="") as file:
        header, *content = csv.reader(file)
    for pseudonym in sorted({line[header.index("patient_id")] for line in content}):
        words.keep(pseudonym, "pseudonym in the manifest")
    more = words.word("column name")
    told = [[*line, words.word("extra column of the manifest")] for line in content]
    _write_csv(manifest, [[*header, more], *told])
    return DataConfig(root=source, manifest=manifest, val_fraction=0.2, test_fraction=0.3)


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _pixel_marks(
    site: str, data: DataConfig, cache: Path, size_px: int, decoded: Sequence[np.ndarray]
) -> tuple[Mark, ...]:
    """Return marks for the rows of every image: at model size, and as its file holds them."""
    images = open_images(data, ONTOLOGY, ImageConfig(size_px=size_px), cache).images
    marks = []
    for number, image in enumerate(images[:, 0]):
        for at, row in enumerate(image):
            if len(np.unique(row)) >= FEWEST_TONES:
                name = f"{site}, image {number}, row {at} at model size"
                marks.append(Mark(name, "pixels at model size", site, pixel_forms(row)))
        patch = image[8:16, 8:16].reshape(-1)
        name = f"{site}, image {number}, patch of 8 x 8"
        marks.append(Mark(name, "pixels at model size", site, pixel_forms(patch)))
    for number, picture in enumerate(decoded):
        forms = {"uint16": picture[3].tobytes(), "uint8": (picture[3] // 16).astype("u1").tobytes()}
        name = f"{site}, film {number}, row 3 with the name drawn in"
        marks.append(Mark(name, "burned-in text", site, forms))
    return tuple(marks)
