"""Nothing of a source is lost, nothing raw is written, and training reads the manifest."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from client.intake import LEFT_OUT, MANIFEST, SUMMARY, Intake, Request, take_in
from client.intake_reasons import REASONS
from client.secret import keep_secret
from mfm_core.config import DataConfig, ImageConfig, OntologyConfig
from mfm_core.dataset import open_images
from mfm_core.errors import DataError
from tests.client.archive import (
    NESTED_NAME,
    PRIVATE_TEXT,
    SYNTAXES,
    picture,
    put,
    rich,
    several_frames,
)
from tests.client.films import film, slice_of

ONTOLOGY = OntologyConfig(
    classes=("normal", "effusion"), attributes={"view": ("AP", "PA"), "sex": ("F", "M")}
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a study tree: five films of three patients, and what else lies about."""
    folder = tmp_path / "Archive of Family PID-1"
    for index, syntax in enumerate(SYNTAXES):
        put(folder / f"study{index}" / "1.dcm", rich(index, f"PID-{index % 3}"), syntax)
    shutil.copy(folder / "study1" / "1.dcm", folder / "study1" / "copy.dcm")
    whole = put(folder / "cut" / "1.dcm", rich(20, "PID-9")).read_bytes()
    (folder / "cut" / "1.dcm").write_bytes(whole[:-900])
    put(folder / "ct.dcm", slice_of(picture(30)))
    put(folder / "cine.dcm", several_frames())
    nobody = rich(40)
    nobody.PatientID = ""
    put(folder / "nobody.dcm", nobody)
    (folder / "notes.txt").write_text("Family PID-1 was here")
    (folder / "empty.dcm").touch()
    (folder / ".hidden").write_bytes(b"\0" * 200)
    (folder / "link.dcm").symlink_to("ct.dcm")
    directory = film(picture(50))
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    put(folder / "DICOMDIR", directory)
    (folder / os.fsdecode(b"bad\xff.dcm")).write_bytes(whole)
    return folder


def run(source: Path, out: Path, **more: object) -> Intake:
    return take_in(Request(source, out, out.parent / "state", **more))  # type: ignore[arg-type]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def every_file(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


@pytest.mark.parametrize("more", [{}, {"modalities": ("DX",)}, {"copy": True}])
def test_every_file_is_in_exactly_one_list(
    source: Path, tmp_path: Path, more: dict[str, object]
) -> None:
    done = run(source, tmp_path / "out", **more)
    listed = rows_of(tmp_path / "out" / LEFT_OUT)
    assert len(done.rows) + len(listed) == every_file(source) == done.summary()["files"]
    assert {row["reason"] for row in listed} <= set(REASONS)
    assert len({row["file"] for row in listed}) == len(listed)


