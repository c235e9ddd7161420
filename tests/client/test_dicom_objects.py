import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

from client.banner import NATURE
from client.dicom_objects import Told, make_objects
from client.dicom_source import read_source
from mfm_core.checkpoint import encoder_hash, weights_hash
from mfm_core.errors import DataError
from mfm_core.explanation import class_shift, shift
from mfm_core.images import read_image
from mfm_core.pictures import draw_sweep
from mfm_core.question import Question
from mfm_core.sweep import title_of
from tests.client.films import PATIENT, PATIENT_ID, blob_film, film, save, slice_of
from tests.mfm_core.blob_world import blob_world
from tests.mfm_core.view_world import view_world

KINDS = ("report", "panel", "map")


def objects_of(path: Path) -> tuple[dict[str, bytes], Told]:
    """Return the objects of a real file, from the real model's counterfactual of it."""
    world = blob_world()
    config = world.model.image_config
    image = np.asarray(read_image(path, config), dtype=np.float32) / 255.0
    sweep = class_shift(world.model, world.atlas, image, "left blob")
    told = Told(
        sweep=sweep,
        panel=draw_sweep(sweep),
        method="class_shift",
        question=title_of(sweep),
        model_hash=weights_hash(world.model),
        encoder_hash=encoder_hash(world.model),
    )
    return make_objects(read_source(path, config), told), told


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Dataset, dict[str, bytes], Told]:
    """A film wider than high, its blob on the left, and its objects."""
    header = film(blob_film(90, 140, (45, 35), 13))
    path = save(tmp_path_factory.mktemp("film") / "film.dcm", header)
    return header, *objects_of(path)


def middle_of(values: np.ndarray) -> tuple[float, float]:
    down, across = np.mgrid[: values.shape[0], : values.shape[1]] + 0.5
    weight = np.where(values > 0.4 * values.max(), values, 0).astype(float)
    return tuple(float((axis * weight).sum() / weight.sum()) for axis in (down, across))


def test_all_three_lie_in_the_source_study_under_new_identifiers(made):
    header, objects, _ = made
    read = {kind: pydicom.dcmread(io.BytesIO(objects[kind]), force=False) for kind in KINDS}
    classes = ["Comprehensive SR", "Secondary Capture Image", "Segmentation"]
    assert [read[kind].SOPClassUID.name for kind in KINDS] == [f"{c} Storage" for c in classes]
    for found in read.values():
        assert found.StudyInstanceUID == header.StudyInstanceUID
        assert str(found.PatientName) == PATIENT and found.PatientID == PATIENT_ID
        assert (found.PatientBirthDate, found.PatientSex) == ("19610704", "F")
        assert (found.StudyDate, found.AccessionNumber) == ("20200102", "A-77")
        assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    own = [each.SOPInstanceUID for each in read.values()]
    own += [each.SeriesInstanceUID for each in read.values()]
    assert len({*own, header.SOPInstanceUID, header.SeriesInstanceUID}) == 8


def test_a_second_call_makes_new_instances(made, tmp_path):
    header, objects, _ = made
    again, _ = objects_of(save(tmp_path / "film.dcm", header))
    for kind in KINDS:
        first, second = (pydicom.dcmread(io.BytesIO(each[kind])) for each in (objects, again))
        assert first.SOPInstanceUID != second.SOPInstanceUID


def test_each_says_what_it_is_and_how_it_was_made(made):
    _, objects, told = made
    alpha = f"{told.sweep.shown_alpha:g}"
    for kind in KINDS:
        words = texts(pydicom.dcmread(io.BytesIO(objects[kind])))
        assert NATURE in words and "not a medical device" in words
        assert "left blob minus all others" in words and "class_shift" in words
        assert f"alpha: {alpha}" in words or f"alpha={alpha}" in words
        assert told.model_hash in words and told.encoder_hash in words


def texts(dataset: Dataset) -> str:
    return "\n".join(str(each.value) for each in dataset.iterall() if each.VR not in ("SQ", "OB"))


def test_the_report_is_read_by_highdicom(made):
    header, objects, told = made
    report = highdicom.sr.srread(io.BytesIO(objects["report"]))
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.finding_type.meaning == "left blob"
    values = {each.name.value: each.value for each in group.get_measurements()}
    label, zero = told.sweep.target_index, told.sweep.zero
    assert values["p-image"] == pytest.approx(told.sweep.probabilities_direct[zero, label])
    assert values["alpha"] == pytest.approx(told.sweep.shown_alpha)
    shown = np.flatnonzero(told.sweep.alphas == told.sweep.shown_alpha)[0]
    expected = told.sweep.probabilities_reencoded[shown, label]
    assert values["p-redrawn"] == pytest.approx(expected) and expected < values["p-image"]
    (nature,) = group.get_qualitative_evaluations()
    assert nature.value.meaning == NATURE
    reference = group.roi
    assert reference.graphic_type.value == "POLYLINE"
    outline = reference.value
    assert (outline[0] == outline[-1]).all()
    assert (outline.min(axis=0) >= 0).all() and (outline.max(axis=0) <= (140, 90)).all()
    assert np.allclose((outline.min(axis=0) + outline.max(axis=0)) / 2, (35, 45), atol=9)
    source = reference.ContentSequence[0].ReferencedSOPSequence[0]
    assert source.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert source.ReferencedSOPClassUID == header.SOPClassUID


