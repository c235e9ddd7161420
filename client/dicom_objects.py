"""An explanation as DICOM objects for the hospital's own archive: report, panel and map.

From one counterfactual of a DICOM image: a Comprehensive SR (TID 1500) with the probabilities and
the outline of the strongest change, a Secondary Capture of the panel under a burned-in banner,
and a fractional SEG of the difference map on the source's own rows and columns. All three lie in
the source's study and carry what was done: method, axis, step, the hashes of model and encoder,
and that this is no acquired image. The SEG is left without pixel measures where the source has no
slice thickness (a projection): its reader demands one and none is true; the grid is the source's.
What crosses the hospital's boundary: nothing. These objects hold the patient's name and study.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from client.banner import NATURE, with_banner
from client.dicom_source import Source
from mfm_core.errors import DataError
from mfm_core.source_grid import strongest_region, to_source
from mfm_core.sweep import Sweep

if TYPE_CHECKING:
    import highdicom

SERIES = "AI counterfactual, not acquired"
MAKER, PRODUCT = "mfm-federated, research software, not a medical device", "mfm-client explain"
SCHEME = "99MFM"
"""Designator of our private codes; DICOM reserves names that begin with 99 for such."""

_SIDE = (101, 103, 105)
"""Series numbers of report, panel and map."""


@dataclass(frozen=True)
class Told:
    """What the objects tell.

    Attributes:
        sweep: the counterfactual.
        panel: PNG of the panel.
        method: name of the method.
        question: what was asked, a sentence.
        model_hash: SHA-256 (hex) of all weights.
        encoder_hash: SHA-256 (hex) of all weights but the head's.
    """

    sweep: Sweep
    panel: bytes
    method: str
    question: str
    model_hash: str
    encoder_hash: str

    @property
    def finding(self) -> str:
        """The class, or the attribute and its value."""
        attribute = self.sweep.attribute
        return f"{attribute} {self.sweep.target}" if attribute else self.sweep.target

    @property
    def axis(self) -> str:
        """The direction of the change, in words."""
        sweep = self.sweep
        others = next((name for name in sweep.classes if name != sweep.target), "")
        rest = others if sweep.attribute and len(sweep.classes) == 2 else "all others"
        return f"{self.finding} minus {sweep.versus or rest}"

    @property
    def parameters(self) -> dict[str, str]:
        """What was done, by name; stands in all three objects."""
        return {
            "nature": NATURE,
            "method": self.method,
            "axis": self.axis,
            "alpha": f"{self.sweep.shown_alpha:g}",
            "model_sha256": self.model_hash,
            "encoder_sha256": self.encoder_hash,
        }

    @property
    def lines(self) -> tuple[str, str]:
        """What stands under the banner."""
        step = f"{self.method}: {self.axis}, step {self.sweep.shown_alpha:+.2f}"
        return f"AI-generated. {step}", f"Model {self.model_hash[:16]}. Not a medical device."

    @property
    def text(self) -> str:
        """The parameters as one line."""
        return "; ".join(f"{name}: {value}" for name, value in self.parameters.items())


def make_objects(source: Source, told: Told) -> dict[str, bytes]:
    """Return the three files by kind: `report` (SR), `panel` (SC) and `map` (SEG).

    Raises:
        DataError: the source's header does not allow one of them; all of these are named.
    """
    made: dict[str, bytes] = {}
    problems: list[str] = []
    makers: dict[str, Callable[[Source, Told], Any]] = {
        "report": _report,
        "panel": _panel,
        "map": _map,
    }
    for kind, make in makers.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pydicom quotes elements of the patient
                made[kind] = _bytes_of(_refer(make(source, told), source))
        except (ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            reason = f"{type(error).__name__} of highdicom"  # its text can quote the patient
            problems.append(
                f"has a header from which no DICOM {kind} can be made ({reason}); "
                "check it with a DICOM validator"
            )
    if problems:
        raise DataError("image", problems)
    return made


def _refer(made: Dataset, source: Source) -> Dataset:
    """Give every reference to the source its true class, and its frame where that is asked for."""
    for element in made.iterall():
        for item in element.value if element.VR == "SQ" else ():
            if item.get("ReferencedSOPInstanceUID") != source.header.SOPInstanceUID:
                continue
            item.ReferencedSOPClassUID = source.sop_class
            if source.frame is not None and element.keyword == "SourceImageSequence":
                item.ReferencedFrameNumber = source.frame
    return made


def _bytes_of(dataset: Dataset) -> bytes:
    packed = io.BytesIO()
    dataset.save_as(packed, enforce_file_format=True)
    return packed.getvalue()


def _own(kind: int, told: Told) -> dict[str, Any]:
    """Return what every object says about itself; series and instance are new."""
    return {
        "series_instance_uid": generate_uid(),
        "series_number": _SIDE[kind],
        "sop_instance_uid": generate_uid(),
        "instance_number": 1,
        "manufacturer": MAKER,
        "manufacturer_model_name": PRODUCT,
        "software_versions": _version(),
        "device_serial_number": told.model_hash[:16],
        "series_description": f"{SERIES}: {('report', 'panel', 'map')[kind]}",
        "specific_character_set": "ISO_IR 192",
    }


def _version() -> str:
    try:
        return version("mfm-federated")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"


def _code(word: str, meaning: str) -> Code:
    return Code(word, SCHEME, meaning[:64])


def _named(name: str) -> Code:
    """Return a private code for a class or a value of the consortium's ontology."""
    return _code(f"N{hashlib.sha256(name.encode()).hexdigest()[:12]}", name)


