"""A new model that starts from released weights: everything but the head and the attention map.

The head belongs to the classes and the attention map to the images of the run that made them. The
linear path is taken over with the rest, so a run that starts so asks no site for patch moments.
Nothing here crosses the hospital's boundary; the server sends weights in any case.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import load_model
from mfm_core.config import ImageConfig
from mfm_core.errors import CheckpointError

ITS_OWN = ("head.", "attention_logits")
"""Weights that a new model does not take over."""


def read_released(path: Path, sha256: str) -> Autoencoder:
    """Return the model of a released file.

    Args:
        path: a model.safetensors of a release or final.safetensors of a run.
        sha256: the file's own hash (hex), as agreed.

    Raises:
        CheckpointError: missing, damaged, or another file than was agreed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; put the agreed model there")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise CheckpointError(
            f"{path}: its SHA-256 is {found}, the run agreed on {sha256}; get the agreed file"
        )
    return load_model(path)[0]


@torch.no_grad()
def start_from(model: Autoencoder, released: Autoencoder) -> None:
    """Give a new model the weights of a released one, but its head and attention map; in place.

    Raises:
        CheckpointError: the architectures differ; every difference is named.
    """
    problems = [
        f"model.{name} is {getattr(model.model_config, name)!r}, released is {value!r}"
        for name, value in released.model_config
        if getattr(model.model_config, name) != value
    ]
    problems += [
        f"image.{name} is {_of(model.image_config, name)}, released is "
        f"{_of(released.image_config, name)}"
        for name in ("size_px", "channels")
        if _of(model.image_config, name) != _of(released.image_config, name)
    ]
    if problems:
        raise CheckpointError(
            f"the released model is of another shape: {'; '.join(problems)}; write the run's "
            "model and image as the release has them"
        )
    theirs = dict(released.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith(ITS_OWN):
            parameter.copy_(theirs[name])


def _of(image: ImageConfig, name: str) -> int:
    return int(getattr(image, name))
