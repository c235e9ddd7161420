from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mfm_core.checkpoint import save_model
from mfm_core.errors import CheckpointError
from server.weights import new_model
from simulation.released import RELEASED, copy_released, start_problems
from tests.server.hospitals import RUN


def test_file_and_agreement_belong_together() -> None:
    one, file = "1" * 64, Path("model.safetensors")
    assert start_problems(None, None, ["local"]) == start_problems(one, file, []) == []
    for agreed, named in ((one, None), (None, file)):
        assert "set both" in start_problems(agreed, named, [])[0]
    assert "local and pooled would start" in start_problems(one, file, ["local", "pooled"])[0]


def test_only_the_agreed_file_of_the_same_architecture_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, new_model(RUN), "0" * 64, RUN.ontology)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    agreed = RUN.model_copy(update={"pretrained": digest})
    copy_released(path, agreed, tmp_path)
    assert (tmp_path / RELEASED).read_bytes() == path.read_bytes()
    larger = agreed.model.model_copy(update={"latent_channels": 8})
    for run in (
        agreed.model_copy(update={"pretrained": "3" * 64}),
        agreed.model_copy(update={"model": larger}),
    ):
        with pytest.raises(CheckpointError):
            copy_released(path, run, tmp_path)
