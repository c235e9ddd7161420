"""The loss, as named terms: 1 - SSIM, KL, cross-entropy and cycle, each with its weight.

Paper sections 2.1 and 2.2; the cycle term is ours. KL is the mean over images and latent numbers,
so beta means the same at every latent size. Unlabelled images (label -1) take part in every term
but the cross-entropy. An explanation moves a latent and draws it, so it shows what the head reads
only where the drawing carries the latent: the cycle term holds the model to that.
What crosses the hospital's boundary: the mean of each term over a round, as telemetry.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from mfm_core.attention import mean_penalty, stage_one_weights, stage_two_weights
from mfm_core.autoencoder import Autoencoder, Output
from mfm_core.config import ObjectiveConfig
from mfm_core.ssim import ssim


@dataclass(frozen=True)
class Terms:
    """The loss and its unweighted parts, scalars.

    Attributes:
        loss: what is minimised.
        reconstruction: mean of 1 - SSIM, with the pixel weights of the attention stage.
        divergence: KL to N(0, 1), nats per latent number.
        classification: mean cross-entropy of the labelled images, 0 when there are none.
        attention: (mean(W) - 1)^2 in stage one, otherwise 0.
        cycle: `cycle_error`, 0 where its weight is 0.
    """

    loss: torch.Tensor
    reconstruction: torch.Tensor
    divergence: torch.Tensor
    classification: torch.Tensor
    attention: torch.Tensor
    cycle: torch.Tensor

    def named(self) -> dict[str, torch.Tensor]:
        """Return the terms by name, detached."""
        return {name: getattr(self, name).detach() for name in TERM_NAMES}


TERM_NAMES = ("loss", "reconstruction", "divergence", "classification", "attention", "cycle")

SMALLEST_SQUARE = 1e-6
"""Of all latents of a batch together, so that latents of zero have an error of zero."""


def kl_divergence(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)), nats, mean over all entries of `[N, L]`."""
    return 0.5 * (mu.square() + logvar.exp() - logvar - 1.0).mean()


def masked_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float
) -> torch.Tensor:
    """Return the mean cross-entropy over rows with label >= 0; 0 without such rows."""
    total = functional.cross_entropy(
        logits, labels, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (labels >= 0).sum().clamp_min(1)


def cycle_error(model: Autoencoder, output: Output) -> torch.Tensor:
    """Return how badly drawings are read back: ||E(D(z)) - mu||^2 / ||mu||^2 over the batch.

    D(z) is the batch's own reconstruction, of a sample z near mu. mu is the fixed goal: reading
    and drawing have to meet it. Half of the images are read again, which does as well as all.

    Args:
        model: whose encoder E and decoder D are meant.
        output: of the model, images in random order.
    """
    count = (len(output.mu) + 1) // 2
    again, _ = model.encode(output.reconstruction[:count])
    goal = output.mu[:count].detach()
    return (again - goal).square().sum() / goal.square().sum().clamp_min(SMALLEST_SQUARE)


def objective(
    output: Output,
    target: torch.Tensor,
    labels: torch.Tensor,
    config: ObjectiveConfig,
    attention: tuple[int, torch.Tensor],
    cycle: torch.Tensor,
) -> Terms:
    """Return the named terms of one batch.

    Args:
        output: of the model for the changed input.
        target: `[N, C, H, W] float32 in [0, 1]`, what should be reconstructed.
        labels: `[N] int64`, -1 where unlabelled.
        config: weights of the terms.
        attention: stage (0, 1 or 2) and the model's attention logits.
        cycle: of `cycle_error`, or 0.
    """
    stage, logits = attention
    penalty = target.new_zeros(())
    weight: torch.Tensor | None = None
    if stage == 1:
        weight = stage_one_weights(logits)
        penalty = mean_penalty(weight)
    elif stage == 2:
        weight = stage_two_weights(logits)
    reconstruction = 1.0 - ssim(output.reconstruction, target, weight).mean()
    divergence = kl_divergence(output.mu, output.logvar)
    classification = masked_cross_entropy(output.logits, labels, config.label_smoothing)
    loss = (
        reconstruction
        + config.beta * divergence
        + config.class_weight * classification
        + config.attention.penalty * penalty
        + config.cycle_weight * cycle
    )
    return Terms(loss, reconstruction, divergence, classification, penalty, cycle)
