"""Whole runs in memory in which a part of the model learns, one hospital without any label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.site import close_sites
from mfm_core.checkpoint import flat_weights, load_model
from mfm_core.config import LearningConfig, dump_yaml
from mfm_core.finetuning import update_schema
from mfm_core.head import Head
from server.app import run_federation
from server.phases import first_state
from server.run_files import read_lines
from server.weights import head_of, model_with, new_model, next_weights, with_head
from strategies import wire
from strategies.config import RunConfig
from strategies.plan import shared_seed
from tests.server.hospitals import RUN, consortium, lay_out, make_grid, site_config


def run_with(**learning: Any) -> RunConfig:
    """The tiny run with other learning, and no exchange that this is not about."""
    content = RUN.model_dump(mode="json")
    content["learning"] |= learning
    content |= {"mitigation": {}, "audit": {"enabled": False}}
    return RunConfig.model_validate(content)


LORA = {"trainable": "lora", "lora": {"rank": 2}}


def finished(folder: Path, run: RunConfig, unlabelled: str = "") -> dict[str, Any]:
    lay_out(folder, run=run)
    if unlabelled:
        index = ("north", "south").index(unlabelled)
        config = site_config(unlabelled)
        data = config.data.model_copy(update={"unlabelled": True})
        dump_yaml(config.model_copy(update={"data": data}), folder / "sites" / f"{index}.yaml")
        close_sites()
    run_federation(make_grid(folder), consortium(folder, "out"), resume=False)
    return dict(json.loads((folder / "out" / "server.json").read_text()))


@pytest.mark.parametrize("learning", [LORA, {"trainable": "head"}], ids=["lora", "head"])
def test_only_what_learns_travels_and_changes(tmp_path: Path, learning: dict[str, Any]) -> None:
    run = run_with(**learning)
    found = finished(tmp_path, run)
    assert found["status"] == "complete"
    model, _ = load_model(tmp_path / "out" / "final.safetensors")
    moving = wire.model_size(update_schema(model, run.learning))
    line = json.loads((tmp_path / "state" / "north" / "outbox.jsonl").read_text().splitlines()[2])
    assert line["kind"] == "train"
    shapes = {array["name"]: array["shape"] for array in line["arrays"]}
    assert shapes[wire.MODEL] == [moving] and moving < 0.4 * len(flat_weights(model))
    start = new_model(run)
    for name, parameter in model.named_parameters():
        old = start.get_parameter(name)
        same = torch.equal(parameter, old)
        encoder = run.learning.trainable == "head" and name.startswith("encoder.")
        assert same or not ("norm" in name or encoder), name


def test_a_hospital_without_labels_takes_part_and_tells_nothing_of_labels(tmp_path: Path) -> None:
    run = run_with(
        trainable="lora", lora={"rank": 2}, pseudo_labels={"from_round": 2, "gate": 0.999}
    )
    found = finished(tmp_path, run, unlabelled="south")
    assert found["status"] == "complete"
    phases = [(line["phase"], line["round"]) for line in read_lines(tmp_path / "out")]
    assert phases[2:6] == [("train", 1), ("class_sums", 2), ("train", 2), ("latent_sums", 0)]
    own = found["rounds_table"][0]["of_site"]
    assert own["south"]["loss"]["classification"] == 0 < own["north"]["loss"]["classification"]
    assert found["per_site"]["south"]["macro_auc"]["value"] is None
    log = (tmp_path / "state" / "south" / "site.log").read_text()
    assert "pseudo-labels for" in log
    assert "pseudo-labels" not in (tmp_path / "state" / "north" / "site.log").read_text()
    assert found["latent_sums"]["patients_per_class"] == {"left": 6, "right": 6}  # north's alone


def test_the_optimiser_sees_what_learns_alone() -> None:
    content = run_with(**LORA).model_dump(mode="json")
    content["aggregation"] = {"kind": "fedadam"}
    run = RunConfig.model_validate(content)
    state = first_state(run)
    moving = wire.model_size(update_schema(new_model(run), run.learning))
    assert state.server.first_moment.shape == (moving,)
    server, weights = next_weights(run, state, np.full(moving, 1e-3))
    assert server.first_moment.any() and weights.shape == state.weights.shape
    assert not np.array_equal(weights, state.weights)
    assert shared_seed(run) == shared_seed(run_with(**LORA))


def test_an_update_of_nothing_changes_nothing() -> None:
    for mode in ("all", "head", "lora"):
        run = run_with(trainable=mode)
        state = first_state(run)
        size = wire.model_size(update_schema(new_model(run), LearningConfig(trainable=mode)))  # type: ignore[arg-type]
        _, weights = next_weights(run, state, np.zeros(size))
        assert np.array_equal(weights, state.weights), mode


def test_a_head_goes_in_and_comes_out() -> None:
    run = run_with()
    weights = first_state(run).weights
    shape = model_with(run, weights).head.weight.shape
    head = Head(np.full(shape, 0.5, np.float32), np.arange(shape[0], dtype=np.float32))
    found = head_of(run, with_head(run, weights, head))
    assert (found.weight == head.weight).all() and (found.bias == head.bias).all()
