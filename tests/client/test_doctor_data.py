"""The doctor reads every row, and counts as the run will count."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from client.config import load_site_config
from client.doctor_data import check_counts, class_patients, read_images
from client.finding import Finding
from client.folder import Folder
from client.limits import guarded_latent_sum
from mfm_core.config import dump_yaml, load_yaml
from mfm_core.dataset import ImageSet
from strategies.config import RunConfig
from tests.client.hospital_folder import make_hospital, make_kit, settings
from tests.mfm_core.mimeta_world import change_info
from tests.server.hospitals import RUN
from tests.server.task_hospitals import lay_out_tasks


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return make_hospital(tmp_path / "north", make_kit(tmp_path / "kit"))


def spoil(folder: Folder, changes: dict[int, dict[str, str]]) -> None:
    """Change cells of manifest.csv by row, counted from 0 behind the header."""
    path = folder.root / "images" / "manifest.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for index, cells in changes.items():
        rows[index].update(cells)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def images_of(folder: Folder) -> ImageSet:
    found = read_images(load_site_config(folder.site_file), RUN)
    assert found.images is not None
    return found.images


def test_good_images_are_counted_and_kept_in_the_cache(folder: Folder) -> None:
    found = read_images(load_site_config(folder.site_file), RUN)
    assert [finding.level for finding in found.findings] == ["ok"]
    assert "48 images of 24 patients" in found.findings[0].text
    assert list((folder.root / "state" / "cache").glob("pixels-*.npy"))


def test_every_problem_is_told_by_row(folder: Folder) -> None:
    (folder.root / "images" / "9.png").write_bytes(b"no image")
    spoil(
        folder,
        {
            0: {"label": "lfet"},
            3: {"file": "absent.png"},
            5: {"patient_id": ""},
            20: {"view": "lateral"},
            11: {"split": "test"},
        },
    )
    found = read_images(load_site_config(folder.site_file), RUN)
    assert found.images is None and [finding.level for finding in found.findings] == ["fail"]
    told = "\n".join(found.findings[0].details)
    for words in ("row 2 ", "row 5 ", "row 7 ", "row 22 ", "row 11 (9.png)", "row 13 "):
        assert words in told, (words, told)


def test_a_state_folder_that_cannot_be_written_does_not_hide_the_images(folder: Folder) -> None:
    (folder.root / "state").write_text("a file")
    found = read_images(load_site_config(folder.site_file), RUN)
    assert found.images is not None and len(found.images) == 48


def counts(folder: Folder, smallest: int) -> list[Finding]:
    return list(check_counts(images_of(folder), RUN.ontology, smallest))


def test_patients_are_counted_not_images(folder: Folder) -> None:
    table = class_patients(images_of(folder), RUN.ontology)
    assert table.tolist() == [[6, 6], [2, 2], [4, 4]]


@pytest.mark.parametrize(("smallest", "level"), [(12, "ok"), (13, "fail")])
def test_too_few_training_patients_fail_as_the_run_would(
    folder: Folder, smallest: int, level: str
) -> None:
    assert counts(folder, smallest)[0].level == level


def test_a_class_below_the_limit_is_told_to_leave_as_zeros(folder: Folder) -> None:
    told = [f for f in counts(folder, 7) if f.text.startswith("class")]
    assert [f.level for f in told] == ["warn", "warn"] and "zeros" in told[0].advice


@pytest.mark.parametrize("smallest", [1, 2, 3, 4, 5, 6, 7])
def test_hidden_cells_are_those_that_the_limits_hide(folder: Folder, smallest: int) -> None:
    images = images_of(folder)
    chosen = images.select("train")
    cells = (images.labels[chosen], images.attributes[chosen], images.patients[chosen])
    real = guarded_latent_sum(np.ones((len(chosen), 3)), cells, RUN.ontology, smallest)
    hidden = int((real["attribute.view.count"] == 0).sum())
    attribute = counts(folder, smallest)[-1]
    assert sum("leaves as zero" in detail for detail in attribute.details) == hidden
    assert attribute.level == ("warn" if hidden else "ok")


def test_a_one_sided_attribute_and_empty_splits_are_told(folder: Folder) -> None:
    spoil(folder, {row: {"view": "AP", "split": "train"} for row in range(48)})
    told = {finding.text: finding.level for finding in counts(folder, 2)}
    assert told["attribute 'view' has one value only"] == "warn"
    assert sum("no image in" in text for text in told) == 2


def test_an_unrecorded_attribute_is_told(folder: Folder) -> None:
    spoil(folder, {row: {"view": ""} for row in range(48)})
    assert any("not recorded" in finding.text for finding in counts(folder, 2))


def test_a_folder_without_images_fails(folder: Folder) -> None:
    config = settings()
    data = config.data.model_copy(update={"root": Path("nowhere")})
    dump_yaml(config.model_copy(update={"data": data}), folder.site_file)
    found = read_images(load_site_config(folder.site_file), RUN)
    assert found.images is None and found.findings[0].level == "fail"


def test_tasks_of_a_pretraining_are_counted_by_images(tmp_path: Path) -> None:
    folder = lay_out_tasks(tmp_path / "tasks")
    run = load_yaml(folder / "run.yaml", RunConfig)
    found = read_images(load_site_config(folder / "sites/1.yaml"), run)
    assert found.images is not None
    said = {finding.text for finding in check_counts(found.images, run.ontology, 1)}
    assert "task 'chest/ordinal', images: train 16, val 4, test 4" in said
    absent = "train 0, val 0, test 0; nothing is sent for its head"
    assert f"task 'skin/multilabel', images: {absent}" in said


def test_what_the_tables_of_a_pretraining_warn_of_is_told(tmp_path: Path) -> None:
    folder = lay_out_tasks(tmp_path / "tasks")
    config = load_site_config(folder / "sites/1.yaml")
    change_info(config.data.root / "chest", subject_overlaps=["zebra"])
    found = read_images(config, load_yaml(folder / "run.yaml", RunConfig))
    (warned,) = (finding for finding in found.findings if finding.level == "warn")
    assert "people who are in zebra too" in warned.text and warned.advice
