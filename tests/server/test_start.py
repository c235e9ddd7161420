from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mfm_core.checkpoint import load_model, save_model
from mfm_core.errors import CheckpointError, ConfigError
from mfm_core.model_start import start_from
from server.app import run_federation
from server.phases import first_state
from server.start import starting_state
from server.weights import model_with, new_model
from strategies.config import RunConfig
from strategies.plan import plan_of
from tests.server.hospitals import RUN, consortium, lay_out, make_grid


def release(folder: Path) -> tuple[Path, str]:
    """Write a model with other classes than RUN's and return its file and hash."""
    wanted = RUN.ontology.model_copy(update={"classes": ("a", "b", "c"), "attributes": {}})
    other = RUN.model_copy(update={"ontology": wanted, "seed": 9})
    path = folder / "model.safetensors"
    save_model(path, new_model(other), "0" * 64, wanted)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def starting_from(digest: str) -> RunConfig:
    quick = {"mitigation": {}, "audit": {"enabled": False}, "rounds": 1}
    return RunConfig.model_validate({**RUN.model_dump(), **quick, "pretrained": digest})


def test_a_run_starts_from_released_weights_with_a_new_head(tmp_path: Path) -> None:
    path, digest = release(tmp_path)
    run = starting_from(digest)
    settings = consortium(lay_out(tmp_path / "c", run=run), "out", pretrained=str(path))
    model = model_with(run, starting_state(run, settings).weights)
    released, _ = load_model(path)
    assert np.array_equal(model.to_latent.weight.detach(), released.to_latent.weight.detach())
    assert not model.head.weight.any() and model.head.out_features == 2
    fresh = new_model(run)
    start_from(fresh, released)
    assert "patch_moments" not in [step.kind for step in plan_of(run)]


def test_a_whole_run_goes_through_from_released_weights(tmp_path: Path) -> None:
    path, digest = release(tmp_path)
    folder = lay_out(tmp_path / "c", run=starting_from(digest))
    run_federation(make_grid(folder), consortium(folder, "out", pretrained=str(path)), resume=False)
    assert json.loads((folder / "out" / "server.json").read_text())["status"] == "complete"


def test_file_and_agreement_belong_together(tmp_path: Path) -> None:
    path, digest = release(tmp_path)
    folder = lay_out(tmp_path / "c")
    plain, named = consortium(folder, "a"), consortium(folder, "b", pretrained=str(path))
    assert np.array_equal(starting_state(RUN, plain).weights, first_state(RUN).weights)
    for run, settings in ((RUN, named), (starting_from(digest), plain)):
        with pytest.raises(ConfigError, match="set both"):
            starting_state(run, settings)
    with pytest.raises(CheckpointError, match="the run agreed on 2222"):
        starting_state(starting_from("2" * 64), named)
