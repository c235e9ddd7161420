"""The weights a run begins with: new ones, or a released model's with a new head.

What crosses a hospital's boundary: nothing here; every round sends the weights in any case.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import flat_weights
from mfm_core.errors import ConfigError
from mfm_core.model_start import read_released, start_from
from mfm_core.public_pictures import Pixels
from server.config import ConsortiumConfig
from server.phases import first_state
from server.weights import new_model
from strategies.config import RunConfig
from strategies.strategy import RunState


def starting_state(
    run: RunConfig, consortium: ConsortiumConfig, pictures: Pixels | None = None
) -> RunState:
    """Return the state before the first phase; `pictures` are the public ones of the run.

    Raises:
        ConfigError: the run agreed on released weights and no file is named, or the reverse.
        CheckpointError: the file is another one, damaged, or of another architecture.
    """
    model = released_start(run, consortium.pretrained)
    if model is None:
        return first_state(run, pictures)
    return replace(first_state(run), weights=flat_weights(model))


def released_start(run: RunConfig, file: Path | None) -> Autoencoder | None:
    """Return the run's model with the released weights that it starts from; None for a new one.

    Args:
        run: the agreed run.
        file: the released model that the coordinator's settings name, or None.

    Raises:
        ConfigError: the run agreed on released weights and no file is named, or the reverse.
        CheckpointError: the file is another one, damaged, or of another architecture.
    """
    if (run.pretrained is None) != (file is None):
        agreed = "on no released weights" if run.pretrained is None else f"on {run.pretrained}"
        named = file or "none"
        reason = f"pretrained: the run agreed {agreed}, the file named here is {named}; set both"
        raise ConfigError("consortium", [reason])
    if run.pretrained is None or file is None:
        return None
    model = new_model(run)
    start_from(model, read_released(file, run.pretrained))
    return model
