"""The mean of the losses per image is the plain objective where nothing had to change."""

from __future__ import annotations

import pytest
import torch

from mfm_core.autoencoder import Autoencoder, Output, build_autoencoder
from mfm_core.config import ImageConfig, ModelConfig, ObjectiveConfig
from mfm_core.objective import cycle_error, objective
from mfm_core.private_objective import CYCLE_SHARE, cycle_errors, losses_per_image

SMALL = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, latent_channels=8)


@pytest.fixture
def model() -> Autoencoder:
    made = build_autoencoder(SMALL, ImageConfig(size_px=32), 3, 0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return made


def passed(model: Autoencoder, count: int) -> tuple[Output, torch.Tensor]:
    images = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return model(images), images


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_their_mean_is_the_plain_objective(model: Autoencoder, stage: int) -> None:
    output, target = passed(model, 6)
    labels, config = torch.tensor([0, 1, 2, 2, 1, 0]), ObjectiveConfig(cycle_weight=0)
    logits, nothing = model.attention_logits, torch.zeros(6)
    plain = objective(output, target, labels, config, (stage, logits), torch.zeros(()))
    copies = logits.expand(6, -1, -1, -1)
    found = losses_per_image(output, target, labels, config, (stage, copies), nothing)
    for name, values in found.items():
        torch.testing.assert_close(values.mean(), getattr(plain, name))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_no_image_touches_another(model: Autoencoder, stage: int) -> None:
    output, target = passed(model, 5)
    labels, logits = torch.tensor([0, -1, 2, 2, 1]), model.attention_logits
    config = ObjectiveConfig()

    def losses(rows: slice, again: int) -> torch.Tensor:
        part = Output(*(values[rows] for values in output))
        cycle = cycle_errors(model, part, again)
        copies = logits.expand(len(part.mu), -1, -1, -1)
        own = (stage, copies)
        return losses_per_image(part, target[rows], labels[rows], config, own, cycle)["loss"]

    whole = losses(slice(0, 5), 3)
    alone = [losses(slice(i, i + 1), int(i < 3)) for i in range(5)]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_the_cycle_error_is_the_plain_one_of_a_single_image_over_its_share(
    model: Autoencoder,
) -> None:
    output, _ = passed(model, 1)
    expected = cycle_error(model, output) / CYCLE_SHARE
    torch.testing.assert_close(cycle_errors(model, output, 1)[0], expected)
    assert not cycle_errors(model, output, 0).any()


def test_an_unlabelled_image_has_no_cross_entropy(model: Autoencoder) -> None:
    output, target = passed(model, 2)
    labels, copies = torch.tensor([-1, 1]), model.attention_logits.expand(2, -1, -1, -1)
    found = losses_per_image(
        output, target, labels, ObjectiveConfig(), (0, copies), torch.zeros(2)
    )["classification"]
    assert found[0] == 0 and found[1] > 0