def test_the_panel_is_a_marked_secondary_capture(made):
    header, objects, _ = made
    panel = highdicom.imread(io.BytesIO(objects["panel"]))
    assert list(panel.ImageType) == ["DERIVED", "SECONDARY"]
    assert panel.BurnedInAnnotation == "YES" and panel.PhotometricInterpretation == "RGB"
    pixels = panel.get_frame(1)
    assert pixels.shape == (panel.Rows, panel.Columns, 3)
    assert (pixels[2] == (170, 0, 20)).all(), "the banner is burned in"
    (reference,) = panel.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == header.SOPClassUID


@pytest.mark.parametrize(
    ("shape", "centre"), [((90, 140), (45, 35)), ((140, 90), (70, 10)), ((64, 64), (32, 16))]
)
def test_the_map_lies_on_the_blob_of_the_source(shape, centre, tmp_path):
    header = film(blob_film(*shape, centre, 0.09 * max(shape)))
    objects, _ = objects_of(save(tmp_path / "film.dcm", header))
    found = highdicom.seg.segread(io.BytesIO(objects["map"]))
    assert found.segmentation_type.value == "FRACTIONAL"
    assert (found.Rows, found.Columns) == shape
    pixels = found.get_pixels_by_source_instance([header.SOPInstanceUID], rescale_fractional=True)
    assert pixels.shape == (1, *shape, 2) and pixels.min() >= 0 and pixels.max() <= 1
    darker = pixels[0, ..., 1]
    assert darker.max() == pytest.approx(1, abs=0.1), "the blob goes: the largest change"
    assert np.allclose(middle_of(darker), centre, atol=0.06 * max(shape))


def test_a_slice_keeps_its_place_in_space(tmp_path):
    header = slice_of(blob_film(64, 64, (32, 16), 6))
    objects, _ = objects_of(save(tmp_path / "slice.dcm", header))
    found = highdicom.seg.segread(io.BytesIO(objects["map"]))
    assert found.FrameOfReferenceUID == header.FrameOfReferenceUID
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [0.7, 0.7] and measures.SliceThickness == 5
    for frame in found.PerFrameFunctionalGroupsSequence:
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == [-50, -40, 12]


def test_a_frame_of_several_is_named_in_every_reference(tmp_path):
    header = film(np.stack([blob_film(64, 64, (32, 16), 6)] * 3))
    header.SOPClassUID, header.NumberOfFrames = UltrasoundMultiFrameImageStorage, 3
    objects, _ = objects_of(save(tmp_path / "several.dcm", header))
    segmentation = highdicom.seg.segread(io.BytesIO(objects["map"]))
    frames = [
        reference.ReferencedFrameNumber
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for reference in derivation.SourceImageSequence
    ]
    assert frames == [2, 2]
    for kind in KINDS:
        read = pydicom.dcmread(io.BytesIO(objects[kind]))
        classes = {
            item.ReferencedSOPClassUID
            for element in read.iterall()
            for item in (element.value if element.VR == "SQ" else ())
            if item.get("ReferencedSOPInstanceUID") == header.SOPInstanceUID
        }
        assert classes == {UltrasoundMultiFrameImageStorage}
    report = highdicom.sr.srread(io.BytesIO(objects["report"]))
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.roi.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 2


def test_a_header_that_highdicom_refuses_is_named_without_its_content(made, tmp_path):
    header, _, told = made
    source = read_source(save(tmp_path / "film.dcm", header), blob_world().model.image_config)
    del source.header.PatientName
    with pytest.raises(DataError) as caught:
        make_objects(source, told)
    assert len(caught.value.problems) == 3
    assert "DICOM validator" in str(caught.value) and PATIENT_ID not in str(caught.value)


def test_an_attribute_is_named_with_its_value(tmp_path):
    world = view_world()
    config = world.model.image_config
    path = save(tmp_path / "film.dcm", film(blob_film(64, 64, (32, 16), 6)))
    image = np.asarray(read_image(path, config), dtype=np.float32) / 255.0
    made = shift(world.model, world.atlas, image, Question(attribute="view", value="PA"))
    assert made.sweep is not None
    told = Told(made.sweep, draw_sweep(made.sweep), "class_shift", "?", "ab" * 32, "cd" * 32)
    objects = make_objects(read_source(path, config), told)
    report = highdicom.sr.srread(io.BytesIO(objects["report"]))
    (group,) = report.content.get_planar_roi_measurement_groups()
    assert group.finding_type.meaning == "view PA"
    assert "view PA minus AP" in texts(pydicom.dcmread(io.BytesIO(objects["panel"])))
    assert "the atlas gives" in group.get_measurements()[0].name.meaning


def test_a_counterfactual_that_changes_nothing_can_still_be_filed(made, tmp_path):
    header, _, told = made
    still = replace(told.sweep, images=np.repeat(told.sweep.reconstruction[None], 11, axis=0))
    source = read_source(save(tmp_path / "film.dcm", header), blob_world().model.image_config)
    objects = make_objects(source, replace(told, sweep=still))
    found = highdicom.seg.segread(io.BytesIO(objects["map"]))
    assert found.pixel_array.shape == (2, 90, 140) and not found.pixel_array.any()


def test_highdicom_is_not_loaded_unless_asked_for():
    script = "import sys, client.__main__, client.dicom_source; print('highdicom' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
