"""The few elements of a DICOM header that a manifest may know, and nothing else of it.

Only the elements in `_TAGS` are read out of the file at all. Identifiers among them become keyed
hashes at once; the others are checked for the form their element has by PS3.5 and PS3.16, so that
a name typed into a wrong field does not slip through.
What crosses the hospital's boundary: nothing; attributes are mapped to the run's words first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from client.pseudonyms import Pseudonyms
from mfm_core.dicom import is_dicom
from mfm_core.errors import DataError

_IDS = {
    "patient": "PatientID",
    "image": "SOPInstanceUID",
    "series": "SeriesInstanceUID",
    "study": "StudyInstanceUID",
    "accession": "AccessionNumber",
}
_ATTRIBUTE_TAGS = (
    *("ViewPosition", "ViewCodeSequence", "PatientSex", "PatientAge", "PatientBirthDate"),
    *("StudyDate", "Manufacturer", "ManufacturerModelName", "BodyPartExamined"),
    *("ImageLaterality", "Laterality", "PatientPosition"),
)
_TAGS = ["SOPClassUID", "Modality", *_IDS.values(), *_ATTRIBUTE_TAGS]
_DIRECTORY = "1.2.840.10008.1.3.10"
_VIEWS = {
    **{"399348003": "AP", "272479007": "PA", "399173006": "LL", "399198007": "RL"},
    **{"399067008": "LATERAL", "399162004": "CC", "399368009": "MLO", "399260004": "ML"},
    **{"R-10206": "AP", "R-10214": "PA", "R-10236": "LL", "R-10232": "RL", "R-10242": "CC"},
    **{"R-10226": "MLO", "R-10224": "ML"},
}
"""CID 4010 and 4014 (SNOMED CT, and the older SNOMED RT) in the words of ViewPosition."""


@dataclass(frozen=True)
class Header:
    """What a manifest may know of a file.

    Attributes:
        sop_class: UID of its class, "" where it has none.
        modality: its code, "" where it has none.
        names: keyed hashes by kind ("patient", "image", "series", "study", "accession");
            "" where the file has no such identifier.
        attributes: attribute to value, "" is unknown; the keys are those asked for.
        withheld: attributes whose value does not have the form of its element.
    """

    sop_class: str
    modality: str
    names: Mapping[str, str]
    attributes: Mapping[str, str]
    withheld: tuple[str, ...]


def read_header(path: Path, names: Pseudonyms, attributes: tuple[str, ...]) -> Header | str:
    """Return what a manifest may know of a file, or a reason of `client.intake_reasons`."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
        if not is_dicom(start):
            return "empty" if not start else "not_dicom"
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        return _header(dataset, names, attributes)
    except OSError:
        return "closed_file"
    except Exception:  # a damaged header raises whatever the place of the damage leads to
        return "damaged"


def _header(dataset: Dataset, names: Pseudonyms, attributes: tuple[str, ...]) -> Header | str:
    meta = getattr(dataset, "file_meta", None) or Dataset()
    sop_class = _text(dataset, "SOPClassUID") or str(meta.get("MediaStorageSOPClassUID") or "")
    if sop_class == _DIRECTORY:
        return "directory"
    hashed = {kind: names.name(kind, _text(dataset, tag)) for kind, tag in _IDS.items()}
    found = {name: ATTRIBUTES[name](dataset) for name in attributes}
    return Header(
        sop_class=sop_class,
        modality=_word(dataset, "Modality") or "",
        names=hashed,
        attributes={name: value or "" for name, value in found.items()},
        withheld=tuple(name for name, value in found.items() if value is None),
    )


def class_name(sop_class: str) -> str:
    """Return the standard's name of a SOP class; private and unknown ones are not quoted."""
    name = UID(sop_class).name
    return name if name != sop_class else "private or unknown class"


def check_attributes(asked: tuple[str, ...]) -> None:
    """Raise unless every attribute is on the list.

    Raises:
        DataError: an attribute that is not; the list is in the message.
    """
    wrong = [name for name in asked if name not in ATTRIBUTES]
    if wrong:
        known = ", ".join(ATTRIBUTES)
        problems = [f"{name!r} is not on the list of what may be read: {known}" for name in wrong]
        raise DataError("--attribute", problems)