def test_each_reason_is_given_where_it_holds(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out", modalities=("DX",))
    reasons = {row["file"]: row["reason"] for row in rows_of(tmp_path / "out" / LEFT_OUT)}
    assert reasons == {
        ".hidden": "not_dicom",
        "DICOMDIR": "directory",
        "bad\\udcff.dcm": "bad_name",
        "ct.dcm": "modality",
        "cut/1.dcm": "unreadable",
        "empty.dcm": "empty",
        "link.dcm": "link",
        "nobody.dcm": "no_patient",
        "notes.txt": "not_dicom",
        "study1/copy.dcm": "duplicate",
    }


def test_training_reads_the_manifest(source: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    studies = [(f"study{i}/1.dcm", "effusion" if i % 2 else "normal") for i in range(5)]
    lines = [f"{uid_of(source / name)},{word}\n" for name, word in studies]
    labels.write_text("SOPInstanceUID,label\n" + "".join(lines))
    for copy in (False, True):
        out = tmp_path / f"out{copy}"
        done = run(source, out, labels=labels, copy=copy)
        data = DataConfig(root=done.root, manifest=out / MANIFEST)
        images = open_images(data, ONTOLOGY, ImageConfig(size_px=32), tmp_path / f"cache{copy}")
        assert images.labels.tolist() == [0, 1, 0, 1, 0]
        assert images.attributes.tolist() == [[1, 0]] * 5
        assert len(np.unique(images.patients)) == 3
        # Equal to reading the sources themselves: a copy shows what the original shows.
        plain = DataConfig(root=source, manifest=tmp_path / "outFalse" / MANIFEST)
        again = open_images(plain, ONTOLOGY, ImageConfig(size_px=32), tmp_path / "cacheFalse")
        assert (images.images == again.images).all()


def uid_of(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def test_the_same_source_gives_the_same_bytes_and_another_secret_other_names(
    source: Path, tmp_path: Path
) -> None:
    first, second, other = (tmp_path / name for name in ("a/out", "b/out", "c/out"))
    for out, secret in ((first, b"1"), (second, b"1"), (other, b"2")):
        keep_secret(out.parent / "state", secret * 32)
        run(source, out, copy=True)
    run(source, second, copy=True)  # a second time over the first
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)
    names = [{row["patient_id"] for row in rows_of(out / MANIFEST)} for out in (first, other)]
    assert len(names[0]) == len(names[1])
    assert not names[0] & names[1]


def test_nothing_raw_is_written(source: Path, tmp_path: Path) -> None:
    """File names stand in the two lists; with copies not even the manifest has them."""
    out = tmp_path / "out"
    run(source, out, copy=True)
    raw = [
        *("PID-", "Family", "Given", NESTED_NAME, PRIVATE_TEXT, "St. Example", "ROOM-3"),
        *("19610704", "20200102", "A-77", uid_of(source / "study1" / "1.dcm")),
    ]
    given = b"".join(path.read_bytes() for path in source.rglob("*.dcm"))
    assert [text for text in raw if text.encode() not in given] == []
    for path in out.rglob("*"):
        if path.is_file() and path.name != LEFT_OUT:
            content = path.read_bytes()
            assert [text for text in raw if text.encode() in content] == [], path.name


@pytest.mark.parametrize("key", ["SOPInstanceUID", "StudyInstanceUID", "AccessionNumber"])
def test_labels_join_by_any_identifier(tmp_path: Path, key: str) -> None:
    source = tmp_path / "source"
    headers = [rich(index, f"PID-{index}") for index in range(3)]
    for index, header in enumerate(headers):
        header.AccessionNumber = f"ACC-{index}"
        put(source / f"{index}.dcm", header)
    lines = [f"{headers[0].get(key)};normal", f"{headers[1].get(key)};a", "nobody;a"]
    lines.append(f"{headers[1].get(key)};b")
    labels = tmp_path / "l.csv"
    labels.write_text(f"{key};finding\n" + "\n".join(lines))
    done = run(source, tmp_path / "out", labels=labels, label_column="finding")
    assert [(row.file, row.label) for row in done.rows] == [("0.dcm", "normal")]
    assert [(file, reason) for file, reason, _ in done.left_out] == [
        *(("1.dcm", "two_labels"), ("2.dcm", "no_label")),
    ]
    assert done.unused == (4,)
    kept = run(
        source, tmp_path / "out", labels=labels, label_column="finding", keep_unlabelled=True
    )
    assert [(row.file, row.label) for row in kept.rows] == [("0.dcm", "normal"), ("2.dcm", "")]


def test_a_study_without_patient_stands_alone_only_when_asked(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out", study_as_patient=True)
    row = next(row for row in done.rows if row.file == "nobody.dcm")
    assert row.patient == row.study
    assert row.patient not in {other.patient for other in done.rows if other is not row}


def test_sop_classes_filter_and_are_counted_by_name(source: Path, tmp_path: Path) -> None:
    done = run(source, tmp_path / "out", sop_classes=("1.2.840.10008.5.1.4.1.1.2",))
    assert [row.file for row in done.rows] == ["ct.dcm"]
    named = done.summary()["left_out_details"]["sop_class"]
    assert named == {"Digital X-Ray Image Storage - For Presentation": 9}


def test_a_whole_file_is_taken_although_a_broken_twin_comes_first(tmp_path: Path) -> None:
    source = tmp_path / "source"
    whole = put(source / "b.dcm", rich()).read_bytes()
    (source / "a.dcm").write_bytes(whole[:-500])
    done = run(source, tmp_path / "out")
    assert [row.file for row in done.rows] == ["b.dcm"]


def test_the_summary_holds_no_name_of_a_file_or_person(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    text = (tmp_path / "out" / SUMMARY).read_text("utf-8")
    assert json.loads(text)["images"] == 7
    assert [word for word in ("dcm", "study1", "PID", "Family", "notes") if word in text] == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"attributes": ("PatientName",)}, "not on the list"),
        ({"sop_classes": ("CT",)}, "is no UID"),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_written(
    source: Path, tmp_path: Path, more: dict[str, object], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        run(source, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_what_is_written_may_not_lie_in_the_source(source: Path) -> None:
    with pytest.raises(DataError, match="lies in the source folder"):
        take_in(Request(source, source / "out", source.parent / "state"))
