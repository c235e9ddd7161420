"""The choice of a hospital's own head: a model file that other commands read, or none."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client.__main__ import call
from client.config import LimitsConfig, SiteConfig
from client.site import OWN_HEAD
from mfm_core.atlas import save_atlas
from mfm_core.checkpoint import encoder_hash, load_model, save_model
from mfm_core.config import DataConfig, dump_yaml
from mfm_core.dataset import SPLITS
from tests.mfm_core.test_personal_head import with_val
from tests.mfm_core.view_world import SITES, VIEWS, view_world


def lay_out(folder: Path, names: tuple[str, ...]) -> Path:
    """Write a hospital that calls the classes `names`, after a run; return its site.yaml."""
    world = view_world()
    images, state = with_val(world.images), folder / "state"
    (folder / "images").mkdir(parents=True)
    with (folder / "images" / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "patient_id", "split", "view", "site"])
        for row in range(len(images)):
            Image.fromarray(images.images[row, 0]).save(folder / "images" / f"{row}.png")
            view, site = images.attributes[row]
            split = SPLITS[images.splits[row]]
            who = f"p{images.patients[row]}"
            label = names[images.labels[row]]
            writer.writerow([f"{row}.png", label, who, split, VIEWS[view], SITES[site]])
    state.mkdir()
    save_model(state / "final.safetensors", world.model, "c" * 64, world.ontology)
    save_atlas(state / "atlas.safetensors", world.atlas)
    data = DataConfig(
        root=Path("images"), manifest=Path("images/manifest.csv"), columns={"split": "split"}
    )
    config = SiteConfig(
        name="north",
        data=data,
        limits=LimitsConfig(accepted_runs=("c" * 64,)),
        state_folder=Path("state"),
        simulated=True,
    )
    dump_yaml(config, folder / "site.yaml")
    return folder / "site.yaml"


def test_a_hospital_that_differs_gets_a_model_with_its_own_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = view_world().ontology.classes
    path = lay_out(tmp_path, (classes[1], classes[0], *classes[2:]))
    assert call(["head", "--config", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["own"] is True and told["site"] == "north"
    assert Path(told["model"]) == tmp_path / "state" / OWN_HEAD
    common, metadata = load_model(tmp_path / "state" / "final.safetensors")
    own, same = load_model(Path(told["model"]))
    assert encoder_hash(own) == encoder_hash(common) and metadata["config_hash"] == "c" * 64
    assert same["config_hash"] == "c" * 64
    assert not np.allclose(own.head.weight.detach(), common.head.weight.detach())
    audited = ["audit", "--config", str(path), "--subgroups", "--model", told["model"]]
    assert call([*audited, "--out", str(tmp_path / "out")]) == 0


def test_an_earlier_choice_is_taken_away_where_the_common_head_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lay_out(tmp_path, view_world().ontology.classes)
    rows = (tmp_path / "images" / "manifest.csv").read_text(encoding="utf-8")
    few = rows.replace(",val,", ",train,")
    (tmp_path / "images" / "manifest.csv").write_text(few, encoding="utf-8")
    (tmp_path / "state" / OWN_HEAD).write_bytes(b"an earlier one")
    assert call(["head", "--config", str(path)]) == 0
    assert "the common one; 0 validation patients" in capsys.readouterr().out
    assert not (tmp_path / "state" / OWN_HEAD).exists()


def test_without_a_finished_run_the_answer_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lay_out(tmp_path, view_world().ontology.classes)
    (tmp_path / "state" / "final.safetensors").unlink()
    assert call(["head", "--config", str(path)]) != 0
    assert "final.safetensors" in capsys.readouterr().err


def test_before_a_run_the_command_says_what_would_give_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lay_out(tmp_path, view_world().ontology.classes)
    (tmp_path / "state" / "final.safetensors").unlink()
    assert call(["head", "--config", str(path)]) == 1
    error = capsys.readouterr().err
    assert "final.safetensors: not there yet" in error and "Take part in a run" in error
    assert "atlas.safetensors" not in error