def _schemes() -> list[Any]:
    from highdicom.coding_schemes import CodingSchemeIdentificationItem

    name = "mfm-federated: names of a consortium's ontology and of its explanations"
    return [CodingSchemeIdentificationItem(SCHEME, name=name)]


def _report(source: Source, told: Told) -> highdicom.sr.ComprehensiveSR:
    """Return the Comprehensive SR, TID 1500 with one planar region."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    header, frames = source.header, None if source.frame is None else [source.frame]
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=[told.model_hash]),
        name=PRODUCT,
        manufacturer_name=MAKER,
        serial_number=told.model_hash[:16],
    )
    observer = sr.ObserverContext(codes.DCM.Device, device)
    outline = strongest_region(told.sweep.difference, source.placement)
    where = sr.SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, frames)
    region = sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, outline, where)
    words = [f"{name}={value}" for name, value in told.parameters.items()]
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(generate_uid(), "Region of strongest change"),
        referenced_region=region,
        finding_type=_named(told.finding),
        algorithm_id=sr.AlgorithmIdentification(PRODUCT, _version(), words),
        measurements=_measurements(told),
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("nature", "Nature of this result"), _nature())
        ],
    )
    content = sr.MeasurementReport(
        sr.ObservationContext(observer),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[group],
    )
    return sr.ComprehensiveSR(
        [header], content[0], is_complete=True, coding_schemes=_schemes(), **_own(0, told)
    )


def _nature() -> Code:
    return _code("not-acquired", NATURE)


def _measurements(told: Told) -> list[highdicom.sr.Measurement]:
    """Return probability before and after, and the step."""
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    sweep = told.sweep
    shown = int(np.flatnonzero(np.isclose(sweep.alphas, sweep.shown_alpha))[0])
    label = sweep.target_index
    before = float(sweep.probabilities_direct[sweep.zero, label])
    after = float(sweep.probabilities_reencoded[shown, label])
    judge = "atlas" if sweep.attribute else "model"  # the model's head has no word for attributes
    rows = (
        ("p-image", f"Probability that the {judge} gives to the image", before),
        ("p-redrawn", f"Probability that the {judge} gives to the counterfactual", after),
        ("alpha", "Step along the axis (alpha)", float(sweep.shown_alpha)),
    )
    unit = codes.UCUM.NoUnits
    return [Measurement(_code(word, meaning), value, unit) for word, meaning, value in rows]


def _panel(source: Source, told: Told) -> Dataset:
    """Return the Secondary Capture of the panel under its banner."""
    from highdicom.sc import SCImage

    header = source.header
    own = _own(1, told)
    same = {
        "patient_id": header.PatientID,
        "patient_name": header.PatientName,
        "patient_birth_date": header.PatientBirthDate,
        "patient_sex": header.PatientSex,
        "accession_number": header.AccessionNumber,
        "study_id": header.StudyID,
        "study_date": header.StudyDate or None,
        "study_time": header.StudyTime or None,
        "referring_physician_name": header.get("ReferringPhysicianName"),
    }
    capture = SCImage(
        with_banner(told.panel, told.lines),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=header.StudyInstanceUID,
        patient_orientation=("L", "F"),
        **same,
        **own,
    )
    capture.PatientOrientation = []  # a page of pictures has none
    capture.copy_patient_and_study_information(header)
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = f"{NATURE}. {told.text}"
    capture.ImageComments = f"{told.question} {told.text}"
    reference = Dataset()
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    capture.SourceImageSequence = [reference]
    return capture


def _map(source: Source, told: Told) -> highdicom.seg.Segmentation:
    """Return the fractional SEG: segment 1 gets brighter, segment 2 darker."""
    from highdicom import AlgorithmIdentificationSequence, seg
    from pydicom.sr.codedict import codes

    change = told.sweep.difference
    largest = max(float(np.abs(change).max()), 1e-6)
    parts = (np.maximum(change, 0) / largest, np.maximum(-change, 0) / largest)
    sides = [to_source(part.astype(np.float32), source.placement) for part in parts]
    pixels = np.clip(np.stack(sides, axis=-1), 0, 1)[None]
    parameters = {**told.parameters, "full_scale": f"{largest:.4f} of the grey range"}
    algorithm = AlgorithmIdentificationSequence(
        PRODUCT, codes.DCM.ArtificialIntelligence, _version(), MAKER, parameters
    )
    segments = [
        seg.SegmentDescription(
            number,
            f"counterfactual: gets {word}",
            codes.SCT.SpatialAndRelationalConcept,
            _code(f"gets-{word}", f"Gets {word} in the counterfactual"),
            seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm,
        )
        for number, word in ((1, "brighter"), (2, "darker"))
    ]
    made = seg.Segmentation(
        [source.header],
        pixels,
        seg.SegmentationTypeValues.FRACTIONAL,
        segments,
        fractional_type=seg.SegmentationFractionalTypeValues.PROBABILITY,
        pixel_measures=_measures(source.header),
        content_label="COUNTERFACTUAL",
        content_description=NATURE,
        omit_empty_frames=False,
        coding_schemes=_schemes(),
        **_own(2, told),
    )
    for number, segment in enumerate(made.SegmentSequence):
        word = ("brighter", "darker")[number]
        scale = f"255 is a change of {largest:.4f} of the grey range"
        segment.SegmentDescription = f"Where the counterfactual gets {word}; {scale}. {told.text}"
    return made


def _measures(header: Dataset) -> highdicom.PixelMeasuresSequence | None:
    from highdicom import PixelMeasuresSequence

    if not header.get("PixelSpacing"):
        return None
    spacing = [float(value) for value in header.PixelSpacing]
    return PixelMeasuresSequence(spacing, float(header.SliceThickness))
