"""Hospitals on disk: what a site reads is what the study says, and bad input is named."""

import csv
from pathlib import Path

import numpy as np
import pytest

from client.config import load_site_config
from mfm_core.config import canonical_hash, load_yaml
from mfm_core.errors import ConfigError, DataError
from server.config import load_consortium
from simulation.config import StudyConfig
from simulation.hospitals import (
    HELD_OUT,
    consortium_of,
    describe_hospitals,
    open_hospitals,
    prepare,
    read_files,
    read_prepared,
    study_hash,
)
from strategies.config import RunConfig
from tests.simulation.samples import folder_study, tiny_study, write_images

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def make(content: dict) -> StudyConfig:
    return StudyConfig.model_validate(content)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_goes_to_one_hospital_with_its_own_label(tmp_path: Path) -> None:
    data, run = write_images(tmp_path / "data"), tmp_path / "run"
    prepared = prepare(make(folder_study()), data, run)
    assert prepared.names == ("a", "b")
    source = {row["file"]: row for row in rows_of(data / "labels.csv")}
    seen: list[str] = []
    for name in prepared.names:
        for row in rows_of(run / "sites" / name / "manifest.csv"):
            seen.append(row["file"])
            there = source[row["file"]]
            assert (row["label"], row["view"]) == (there["label"], there["view"])
            assert there["scanner"] == name
    assert sorted(seen) == sorted(source)
    assert read_files(run, prepared.names) == seen


