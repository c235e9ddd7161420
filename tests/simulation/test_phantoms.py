from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulation.phantoms import (
    CLASSES,
    HospitalPhantoms,
    PhantomBatch,
    PhantomConfig,
    ScannerConfig,
    draw_phantoms,
    generate,
)

FINDINGS = CLASSES[1:]


def hospital(**changes: object) -> HospitalPhantoms:
    return HospitalPhantoms.model_validate({"name": "north", "patients": 30, **changes})


def draw(
    home: HospitalPhantoms, size_px: int = 32, seed: int = 5, hide_findings: bool = False
) -> PhantomBatch:
    config = PhantomConfig(seed=seed, size_px=size_px, hospitals=(home,))
    return draw_phantoms(config, home, hide_findings=hide_findings)


def test_same_seed_gives_the_same_bytes_and_another_seed_other_ones() -> None:
    first, again, other = draw(hospital()), draw(hospital()), draw(hospital(), seed=6)
    assert first.images.tobytes() == again.images.tobytes()
    assert first.masks.tobytes() == again.masks.tobytes()
    assert first.images[0].tobytes() != other.images[0].tobytes()


def test_a_film_does_not_depend_on_how_many_patients_there_are() -> None:
    few, many = draw(hospital(patients=11)), draw(hospital(patients=47))
    for name in ("images", "masks", "labels", "attributes", "patients", "splits", "scanners"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[: len(few)])


def test_hospitals_differ_although_the_seed_is_shared() -> None:
    assert not np.array_equal(draw(hospital()).images[:5], draw(hospital(name="s")).images[:5])


@pytest.mark.parametrize("finding", FINDINGS)
def test_mask_lies_where_the_film_differs_from_the_same_film_without_the_finding(
    finding: str,
) -> None:
    scanner = ScannerConfig(noise_std=0.01)
    home = hospital(class_probabilities={finding: 1}, scanners=(scanner,))
    sick, healthy = draw(home, 64), draw(home, 64, hide_findings=True)
    change = np.abs(sick.images[:, 0].astype(np.int64) - healthy.images[:, 0])
    assert sick.masks.any(axis=(1, 2)).all()
    inside = np.where(sick.masks, change, 0).sum(axis=(1, 2)) / change.sum(axis=(1, 2))
    assert np.median(inside) > 0.8
    assert change[sick.masks].mean() > 8.0
    assert change[~sick.masks].mean() < 0.5


def test_a_film_without_finding_has_an_empty_mask_and_nothing_to_hide() -> None:
    home = hospital(class_probabilities={"none": 1})
    assert not draw(home).masks.any()
    np.testing.assert_array_equal(draw(home).images, draw(home, hide_findings=True).images)


@pytest.mark.parametrize("marker", ["L", "R"])
def test_marker_is_burned_in_on_its_own_side(marker: str) -> None:
    rules = [
        {"attribute": "marker", "value": marker, "finding": finding, "probability": 1}
        for finding in CLASSES
    ]
    with_marker = draw(hospital(couplings=rules), 64)
    without = draw(hospital(marker_probability=0), 64)
    np.testing.assert_array_equal(with_marker.labels, without.labels)
    changed = (with_marker.images != without.images)[:, 0]
    left, right = changed[:, :, :32], changed[:, :, 32:]
    here, there = (left, right) if marker == "R" else (right, left)
    assert (here.sum(axis=(1, 2)) >= 9).all()
    assert not there.any()
    assert with_marker.images[:, 0][changed].min() > 240


def test_scanner_curve_changes_greys_but_not_anatomy() -> None:
    plain, soft = draw(hospital()), draw(hospital(scanners=(ScannerConfig(gamma=0.6),)))
    np.testing.assert_array_equal(plain.labels, soft.labels)
    assert soft.images.mean() > plain.images.mean() + 10
    pairs = zip(plain.images, soft.images, strict=True)
    assert min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs) > 0.95


def test_every_patient_lies_in_one_split_and_every_finding_in_all_three() -> None:
    batch = draw(hospital(patients=80))
    for patient in np.unique(batch.patients):
        mine = batch.patients == patient
        assert 1 <= mine.sum() <= 3
        assert len(set(batch.splits[mine])) == 1
        assert len(set(batch.labels[mine])) == 1
    for label in range(len(CLASSES)):
        assert set(batch.splits[batch.labels == label]) == {0, 1, 2}


def test_files_hold_what_the_arrays_hold(tmp_path: Path) -> None:
    home = hospital(patients=6)
    batch = draw(home)
    config = PhantomConfig(seed=5, size_px=32, hospitals=(home,))
    manifest = generate(tmp_path / "north", config, home)
    with manifest.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == [f"images/{i:06d}.png" for i in range(len(batch))]
    assert [CLASSES.index(row["label"]) for row in rows] == batch.labels.tolist()
    assert list(rows[0]) == [
        *("file", "label", "patient_id", "split"),
        *("view", "sex", "age", "marker", "scanner"),
    ]
    films = [np.asarray(Image.open(manifest.parent / row["file"])) for row in rows]
    np.testing.assert_array_equal(np.stack(films)[:, None], batch.images)
    np.testing.assert_array_equal(np.load(manifest.parent / "masks.npz")["masks"], batch.masks)
    again = generate(tmp_path / "again", config, home)
    files = sorted(path.relative_to(manifest.parent) for path in manifest.parent.rglob("*.*"))
    for file in files:
        assert (manifest.parent / file).read_bytes() == (again.parent / file).read_bytes()
