import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl
from torch.nn import functional

from mfm_core.autoencoder import Autoencoder, Output, build_autoencoder
from mfm_core.config import AttentionConfig, ImageConfig, ModelConfig, ObjectiveConfig
from mfm_core.objective import (
    TERM_NAMES,
    cycle_error,
    kl_divergence,
    masked_cross_entropy,
    objective,
)
from mfm_core.ssim import ssim

CONFIG = ObjectiveConfig(
    beta=0.01, class_weight=0.7, cycle_weight=3.0, attention=AttentionConfig(penalty=2.0)
)
CYCLE = torch.tensor(0.2)


def some_output() -> tuple[Output, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(4, 1, 32, 32, generator=generator)
    noisy = (target + 0.1 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    mu, logvar = torch.randn(2, 4, 6, generator=generator)
    return Output(noisy, mu, logvar, torch.randn(4, 3, generator=generator)), target


def test_kl_equals_torchs() -> None:
    output, _ = some_output()
    posterior = Normal(output.mu, torch.exp(0.5 * output.logvar))
    expected = reference_kl(posterior, Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(output.mu, output.logvar), expected)


def test_loss_is_the_weighted_sum_of_its_terms() -> None:
    output, target = some_output()
    labels = torch.tensor([0, 2, 1, 1])
    terms = objective(output, target, labels, CONFIG, (0, torch.zeros(1, 1, 32, 32)), CYCLE)
    assert set(terms.named()) == set(TERM_NAMES)
    torch.testing.assert_close(terms.reconstruction, 1 - ssim(output.reconstruction, target).mean())
    expected = functional.cross_entropy(output.logits, labels, label_smoothing=0.05)
    torch.testing.assert_close(terms.classification, expected)
    whole = terms.reconstruction + 0.01 * terms.divergence + 0.7 * terms.classification
    whole = whole + 3.0 * CYCLE
    torch.testing.assert_close(terms.loss, whole)


def test_unlabelled_rows_give_no_gradient_and_do_not_dilute_the_others() -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, -1, 2, -1])
    loss = masked_cross_entropy(logits, labels, 0.05)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[[1, 3]].abs().max() == 0
    assert logits.grad[[0, 2]].abs().min() > 0
    known = functional.cross_entropy(logits[[0, 2]], labels[[0, 2]], label_smoothing=0.05)
    torch.testing.assert_close(loss, known)


def test_a_batch_without_labels_costs_nothing() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((3,), -1), 0.05)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_attention_learns_in_stage_one_only(stage: int) -> None:
    output, target = some_output()
    logits = torch.randn(1, 1, 32, 32, requires_grad=True)
    labels = torch.zeros(4, dtype=torch.int64)
    reconstruction = output.reconstruction.clone().requires_grad_()
    output = output._replace(reconstruction=reconstruction)
    terms = objective(output, target, labels, CONFIG, (stage, logits), CYCLE)
    terms.loss.backward()
    assert (logits.grad is not None) == (stage == 1)
    assert (terms.attention.item() > 0) == (stage == 1)


def test_zero_logits_weigh_every_pixel_alike_in_every_stage() -> None:
    output, target = some_output()
    labels, logits = torch.zeros(4, dtype=torch.int64), torch.zeros(1, 1, 32, 32)
    losses = [
        objective(output, target, labels, CONFIG, (stage, logits), CYCLE).loss for stage in range(3)
    ]
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def a_linear_model(gain_out: float) -> Autoencoder:
    """Return a model whose drawing, read again, is the latent times `gain_out`."""
    config = ModelConfig(widths=(16, 32), depths=(1, 1), latent_channels=8)
    model = build_autoencoder(config, ImageConfig(size_px=32), 2, seed=0)
    assert model.linear_path is not None
    with torch.no_grad():
        basis = torch.linalg.qr(model.linear_path.basis.transpose(1, 2)).Q
        model.linear_path.basis.copy_(basis.transpose(1, 2))
        model.linear_path.gain_out.fill_(gain_out)
    return model


def some_latents(model: Autoencoder, size: float = 0.05) -> torch.Tensor:
    """Return `[6, L]` latents, small enough that no pixel leaves [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    return size * torch.randn(6, model.latent_size, generator=generator)


def read_and_drawn(model: Autoencoder, mu: torch.Tensor) -> Output:
    """Return the output of a model that found the latents `mu`."""
    return Output(model.decode(mu), mu, torch.zeros_like(mu), model.classify(mu))


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 0.0), (0.5, 0.25), (0.0, 1.0)])
def test_cycle_error_is_the_squared_part_of_a_latent_that_the_drawing_loses(
    gain: float, expected: float
) -> None:
    model = a_linear_model(gain)
    found = cycle_error(model, read_and_drawn(model, some_latents(model)))
    assert found.item() == pytest.approx(expected, abs=1e-4)


def test_the_cycles_goal_is_fixed() -> None:
    """With a moving goal the error of a linear model would not change with the latent's size."""
    model = a_linear_model(0.5)
    mu = some_latents(model).requires_grad_()
    cycle_error(model, read_and_drawn(model, mu)).backward()
    assert mu.grad is not None
    assert (mu.grad * mu).sum().item() == pytest.approx(-0.5, abs=1e-3)


def test_the_cycle_reads_half_of_the_batch_again() -> None:
    model = a_linear_model(0.5)
    mu = some_latents(model)[:5].requires_grad_()
    cycle_error(model, read_and_drawn(model, mu)).backward()
    assert mu.grad is not None
    assert [bool(row.any()) for row in mu.grad] == [True, True, True, False, False]


def test_a_latent_of_zeros_has_a_finite_cycle_error() -> None:
    model = a_linear_model(1.0)
    nothing = torch.zeros(2, model.latent_size)
    assert cycle_error(model, read_and_drawn(model, nothing)).item() < 1.0
