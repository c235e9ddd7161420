"""A copy of a DICOM image that holds its pixels and what is needed to show them, nothing else.

The list is of what stays: the image pixel, LUT and spacing elements that `mfm_core.dicom` reads
(PS3.3 C.7.6.3, C.11.1, C.11.2, C.7.6.16), class, modality and codes of the picture. Names, dates,
UIDs, free text, private elements, overlays and curves are not copied, at any depth. Text burned
into the pixels stays, and so do comments inside a compressed frame: this is no full
de-identification after PS3.15. What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mfm_core.whole_file import write_whole

FOLDER = "images"
KEPT = frozenset(
    (
        *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "Rows", "Columns"),
        *("NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
        *("PixelPaddingValue", "PixelPaddingRangeLimit", "PixelSpacing", "ImagerPixelSpacing"),
        *("PixelAspectRatio", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
        *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
        *("ModalityLUTType", "VOILUTSequence", "LUTDescriptor", "LUTData"),
        *("WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape"),
        *(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue")),
        *(f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
        *(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
        *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
        *("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence"),
        *("SOPClassUID", "Modality", "LossyImageCompression"),
    )
)
"""Keywords of all that is copied, at the top and inside sequences."""


def write_stripped(path: Path, folder: Path) -> str:
    """Write the stripped copy of an image; return its name relative to `folder`.

    The name is the SHA-256 of the copy's own bytes, so the same image always has the same name,
    and an image that was written before is not written again.
    """
    content = stripped(path)
    digest = hashlib.sha256(content).hexdigest()
    name = f"{FOLDER}/{digest[:2]}/{digest}.dcm"
    if not (folder / name).is_file():
        write_whole(folder / name, content)
    return name


def stripped(path: Path) -> bytes:
    """Return the bytes of the copy: a DICOM file in the transfer syntax of the original."""
    source = pydicom.dcmread(path, force=True)
    copy = _kept(source)
    pixels = b"".join(bytes(copy[tag].value) for tag in _pixel_tags(copy))
    number = int.from_bytes(hashlib.sha256(pixels).digest()[:16], "big")
    copy.SOPInstanceUID = f"2.25.{number}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = copy.get("SOPClassUID", "")
    meta.MediaStorageSOPInstanceUID = copy.SOPInstanceUID
    meta.TransferSyntaxUID = _syntax(source)
    copy.file_meta = meta
    target = BytesIO()
    copy.save_as(target, enforce_file_format=True)
    return target.getvalue()


def _kept(source: Dataset) -> Dataset:
    """Return a dataset with the elements of the list only, sequences filtered likewise."""
    copy = Dataset()
    for element in source:
        if element.keyword not in KEPT:
            continue
        if element.VR == "SQ":
            copy.add_new(element.tag, "SQ", Sequence(_kept(item) for item in element.value))
        else:
            copy.add(element)
    return copy


def _pixel_tags(copy: Dataset) -> Iterator[str]:
    return (tag for tag in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if tag in copy)


def _syntax(source: Dataset) -> UID:
    """Return the transfer syntax; of a file without header, the one its elements were read in."""
    named = getattr(source, "file_meta", Dataset()).get("TransferSyntaxUID")
    if named:
        return UID(named)
    implicit, little = source.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