def test_no_patient_is_in_two_splits_or_two_hospitals(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", patients=80)
    rule = {"kind": "dirichlet", "sites": 3, "alpha": 1.0}
    prepared = prepare(make(folder_study(hospitals=rule)), data, tmp_path / "run")
    homes: dict[str, set[tuple[str, str]]] = {}
    for name in prepared.names:
        for row in rows_of(tmp_path / "run" / "sites" / name / "manifest.csv"):
            homes.setdefault(row["patient"], set()).add((name, row["split"]))
    assert len(homes) == 80
    assert all(len(places) == 1 for places in homes.values())


@pytest.mark.parametrize("test_fold", [0, 1])
def test_folds_take_turns_as_the_test_set(tmp_path: Path, test_fold: int) -> None:
    data = write_images(tmp_path / "data")
    split = {"kind": "folds", "folds": 4, "test_fold": test_fold}
    prepare(make(folder_study(split=split)), data, tmp_path / "run")
    _, sets = open_hospitals(tmp_path / "run", load_yaml(tmp_path / "run" / "run.yaml", RunConfig))
    share = sum(len(images.select("test")) for images in sets) / 80
    assert share == pytest.approx(0.25, abs=0.05)


def test_site_files_are_read_by_the_client_itself(tmp_path: Path) -> None:
    study = make(folder_study()).model_copy(update={"device": "auto"})
    prepare(study, write_images(tmp_path / "data"), tmp_path / "run")
    config = load_site_config(tmp_path / "run" / "sites" / "0.yaml")
    assert config.name == "a" and config.device == "auto"
    assert config.limits.accepted_runs == (canonical_hash(study.run),)
    assert config.data.root == (tmp_path / "data").resolve()
    assert config.state_folder == (tmp_path / "run" / "sites" / "a" / "state").resolve()
    consortium = load_consortium(tmp_path / "run" / "consortium.yaml")
    assert (consortium.simulated_sites, consortium.quorum, consortium.attempts) == (2, 2, 1)
    assert consortium.output == (tmp_path / "run").resolve()


def test_a_hospital_without_labels_says_so_in_its_settings(tmp_path: Path) -> None:
    table = write_images(tmp_path / "data") / "labels.csv"
    lines = []
    for line in table.read_text().splitlines():
        cells = line.split(",")  # file, label, patient_id, scanner, view
        lines.append(",".join([cells[0], "", *cells[2:]]) if cells[3] == "b" else line)
    table.write_text("\n".join(lines))
    study = make(folder_study(baselines={"kinds": []}))
    prepare(study, tmp_path / "data", tmp_path / "run")
    sites = [load_site_config(tmp_path / f"run/sites/{number}.yaml") for number in range(2)]
    assert [site.data.unlabelled for site in sites] == [False, True]
    names, sets = open_hospitals(tmp_path / "run", study.run)
    assert names == ("a", "b") and (sets[1].labels == -1).all() and (sets[0].labels >= 0).all()


def test_phantoms_become_hospitals_with_their_own_splits(tmp_path: Path) -> None:
    study = make(tiny_study())
    prepared = prepare(study, tmp_path, tmp_path / "run")
    assert prepared.names == ("north", "south")
    rows = describe_hospitals(study, tmp_path / "run")
    assert [row["patients"] for row in rows] == [60, 45]
    _, sets = open_hospitals(tmp_path / "run", study.run)
    drawn = rows_of(tmp_path / "run" / "images" / "north" / "manifest.csv")
    labels = [study.run.ontology.classes.index(row["label"]) for row in drawn]
    assert np.array_equal(sets[0].labels, labels)


def test_a_held_out_hospital_is_prepared_but_takes_no_part(tmp_path: Path) -> None:
    content = tiny_study(held_out=["south"])
    hospitals = content["source"]["phantoms"]["hospitals"]
    hospitals.append({"name": "west", "patients": 45})
    study, run = make(content), tmp_path / "run"
    prepared = prepare(study, tmp_path, run)
    assert prepared.names == ("north", "west")
    assert read_prepared(run) == prepared
    assert load_consortium(run / "consortium.yaml").simulated_sites == 2
    assert [load_site_config(run / "sites" / f"{i}.yaml").name for i in (0, 1)] == ["north", "west"]
    assert not (run / "sites" / "south").exists()
    names, sets = open_hospitals(run, study.run, HELD_OUT)
    assert (names, len(sets)) == (("south",), 1)
    assert len(sets[0]) == len(rows_of(run / "images" / "south" / "manifest.csv"))
    assert [row["name"] for row in describe_hospitals(study, run)] == ["north", "west"]
    assert [row["name"] for row in describe_hospitals(study, run, HELD_OUT)] == ["south"]


def test_preparing_twice_gives_the_same_bytes_and_changes_nothing(tmp_path: Path) -> None:
    data, study = write_images(tmp_path / "data"), make(folder_study())
    for name in ("one", "two"):
        prepare(study, data, tmp_path / name)
    files = ["sites/0.yaml", "sites/a/manifest.csv", "run.yaml", "consortium.yaml"]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    before = (tmp_path / "one" / "prepared.json").stat().st_mtime_ns
    prepare(study, data, tmp_path / "one")
    assert (tmp_path / "one" / "prepared.json").stat().st_mtime_ns == before


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    prepare(make(folder_study()), data, tmp_path / "run")
    with pytest.raises(ConfigError, match="holds another study"):
        prepare(make(folder_study(seeds={"split": 5})), data, tmp_path / "run")
    with pytest.raises(ConfigError, match="was prepared with --data"):
        prepare(make(folder_study()), tmp_path, tmp_path / "run")


def test_workers_and_limits_are_no_part_of_a_studys_identity() -> None:
    same = make(tiny_study(workers=7, limits={"phase_s": 99}))
    assert study_hash(same) == study_hash(make(tiny_study()))
    assert study_hash(make(tiny_study(min_images=17))) != study_hash(make(tiny_study()))


def test_bad_rows_and_bad_images_are_listed_together_by_row(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    (data / "p3_1.png").write_bytes(b"no image")
    text = (data / "labels.csv").read_text(encoding="utf-8")
    (data / "labels.csv").write_text(
        text.replace("p0_0.png,", "gone.png,")
        .replace("p1_0.png,healthy", "p1_0.png,flu")
        .replace("p1_0.png,ill", "p1_0.png,flu"),
        encoding="utf-8",
    )
    with pytest.raises(DataError) as caught:
        prepare(make(folder_study()), data, tmp_path / "run")
    text = "\n".join(caught.value.problems)
    for part in ("row 2 (gone.png)", "row 4 (p1_0.png)", "'flu'", "row 9 (p3_1.png)"):
        assert part in text, text
    assert read_prepared(tmp_path / "run") is None


def test_one_broken_image_is_named_by_the_researchers_row(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data")
    (data / "p3_1.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        prepare(make(folder_study()), data, tmp_path / "run")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("row 9 (p3_1.png)")


def test_a_split_column_that_divides_a_patient_is_refused(tmp_path: Path) -> None:
    data = write_images(tmp_path / "data", patients=6)
    lines = (data / "labels.csv").read_text(encoding="utf-8").splitlines()
    marked = [f"{lines[0]},split"]
    marked += [f"{line},{'train' if i % 2 else 'test'}" for i, line in enumerate(lines[1:])]
    (data / "labels.csv").write_text("\n".join(marked), encoding="utf-8")
    study = make(folder_study(split={"kind": "column", "column": "split"}))
    with pytest.raises(DataError, match="keep a patient in one split") as caught:
        prepare(study, data, tmp_path / "run")
    assert len(caught.value.problems) == 6


def test_a_quorum_above_the_hospitals_found_is_refused() -> None:
    with pytest.raises(ConfigError, match="quorum is 3 of 2"):
        consortium_of(make(folder_study(quorum=3)), 2)


def test_real_chest_films_become_three_hospitals_with_opposite_couplings(tmp_path: Path) -> None:
    if not (SHARED / "labels.csv").is_file():
        pytest.skip("needs the real images in ../shared/data beside the project")
    from simulation.config import load_study

    path = Path(__file__).parents[2] / "simulation" / "studies" / "chest_view.yaml"
    study = load_study(path, {"run.image.size_px": "32"})
    prepared = prepare(study, SHARED, tmp_path / "run")
    assert prepared.names == ("cxr_nih", "cxr_nih_lowres", "cxr_covid_open")
    _, sets = open_hospitals(tmp_path / "run", study.run)
    gaps = []
    for images in sets:
        share = [(images.labels[images.attributes[:, 0] == view] == 1).mean() for view in (0, 1)]
        gaps.append(share[0] - share[1])
    assert gaps[0] < -0.1 < 0.1 < gaps[1]
    assert (sets[2].labels == 0).sum() == 4
    assert (sets[2].labels == -1).sum() == 62
