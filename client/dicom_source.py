"""What DICOM objects need to know of the image they are about: its header and its own grid.

One frame of a multi-frame image stands as if it were an image of its own; elements that the
standard allows to be empty are added where old equipment left them out, and dates of the form
1997.04.24 are brought to today's. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from mfm_core.config import ImageConfig
from mfm_core.dicom import is_dicom, read_dicom
from mfm_core.errors import DataError
from mfm_core.images import Frame, quiet_decoders
from mfm_core.raster import pick_frame
from mfm_core.source_grid import Placement, placement_of

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)


@dataclass(frozen=True)
class Source:
    """The image that was explained, as its objects need it.

    Attributes:
        header: its elements without pixels, as of a single secondary capture: highdicom knows
            neither every class of image nor one frame of several without a place in space.
        sop_class: the class it really has.
        frame: number of that frame from 1, None where the source has one only.
        placement: where it lies in the model's square.
    """

    header: Dataset
    sop_class: str
    frame: int | None
    placement: Placement


def is_dicom_file(path: Path) -> bool:
    """Return whether a file is DICOM by its content."""
    with path.open("rb") as file:
        return is_dicom(file.read(132))


def read_source(path: Path, image: ImageConfig, frame: Frame = "middle") -> Source:
    """Return what the objects need of a DICOM image that the model has read.

    Raises:
        DataError: it has no identifiers to refer to, or is no DICOM image.
    """
    if not is_dicom_file(path):
        problem = "is no DICOM, so there is no study to write DICOM objects into"
        raise DataError("image", [f"{problem}; leave --dicom-out away or give the DICOM file"])
    with quiet_decoders():  # pydicom's warnings quote elements of the patient
        return _read(path, image, frame)


def _read(path: Path, image: ImageConfig, frame: Frame) -> Source:
    header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    missing = [keyword for keyword in _NEEDED if not header.get(keyword)]
    if missing:
        problem = f"has no {', '.join(missing)} in its header"
        raise DataError("image", [f"{problem}; DICOM objects must refer to it, export it again"])
    raster = read_dicom(path, frame)
    rows, columns = raster.pixels.shape[:2]
    frames = int(header.get("NumberOfFrames") or 1)
    index = pick_frame(frames, frame)
    sop_class = str(header.SOPClassUID)
    _fill_in(header)
    _stand_alone(header, index)
    placement = placement_of(rows, columns, raster.aspect, image)
    return Source(header, sop_class, index + 1 if frames > 1 else None, placement)


def _fill_in(header: Dataset) -> None:
    """Add empty elements where type 2 ones are missing; bring dates and times to DICOM's form."""
    for keyword in _MAY_BE_EMPTY:
        if keyword not in header:
            setattr(header, keyword, "")
    for keyword, wrong, form in (
        ("StudyDate", "[.-]", r"\d{8}"),
        ("PatientBirthDate", "[.-]", r"\d{8}"),
        ("StudyTime", ":", r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
    ):
        text = re.sub(wrong, "", str(header.get(keyword) or "")).strip()
        setattr(header, keyword, text if re.fullmatch(form, text) else "")


def _stand_alone(header: Dataset, index: int) -> None:
    """Make one frame look like a secondary capture of its own, in place."""
    header.SOPClassUID = SecondaryCaptureImageStorage
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for group in [*shared[:1], *per_frame[index : index + 1]]:
        for macro in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"):
            for item in (group.get(macro) or [])[:1]:
                header.update(item)
    several = ("NumberOfFrames", "PerFrameFunctionalGroupsSequence", "DimensionIndexSequence")
    for keyword in (*several, "SharedFunctionalGroupsSequence"):
        if keyword in header:
            delattr(header, keyword)
    placed = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    if not all(header.get(keyword) for keyword in ("FrameOfReferenceUID", *placed)):
        for keyword in placed[:2]:
            if keyword in header:
                delattr(header, keyword)
    if not header.get("SliceThickness") and "PixelSpacing" in header:
        del header.PixelSpacing
