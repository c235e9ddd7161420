"""What the site should know of its DICOM files before it trains on them: findings per file.

Nothing is changed and no value is quoted, only the names of elements. Overlays, private elements
and elements inside sequences count. The pixels of the frame that training reads are searched for
text (`mfm_core.text_regions`).
What crosses the hospital's boundary: nothing; the list names files of the hospital.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from PIL import Image
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from client.dicom_identifiers import DIRECT, INDIRECT
from client.progress import Show
from mfm_core.dicom import is_dicom, read_dicom
from mfm_core.errors import DataError
from mfm_core.images import quiet_decoders
from mfm_core.text_regions import find_text

Level = Literal["fail", "warn", "note"]


@dataclass(frozen=True)
class Kind:
    """What a finding is: how bad, and what follows from it."""

    level: Level
    words: str
    advice: str


KINDS: Mapping[str, Kind] = {
    "unreadable": Kind("fail", "cannot be read", "export the file again, or leave it out"),
    "not_dicom": Kind("note", "not a DICOM file", "nothing to check here; look at it yourself"),
    "burned_in": Kind(
        "warn", "says that an annotation is burned in", "cover it, or leave the image out"
    ),
    "text_like": Kind(
        "warn", "pixels that look like text", "look at these images; cover what names somebody"
    ),
    "burned_in_unsaid": Kind(
        "warn", "of a kind that often has text in it, and does not say", "look at these images"
    ),
    "identifiers": Kind(
        "note", "header names a person", "training reads no header; never pass these files on"
    ),
    "indirect": Kind(
        "note", "header holds dates, places or free text", "as above; intake --copy leaves it out"
    ),
    "private": Kind(
        "note", "private elements of a manufacturer", "may hold anything; never pass these files on"
    ),
    "overlay": Kind(
        "note", "overlay planes or curves", "training does not draw them; they may hold text"
    ),
    "unknown_class": Kind(
        "warn", "of no class that this program knows", "see that these are images you want"
    ),
    "no_image": Kind("note", "no image class", "leave these out; intake does"),
    "deidentified": Kind(
        "note", "says that its patient was removed", "trust it as far as its tool"
    ),
}
"""Every kind of finding, worst and most telling first."""

AT_RISK_MODALITIES = ("US", "IVUS", "SC", "OT", "XC", "ES", "GM", "DG", "RF")
AT_RISK_CLASSES = ("Ultrasound", "Secondary Capture", "Screen", "Visible Light", "VL ")
MAX_DEPTH = 16
"""Sequences in sequences that are looked into; deeper ones are no real file."""


@dataclass(frozen=True)
class Finding:
    """One thing about one file.

    Attributes:
        file: index into `Findings.files`.
        kind: a key of KINDS.
        details: names of elements, numbers of lines; no value of the file.
    """

    file: int
    kind: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """What was found in a set of files.

    Attributes:
        files: as given.
        found: findings, in the order of files and of KINDS.
    """

    files: tuple[Path, ...]
    found: tuple[Finding, ...]

    def counts(self) -> dict[str, int]:
        """Return kind to number of files, in the order of KINDS; kinds without files are absent."""
        files = Counter(kind for kind, _ in {(item.kind, item.file) for item in self.found})
        return {kind: files[kind] for kind in KINDS if files[kind]}

    def details(self, kind: str) -> dict[str, int]:
        """Return the details of a kind to number of files, most frequent first; names no file."""
        every = Counter(text for item in self.found if item.kind == kind for text in item.details)
        return dict(sorted(every.items(), key=lambda entry: (-entry[1], entry[0])))

    def level(self) -> Level | Literal["ok"]:
        """Return the worst level of all findings."""
        found = {KINDS[kind].level for kind in self.counts()}
        order: tuple[Level, ...] = ("fail", "warn", "note")
        return next((level for level in order if level in found), "ok")

    def lines(self) -> list[str]:
        """Return one line per kind for people: how many files, what, what to do."""
        total = len(self.files)
        return [
            f"{KINDS[kind].level}: {count} of {total} files: {KINDS[kind].words}; "
            f"{KINDS[kind].advice}"
            for kind, count in self.counts().items()
        ]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield file, kind and details of each finding, for a list that stays here."""
        for item in self.found:
            yield str(self.files[item.file]), item.kind, ", ".join(item.details)


def check_files(paths: Iterable[Path], show: Show | None = None, *, text: bool = True) -> Findings:
    """Return what is to be known of each file.

    Args:
        paths: files; others than DICOM are noted.
        show: told how many files are done, and how many there are.
        text: also search the pixels (most of the time it takes).
    """
    files = tuple(paths)
    found: list[Finding] = []
    with quiet_decoders():
        for index, path in enumerate(files):
            of_file = sorted(_check(path, text), key=lambda item: list(KINDS).index(item[0]))
            found += [Finding(index, kind, details) for kind, details in of_file]
            if show is not None:
                show(index + 1, len(files))
    return Findings(files, tuple(found))


