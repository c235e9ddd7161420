import torch

from mfm_core.attention import mean_penalty, stage_one_weights, stage_two_weights
from mfm_core.ssim import ssim, window_centres


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
