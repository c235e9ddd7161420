"""Explanations of a finished run, scored on patients that it has never seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mfm_core.atlas import atlas_from, save_atlas
from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import encoder_hash, save_model
from mfm_core.errors import ConfigError
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from simulation.__main__ import call
from simulation.baselines import pool
from simulation.config import load_study
from simulation.hospitals import open_hospitals, prepare
from simulation.other_patients import lines_of, score_on_others
from tests.simulation.samples import tiny_study


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of two phantom hospitals that holds its study only."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(tiny_study()), encoding="utf-8")
    return folder


def finish(folder: Path) -> None:
    """Put an untrained model and the atlas of its own phantoms into the folder."""
    study = load_study(folder / "study.yaml")
    prepare(study, Path("."), folder)
    images = pool(open_hospitals(folder, study.run)[1])
    run = study.run
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), 0)
    rows = images.select("train")
    mu = infer(model, images, rows).mu
    told = (images.labels[rows], images.attributes[rows], images.patients[rows])
    total = latent_sum(mu, *told, run.ontology)
    save_model(folder / "final.safetensors", model, "0" * 64, run.ontology)
    save_atlas(folder / "atlas.safetensors", atlas_from(total, run.ontology, encoder_hash(model)))


def test_other_patients_are_scored_and_nothing_is_left_behind(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(run)
    before = sorted(path.name for path in run.iterdir())
    rows = score_on_others(run, 11, 2)
    assert rows[-1]["class"] == "all classes" and rows[-1]["n_masks"] > 0
    assert any("gain over grad_cam" in line for line in lines_of(rows)[:1])
    assert call(["explanations", str(run), "--seed", "12", "--per-class", "2", "--json"]) == 0
    others = json.loads(capsys.readouterr().out)
    assert [row["class"] for row in others] == [row["class"] for row in rows] and others != rows
    assert sorted(path.name for path in run.iterdir()) == before


def test_a_runs_own_phantoms_are_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="choose another"):
        score_on_others(run, 3, 2)
