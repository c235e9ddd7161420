"""Real DICOM files of the blob world, written as a digital X-ray unit would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

PATIENT = "Müller^Anna"
PATIENT_ID = "PID-196107"


def blob_film(rows: int, columns: int, centre: tuple[float, float], radius: float) -> np.ndarray:
    """Return `[rows, columns] uint16` of 12 bits: a bright blob at (row, column) on grey."""
    down, across = np.mgrid[:rows, :columns] + 0.5
    far = (down - centre[0]) ** 2 + (across - centre[1]) ** 2
    picture = 0.35 + 0.35 * np.exp(-far / (2 * radius**2))
    return (picture * 4095).astype(np.uint16)


def film(pixels: np.ndarray) -> Dataset:
    """Return a DX image for presentation with all that its standard demands of a header."""
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.SOPClassUID = DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID = generate_uid(), generate_uid()
    header.SpecificCharacterSet = "ISO_IR 100"
    header.PatientName, header.PatientID = PATIENT, PATIENT_ID
    header.PatientBirthDate, header.PatientSex = "19610704", "F"
    header.StudyDate, header.StudyTime = "20200102", "101112"
    header.AccessionNumber, header.StudyID = "A-77", "S-1"
    header.ReferringPhysicianName, header.Modality = "House^G", "DX"
    header.ImageType = ["ORIGINAL", "PRIMARY", ""]
    header.ImagerPixelSpacing = [0.2, 0.2]
    header.Rows, header.Columns = pixels.shape[-2:]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation = 0
    header.WindowCenter, header.WindowWidth = 2048, 4096
    header.PresentationLUTShape, header.BurnedInAnnotation = "IDENTITY", "NO"
    header.PixelData = pixels.tobytes()
    return header


def slice_of(pixels: np.ndarray) -> Dataset:
    """Return the same as a CT slice with a place in space."""
    header = film(pixels)
    header.SOPClassUID, header.Modality = CTImageStorage, "CT"
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = generate_uid(), ""
    header.ImagePositionPatient, header.ImageOrientationPatient = [-50, -40, 12], [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SliceThickness = [0.7, 0.7], 5
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    return header


def save(path: Path, header: Dataset) -> Path:
    """Write the file with its preamble; return its path."""
    header.save_as(path, enforce_file_format=True)
    return path
