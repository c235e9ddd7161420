from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import encoder_hash, save_model
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig
from mfm_core.errors import CheckpointError
from mfm_core.model_start import read_released, start_from
from tests.mfm_core.task_world import IMAGE, MODEL

CLASSES = OntologyConfig(classes=("a", "b", "c"))


def trained(model: ModelConfig = MODEL, image: ImageConfig = IMAGE) -> Autoencoder:
    found = build_autoencoder(model, image, 3, seed=1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.01)
    return found


def test_everything_but_head_and_attention_is_taken_over() -> None:
    released, model = trained(), build_autoencoder(MODEL, IMAGE, 2, seed=2)
    start_from(model, released)
    theirs = dict(released.named_parameters())
    assert any(name.startswith("linear_path.") for name in theirs)
    for name, parameter in model.named_parameters():
        if name.startswith(("head.", "attention_logits")):
            assert not parameter.any()
        else:
            assert torch.equal(parameter, theirs[name])
    pictures = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.encode(pictures)[0], released.encode(pictures)[0])


def test_another_architecture_is_refused_with_every_difference() -> None:
    other = MODEL.model_copy(update={"latent_channels": 8, "depths": (1, 2)})
    model = build_autoencoder(other, IMAGE.model_copy(update={"channels": 3}), 2, seed=0)
    with pytest.raises(CheckpointError) as caught:
        start_from(model, trained())
    for name in ("model.latent_channels", "model.depths", "image.channels"):
        assert name in str(caught.value)


def test_the_agreed_file_is_read_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    released = trained()
    save_model(path, released, "0" * 64, CLASSES)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert encoder_hash(read_released(path, digest)) == encoder_hash(released)
    with pytest.raises(CheckpointError, match=f"SHA-256 is {digest}, the run agreed on 1111"):
        read_released(path, "1" * 64)
    path.write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_released(path, hashlib.sha256(b"no model").hexdigest())
    with pytest.raises(CheckpointError, match="no such file"):
        read_released(tmp_path / "absent", digest)
