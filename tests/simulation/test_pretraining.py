from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mfm_core.checkpoint import flat_weights, load_model
from mfm_core.errors import ConfigError, DataError
from simulation import pretraining
from simulation.__main__ import call
from simulation.engine import Federation
from simulation.pretraining import load_pretraining, prepare, run_pretraining
from simulation.progress import SilentDisplay
from tests.mfm_core.mimeta_world import write_set
from tests.simulation.samples import TINY_MODEL


def write_study(place: Path, /, **more: Any) -> Path:
    content = {
        "run": {
            "name": "toys",
            "rounds": 2,
            "image": {"size_px": 32},
            "model": TINY_MODEL,
            "learning": {"training": {"batch_size": 8, "steps_per_round": 2}},
            "statistics": {"bootstrap_replicates": 20},
        },
        "min_cell_count": 1,
        **more,
    }
    path = place / "study.yaml"
    path.write_text(yaml.safe_dump({"pretraining": content}), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "data", "grey", kinds=("binary", "ordinal"))
    write_set(tmp_path / "data", "rgb", kinds=("multiclass", "multilabel"), channels=3, count=18)
    return tmp_path / "data"


def test_one_place_gives_a_model_figures_and_the_hash_to_start_from(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = write_study(tmp_path), tmp_path / "runs"
    assert call(["pretrain", str(study), "--data", str(data), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    model, _ = load_model(out / "toys/final.safetensors")
    digest = hashlib.sha256((out / "toys/final.safetensors").read_bytes()).hexdigest()
    assert f"pretrained: {digest}" in said and "| rgb/multilabel | multilabel |" in said
    results = json.loads((out / "toys/server.json").read_text())
    assert results["status"] == "complete" and len(results["tasks"]) == 4
    again = run_pretraining(
        prepare(load_pretraining(study), data), tmp_path / "again", SilentDisplay()
    )
    second, _ = load_model(again / "final.safetensors")
    np.testing.assert_array_equal(flat_weights(model), flat_weights(second))


def test_check_reads_everything_and_says_every_problem(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path)
    assert call(["pretrain", str(study), "--data", str(data), "--check"]) == 0
    assert "grey (Toys): train 16, val 4, test 4; grey/binary" in capsys.readouterr().out
    assert call(["pretrain", str(study), "--data", str(data), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"][0].startswith("grey (Toys): train 16")
    (data / "grey/annotations.csv").unlink()
    (data / "rgb/splits/val.txt").write_text("x")
    assert call(["pretrain", str(study), "--data", str(data), "--check"]) == 1
    said = capsys.readouterr().err
    assert "grey: annotations.csv: is missing" in said and "rgb: splits/val.txt" in said


def test_hospitals_get_the_data_sets_they_are_given(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Federation] = []

    def stand_in(folder: Any, federation: Federation, limits: object, display: object) -> float:
        seen.append(federation)
        return 0.0

    monkeypatch.setattr(pretraining, "run_federation", stand_in)
    hospitals = {"north": ["grey", "rgb"], "south": ["grey"]}
    prepared = prepare(load_pretraining(write_study(tmp_path, hospitals=hospitals)), data)
    assert len(prepared.run.ontology.tasks) == 4
    assert prepared.warnings == ["grey: two hospitals hold it; its people count twice"]
    folder = run_pretraining(prepared, tmp_path / "runs", SilentDisplay())
    assert seen == [Federation(2, 1)]
    sites = [yaml.safe_load((folder / f"sites/{n}.yaml").read_text()) for n in (0, 1)]
    assert [site["data"]["mimeta"] for site in sites] == [["grey", "rgb"], ["grey"]]
    settings = yaml.safe_load((folder / "consortium.yaml").read_text())
    assert settings["quorum"] == 2 and (folder / "run.yaml").is_file()


def test_hospitals_train_in_one_process_and_a_folder_can_be_emptied(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path, hospitals={"north": ["grey"], "south": ["rgb"]})
    arguments = ["pretrain", str(study), "--data", str(data), "--out", str(tmp_path / "runs")]
    assert call([*arguments, "--one-process"]) == 0
    said = capsys.readouterr().out
    assert "| rgb/multilabel | multilabel |" in said and "(mean of 4 labels, no interval) |" in said
    results = json.loads((tmp_path / "runs/toys/server.json").read_text())
    assert results["status"] == "complete" and set(results["per_site"]) == {"north", "south"}
    other = [*arguments, "--set", "pretraining.hospitals={}"]
    assert call(other) == 1 and "or use --fresh" in capsys.readouterr().err
    assert call([*other, "--fresh"]) == 0
    assert not (tmp_path / "runs/toys/sites").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"hospitals": {"a": ["grey"]}}, "one is no federation"),
        ({"hospitals": {"a": [], "b": ["grey"]}}, "a has no data set"),
        (
            {"hospitals": {"a": ["grey"], "b": ["rgb"]}, "datasets": ["toy"]},
            "toy stands at no hospital",
        ),
        ({"folder": "/elsewhere"}, "relative to the folder"),
        ({"run": {"name": "x", "ontology": {}}}, "follows from the data sets"),
        ({"colour": 1}, "unknown key"),
    ],
)
def test_a_wrong_study_is_said(tmp_path: Path, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_pretraining(write_study(tmp_path, **more))


def test_what_cannot_go_with_tasks_is_said_before_anything_runs(tmp_path: Path, data: Path) -> None:
    run = {"name": "x", "rounds": 3, "image": {"size_px": 32}, "model": TINY_MODEL}
    wrong = {
        **run,
        "aggregation": {"combine": "median"},
        "learning": {"objective": {"attention": {"rounds": 1}}},
        "secure_sum": {"enabled": True},
    }
    with pytest.raises(ConfigError) as caught:
        prepare(load_pretraining(write_study(tmp_path, run=wrong)), data)
    for text in ("combine must be mean", "attention.rounds must be 0", "updates must be exact"):
        assert text in str(caught.value)
    with pytest.raises(DataError, match="no data set blue"):
        prepare(load_pretraining(write_study(tmp_path, datasets=["blue"])), data)


def test_a_folder_of_another_study_is_left_alone(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "runs/toys"
    folder.mkdir(parents=True)
    (folder / "study.hash").write_text("another")
    with pytest.raises(ConfigError, match="holds another study"):
        run_pretraining(
            prepare(load_pretraining(write_study(tmp_path)), data),
            tmp_path / "runs",
            SilentDisplay(),
        )
    assert not (folder / "final.safetensors").exists()