def _text(dataset: Dataset, keyword: str) -> str:
    """Return the first value of an element as text, "" where there is none."""
    value = dataset.get(keyword)
    if isinstance(value, pydicom.multival.MultiValue):
        value = value[0] if value else None
    return "" if value is None else str(value).strip(" \0")


def _word(dataset: Dataset, keyword: str) -> str | None:
    """Return a code string (PS3.5: at most 16 of A-Z, 0-9, space, underscore), None for others."""
    text = _text(dataset, keyword).upper()
    return text if re.fullmatch(r"[A-Z0-9 _-]{0,16}", text) else None


def _view(dataset: Dataset) -> str | None:
    word = _word(dataset, "ViewPosition")
    items = dataset.get("ViewCodeSequence") or []
    return word or _VIEWS.get(str(items[0].get("CodeValue")), word) if items else word


def _sex(dataset: Dataset) -> str | None:
    word = _word(dataset, "PatientSex")
    return word if word in ("", "F", "M", "O") else None


def _age_decade(dataset: Dataset) -> str | None:
    """Return "60-69"; from 90 years on "90+", as one person may be the only one of that age."""
    text = _text(dataset, "PatientAge").upper()
    if not text:
        return _decade(_years(_text(dataset, "PatientBirthDate"), _text(dataset, "StudyDate")))
    if re.fullmatch(r"\d{1,3}[DWM]", text):
        years = int(text[:-1]) / {"D": 365.25, "W": 52.18, "M": 12}[text[-1]]
        return _decade(int(years))
    return _decade(int(text.rstrip("Y"))) if re.fullmatch(r"\d{1,3}Y?", text) else None


def _years(birth: str, study: str) -> int | None:
    """Return full years between two dates YYYYMMDD (or with dots, or dashes), None without."""
    dates = [re.sub("[.-]", "", text) for text in (birth, study)]
    if not all(re.fullmatch(r"\d{8}", text) for text in dates):
        return None
    years = (int(dates[1]) - int(dates[0])) // 10000
    return years if 0 <= years < 130 else None


def _decade(years: int | None) -> str:
    if years is None or years > 130:
        return ""
    return "90+" if years >= 90 else f"{years // 10 * 10}-{years // 10 * 10 + 9}"


def _scanner(dataset: Dataset) -> str | None:
    """Return manufacturer and model in capitals, the group of films from alike equipment."""
    parts = [_product(_text(dataset, key)) for key in ("Manufacturer", "ManufacturerModelName")]
    if None in parts:
        return None
    maker, model = (part or "" for part in parts)
    return model if maker and model.startswith(maker) else f"{maker} {model}".strip()


def _product(text: str) -> str | None:
    """Return a product's name; None for `^` (names of people) and long numbers (of people)."""
    plain = " ".join(text.upper().split())
    allowed = re.fullmatch(r"[\w .,&()/+*'-]{0,64}", plain)
    return plain if allowed and not re.search(r"\d{6}|\d+(\.\d+){3}", plain) else None


def _laterality(dataset: Dataset) -> str | None:
    word = _word(dataset, "ImageLaterality") or _word(dataset, "Laterality")
    return word if word in ("", "L", "R", "B", "U") else None


ATTRIBUTES: Mapping[str, Callable[[Dataset], str | None]] = {
    "view": _view,
    "sex": _sex,
    "age_decade": _age_decade,
    "scanner": _scanner,
    "body_part": lambda dataset: _word(dataset, "BodyPartExamined"),
    "laterality": _laterality,
    "position": lambda dataset: _word(dataset, "PatientPosition"),
    "modality": lambda dataset: _word(dataset, "Modality"),
}
"""Every attribute that may be read at all; each returns None for a value it withholds."""

DEFAULT_ATTRIBUTES = ("view", "sex", "age_decade", "scanner", "body_part")
