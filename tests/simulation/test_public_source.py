"""A study names its public pictures in the run of all hospitals, and they show nobody there."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.config import load_site_config
from mfm_core.config import canonical_hash, load_yaml
from mfm_core.errors import DataError
from mfm_core.public_pictures import read_public
from simulation.config import StudyConfig, read_study
from simulation.hospitals import prepare
from strategies.config import RunConfig
from tests.simulation.samples import folder_study, write_images

ATLAS = {"mechanism": "gaussian", "epsilon": 1.0, "directions": 4}


def study_with(public: dict, **changes: object) -> StudyConfig:
    content = folder_study(public=public, **changes)
    content["run"] = {**content["run"], "privacy": {"atlas": ATLAS}}
    return StudyConfig.model_validate(content)


def phantoms(seed: int = 8, patients: int = 40) -> dict:
    hospitals = [{"name": "public", "patients": patients}]
    return {"kind": "phantoms", "phantoms": {"seed": seed, "size_px": 32, "hospitals": hospitals}}


def test_the_run_names_them_and_every_hospital_accepts_that_run(tmp_path: Path) -> None:
    study, folder = study_with(phantoms()), tmp_path / "run"
    prepare(study, write_images(tmp_path / "data"), folder)
    run = load_yaml(folder / "run.yaml", RunConfig)
    found = read_public(folder, run.privacy.public_pictures, run.image)
    assert found is not None and found.shape[1:] == (1, run.image.size_px, run.image.size_px)
    for path in (folder / "sites").glob("*.yaml"):
        accepted = load_site_config(path).limits.accepted_runs
        assert accepted == (canonical_hash(run),) != (canonical_hash(study.run),)
    prepare(study, tmp_path / "data", folder)


def test_patients_of_the_hospitals_are_no_public_pictures(tmp_path: Path) -> None:
    source = folder_study()["source"]
    with pytest.raises(DataError, match="show patients of the hospitals"):
        prepare(study_with(source), write_images(tmp_path / "data"), tmp_path / "run")


def test_a_study_says_what_it_lacks() -> None:
    content = folder_study(public=phantoms())
    assert any("is private" in problem for problem in read_study(content)[1])
    named = {**folder_study()}
    named["run"] = {**named["run"], "privacy": {"atlas": ATLAS, "public_pictures": "0" * 64}}
    assert any("the hash follows" in problem for problem in read_study(named)[1])
    drawn = {**content, "source": phantoms()}
    drawn["run"] = {**drawn["run"], "privacy": {"atlas": ATLAS}}
    assert any("use another" in problem for problem in read_study(drawn)[1])
