"""DICOM files as they come out of an archive: several syntaxes, nested names, private blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.client.films import blob_film, film

NESTED_NAME = "Nested^Norbert"
PRIVATE_TEXT = "Private words about Anna"
SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    RLELossless,
    JPEGBaseline8Bit,
)


def picture(seed: int, side: int = 48) -> np.ndarray:
    """Return a small film; every seed gives another one."""
    rng = np.random.default_rng(seed)
    return blob_film(side, side, tuple(rng.uniform(10, side - 10, 2)), float(rng.uniform(4, 9)))


def rich(seed: int = 0, patient: str = "PID-1") -> Dataset:
    """Return a film with everything that must not get out."""
    header = film(picture(seed))
    header.PatientID, header.PatientName = patient, f"Family{patient}^Given"
    header.ViewPosition, header.BodyPartExamined, header.PatientAge = "PA", "CHEST", "062Y"
    header.Manufacturer, header.ManufacturerModelName = "Acme  Medical", "Ray 3"
    header.InstitutionName, header.StationName = "St. Example", "ROOM-3"
    inside = Dataset()
    inside.RequestingPhysician, inside.RequestedProcedureDescription = NESTED_NAME, "THORAX"
    deeper = Dataset()
    deeper.PersonName = NESTED_NAME
    inside.add_new(0x0040A073, "SQ", Sequence([deeper]))
    header.RequestAttributesSequence = Sequence([inside])
    block = header.private_block(0x0029, "ACME 1.0", create=True)
    block.add_new(0x01, "LO", PRIVATE_TEXT)
    return header


def put(path: Path, header: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a film in a transfer syntax; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax == JPEGBaseline8Bit:
        _eight_bit_jpeg(header)
    header.file_meta.TransferSyntaxUID = syntax
    if syntax == RLELossless:
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    if syntax == ExplicitVRBigEndian:
        header.PixelData = np.frombuffer(header.PixelData, "<u2").astype(">u2").tobytes()
        header["PixelData"].VR = "OW"
    header.save_as(path, enforce_file_format=True)
    return path


def _eight_bit_jpeg(header: Dataset) -> None:
    import io

    from PIL import Image

    values = np.frombuffer(header.PixelData, "<u2").reshape(header.Rows, header.Columns)
    stream = io.BytesIO()
    Image.fromarray((values >> 4).astype(np.uint8)).save(stream, "JPEG", quality=95)
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.WindowCenter, header.WindowWidth = 128, 256
    header.PixelData = encapsulate([stream.getvalue()])
    header["PixelData"].VR = "OB"
    header["PixelData"].is_undefined_length = True


def several_frames(frames: int = 3) -> Dataset:
    """Return a film with several frames."""
    header = rich(7, "PID-M")
    header.NumberOfFrames = frames
    header.PixelData = b"".join(picture(seed).tobytes() for seed in range(frames))
    return header
