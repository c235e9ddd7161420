"""Classifiers without a decoder: they learn, repeat to the bit and leave the drawing alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mfm_core.autoencoder import build_autoencoder
from mfm_core.inference import infer
from simulation.supervised import build_shufflenet, fit_shufflenet, fit_supervised, logits_of
from strategies.config import RunConfig
from tests.simulation.test_baselines import RUN, make_set


def run_of(rate: float = 2e-3) -> RunConfig:
    still = {"flip_probability": 0, "rotation_deg": 0, "perspective": 0, "erase_boxes": 0}
    learning = RUN.learning.model_copy(
        update={
            "training": RUN.learning.training.model_copy(update={"learning_rate": rate}),
            "augmentation": RUN.learning.augmentation.model_copy(update=still),
        }
    )
    return RUN.model_copy(update={"learning": learning})


def test_the_encoder_alone_learns_and_its_decoder_stays_as_it_was() -> None:
    images = make_set(0)
    model = fit_supervised(run_of(0.01), images, 60, seed=1)
    new = build_autoencoder(RUN.model, RUN.image, 5, RUN.seed)
    for (name, trained), started in zip(model.named_parameters(), new.parameters(), strict=True):
        if name.startswith("decoder."):
            assert torch.equal(trained, started), name
    test = images.select("test")
    right = infer(model, images, test).logits.argmax(axis=1) == images.labels[test]
    assert right.mean() >= 0.8
    assert not torch.equal(model.encoder.first.weight, new.encoder.first.weight)


@pytest.mark.parametrize("fit", [fit_supervised, fit_shufflenet])
def test_equal_seeds_give_equal_bits(fit) -> None:
    images, run = make_set(0), run_of()
    first, second, other = (fit(run, images, 3, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("channels", [1, 3])
def test_shufflenet_takes_the_images_channels_and_starts_from_nothing(channels: int) -> None:
    model = build_shufflenet(channels, 5, seed=0).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, 64, 64)).shape == (2, 5)
    again = build_shufflenet(channels, 5, seed=0)
    pairs = zip(model.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_scores_are_in_the_order_that_was_asked_for() -> None:
    images, rows = make_set(0), np.arange(60)[::-1].copy()
    model = build_shufflenet(1, 5, seed=0).eval()
    assert np.allclose(logits_of(model, images, rows), logits_of(model, images, rows[::-1])[::-1])
