"""A control variate: nothing changes where it is zero, and what it finds is the raw gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import flat_weights
from mfm_core.config import ImageConfig, LearningConfig, ModelConfig
from mfm_core.control_variates import GRAIN, ControlVariate
from mfm_core.optimiser import FlatOptimiser
from mfm_core.training import Schedule, train
from tests.mfm_core.test_training import image_set

SMALL = ModelConfig(widths=(16,), depths=(1,), groups=2, norm_channels=8, latent_channels=4)
LEARNING = LearningConfig.model_validate({"training": {"batch_size": 4}})


def new_model() -> Autoencoder:
    return build_autoencoder(SMALL, ImageConfig(size_px=32), 2, seed=3)


def trained(control: ControlVariate | None, steps: int = 3) -> Autoencoder:
    model, images = new_model(), image_set(12)
    train(
        model,
        images,
        np.arange(12),
        LEARNING,
        schedule=Schedule(0, steps),
        steps=steps,
        seed=1,
        control=control,
    )
    return model


def nothing() -> ControlVariate:
    return ControlVariate(np.zeros(len(flat_weights(new_model())), dtype=np.float32))


def test_without_a_difference_nothing_changes() -> None:
    plain, control = flat_weights(trained(None)), nothing()
    assert np.array_equal(flat_weights(trained(control)), plain)
    assert np.abs(control.found).max() > 1e-4
    moved = ControlVariate(np.full(len(plain), 0.1, dtype=np.float32))
    assert not np.array_equal(flat_weights(trained(moved)), plain)


def test_found_is_the_mean_raw_gradient_whatever_is_added_and_clipped() -> None:
    model, config = new_model(), LEARNING.training.model_copy(update={"max_grad_norm": 1e-3})
    model.attention_logits.requires_grad_(False)
    size = len(flat_weights(model))
    control = ControlVariate(np.full(size, 7.0, dtype=np.float32))
    with FlatOptimiser(model, config, 0.5, control) as optimiser:
        for value in (0.25, 0.75):
            optimiser.gradient.fill_(value)
            optimiser.step(1e-3, 0.9)
    names = [(name, p.numel()) for name, p in model.named_parameters()]
    expected = np.concatenate([np.full(n, 0.5 * (k != "attention_logits")) for k, n in names])
    assert np.array_equal(control.found, expected.astype(np.float32))


def test_the_correction_reaches_the_weight_it_is_of() -> None:
    """The buffer's order is not the flat vector's: a correction of one weight moves that alone."""
    model = new_model()
    names = [name for name, p in model.named_parameters() for _ in range(p.numel())]
    correction = np.zeros(len(names), dtype=np.float32)
    place = names.index("head.bias")
    correction[place] = 1.0
    plain_config = LEARNING.training.model_copy(update={"weight_decay": 0.0})
    before = flat_weights(model)
    with FlatOptimiser(model, plain_config, 0.0, ControlVariate(correction)) as optimiser:
        optimiser.clear()
        optimiser.step(1e-2, 0.0)
    assert np.flatnonzero(flat_weights(model) != before).tolist() == [place]
    assert flat_weights(model)[place] < before[place]


def test_found_times_images_adds_up_without_rounding() -> None:
    control = nothing()
    trained(control)
    whole = control.found.astype(np.float64) * 37 / GRAIN
    assert np.array_equal(whole, np.rint(whole))


def test_a_failed_training_finds_nothing() -> None:
    control, model = nothing(), new_model()
    with pytest.raises(ZeroDivisionError), FlatOptimiser(model, LEARNING.training, 0.0, control):
        raise ZeroDivisionError
    assert not control.found.any()


def test_a_correction_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="correction of"):
        FlatOptimiser(new_model(), LEARNING.training, 0.0, ControlVariate(np.zeros(3, np.float32)))
    assert torch.isfinite(next(new_model().parameters())).all()