_Said = tuple[str, tuple[str, ...]]


def _check(path: Path, text: bool) -> list[_Said]:
    """Return kinds and details of one file."""
    try:
        with path.open("rb") as file:
            if not is_dicom(file.read(132)):
                return [("not_dicom", ())]
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        elements = list(_elements(header, "", 0))
        found = [*_of_class(header), *_of_annotation(header), *_of_elements(elements)]
    except OSError as error:
        return [("unreadable", (f"{error.strerror}",))]
    except Exception as error:  # a damaged header raises whatever the place of the damage leads to
        return [("unreadable", (f"damaged header ({type(error).__name__})",))]
    if not any(kind == "no_image" for kind, _ in found):
        found += _of_pixels(path, text)
    return found


def _elements(dataset: Dataset, place: str, depth: int) -> Iterator[tuple[str, DataElement]]:
    """Yield every element with its place ("" or " in X"), those inside sequences too."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # a value that breaks its own rules still is one
            element = DataElement(tag, "UN", b"unread")
        yield place, element
        if element.VR == "SQ" and depth < MAX_DEPTH and element.value:
            inside = f" in {_name(element)}"
            for item in element.value:
                yield from _elements(item, inside, depth + 1)


def _name(element: DataElement) -> str:
    return keyword_for_tag(element.tag) or f"({element.tag.group:04X},{element.tag.element:04X})"


def _of_elements(elements: Sequence[tuple[str, DataElement]]) -> Iterator[_Said]:
    """Yield which elements there are of each kind."""
    names: dict[str, dict[str, None]] = {}
    for place, element in elements:
        kind = _kind(element)
        group = f"group {element.tag.group:04X}"
        name = group if kind in ("private", "overlay") else _name(element) + place
        names.setdefault(kind, {})[name] = None
    names.pop("", None)
    yield from ((kind, tuple(found)) for kind, found in names.items())


def _kind(element: DataElement) -> str:
    """Return of which kind of finding an element is, "" for none."""
    tag, group = int(element.tag), element.tag.group
    if element.tag.is_private:
        return "private"
    if group & 0xFF00 in (0x6000, 0x5000):
        return "overlay"
    if not _filled(element.value):
        return ""
    if tag in DIRECT or element.VR == "PN":
        return "identifiers"
    return "indirect" if tag in INDIRECT else ""


def _filled(value: Any) -> bool:
    """Return whether an element holds anything but padding."""
    if isinstance(value, bytes):
        return bool(value.strip(b" \0"))
    if isinstance(value, MultiValue | pydicom.Sequence | list):
        return any(_filled(part) for part in value)
    return value is not None and bool(str(value).strip(" \0"))


def _of_class(header: Dataset) -> Iterator[_Said]:
    """Yield what is to be said about the kind of object."""
    meta = getattr(header, "file_meta", None) or Dataset()
    number = str(header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    name = UID(number).name
    if not number or name == number:
        yield "unknown_class", ("a class that is not in the standard" if number else "none named",)
    elif "Image Storage" not in name and "Rows" not in header:
        yield "no_image", (name,)


def _of_annotation(header: Dataset) -> Iterator[_Said]:
    """Yield what the header says about burned-in text and about de-identification."""
    said = _word(header, "BurnedInAnnotation")
    modality = _word(header, "Modality")
    name = UID(str(header.get("SOPClassUID") or "")).name
    if said == "YES":
        yield "burned_in", ()
    elif said != "NO" and "Rows" in header:
        at_risk = modality in AT_RISK_MODALITIES
        if at_risk or any(word in name for word in AT_RISK_CLASSES):
            yield "burned_in_unsaid", (modality if at_risk else name,)
    methods = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
    named = any(_filled(header.get(keyword)) for keyword in methods)
    if named or _word(header, "PatientIdentityRemoved") == "YES":
        yield "deidentified", ("by a named method" if named else "without naming a method",)


def _word(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip().upper()


def _of_pixels(path: Path, text: bool) -> Iterator[_Said]:
    """Yield what the pixels say: that they cannot be read, or that they look like text."""
    try:
        pixels = read_dicom(path, "middle").pixels
    except DataError as error:
        yield "unreadable", error.problems
        return
    except Exception as error:  # decoders raise whatever they like, and may quote the file
        yield "unreadable", (f"its pixels cannot be decoded ({type(error).__name__})",)
        return
    gray = pixels if pixels.ndim == 2 else np.asarray(Image.fromarray(pixels).convert("L"))
    regions = find_text(gray) if text else ()
    if regions:
        yield "text_like", (f"{len(regions)} {'line' if len(regions) == 1 else 'lines'}",)
