import numpy as np
import torch

from mfm_core.attention import (
    attention_maps,
    mean_penalty,
    stage_one_weights,
    stage_two_weights,
)
from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import ImageConfig, LearningConfig, ModelConfig, TrainingConfig
from mfm_core.ssim import ssim, window_centres
from mfm_core.training import Schedule, train
from tests.mfm_core.test_training import CONFIG, image_set


def logits(scale: float) -> torch.Tensor:
    return scale * torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_stage_one_starts_at_one_and_stays_bounded() -> None:
    assert torch.equal(stage_one_weights(torch.zeros(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
    extreme = stage_one_weights(logits(100.0))
    assert extreme.min() >= 0
    assert extreme.max() <= 2


def test_penalty_is_the_squared_distance_of_the_mean_from_one() -> None:
    weights = torch.zeros(1, 1, 12, 12)
    weights[..., 5, 5:7] = 1.0  # two of the four window centres
    assert mean_penalty(weights).item() == 0.25


def test_the_border_without_windows_pays_no_penalty() -> None:
    learnt = logits(1.0).requires_grad_()
    weights = stage_one_weights(learnt)
    (gradient,) = torch.autograd.grad(mean_penalty(weights), learnt)
    assert window_centres(gradient).abs().min() > 0
    window_centres(gradient).zero_()
    assert gradient.abs().max() == 0


def test_stage_two_has_mean_one_is_not_negative_and_turns_the_order_round() -> None:
    for scale in (0.1, 1.0, 10.0):
        first, second = stage_one_weights(logits(scale)), stage_two_weights(logits(scale))
        assert second.min() >= 0
        assert torch.isclose(window_centres(second).mean(), torch.tensor(1.0), atol=1e-5)
        hardest = first.flatten().argmin()
        assert torch.isclose(second.flatten()[hardest], second.max())


def test_stage_two_follows_one_minus_w_where_that_formula_is_sound() -> None:
    small = logits(0.05)
    paper = window_centres(1.0 - stage_one_weights(small))
    ours = window_centres(stage_two_weights(small))
    torch.testing.assert_close(ours - 1.0, paper - paper.mean(), atol=2e-3, rtol=0.0)


def test_stage_two_is_a_constant_and_survives_saturation() -> None:
    learnt = torch.full((1, 1, 16, 16), 200.0, requires_grad=True)
    weights = stage_two_weights(learnt)
    assert not weights.requires_grad
    assert torch.isfinite(weights).all()


def test_stage_one_learns_to_weigh_a_hard_centre_more_in_stage_two() -> None:
    target = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    found = target.clone()
    found[..., 24:40, 24:40] = 0.5
    learnt = torch.zeros(1, 1, 64, 64, requires_grad=True)
    for _ in range(50):
        weights = stage_one_weights(learnt)
        loss = 1.0 - ssim(found, target, weights).mean() + mean_penalty(weights)
        (gradient,) = torch.autograd.grad(loss, learnt)
        learnt = (learnt - 500.0 * gradient).detach().requires_grad_()
    second = stage_two_weights(learnt)[0, 0]
    assert second[32, 32] > 1.5 * second[5, 5]
    assert second[32, 32] > 1.0
    assert torch.isclose(window_centres(second).mean(), torch.tensor(1.0), atol=1e-5)
    assert torch.equal(learnt[..., :5, :], torch.zeros(1, 1, 5, 64))


def test_the_shown_maps_are_those_in_the_loss_and_their_border_counts_as_one():
    model = build_autoencoder(ModelConfig(), ImageConfig(size_px=32), 2, seed=0)
    assert attention_maps(model) is None
    with torch.no_grad():
        model.attention_logits[..., 10:14, 10:14] = 2.0
    found = attention_maps(model)
    with torch.no_grad():
        stages = (
            stage_one_weights(model.attention_logits),
            stage_two_weights(model.attention_logits),
        )
    for shown, weights in zip(found, stages, strict=True):
        assert np.array_equal(shown[5:-5, 5:-5], window_centres(weights)[0, 0].numpy())
        assert (shown[:5] == 1).all() and (shown[:, -5:] == 1).all()
    assert found[0, 12, 12] > 1.5 and found[1, 12, 12] < 0.5


def test_a_short_stage_one_moves_the_map():
    """At the rate of the weights it stayed within a thousandth of 1."""
    images = image_set(24)
    model = build_autoencoder(CONFIG, ImageConfig(size_px=32), 2, seed=0)
    train(
        model,
        images,
        np.arange(24),
        LearningConfig(training=TrainingConfig(batch_size=8)),
        schedule=Schedule(0, 100),
        steps=40,
        seed=1,
        attention_stage=1,
    )
    inner = window_centres(stage_one_weights(model.attention_logits.detach()))
    assert float(inner.std()) > 0.02 and 0.3 < float(inner.mean()) < 1.5
