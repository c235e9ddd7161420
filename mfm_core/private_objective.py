"""The loss of every image on its own: what the objective becomes when no image may touch another.

Three terms of `mfm_core.objective` mix the images of a batch, and each is replaced by its mean
over images of something that one image decides. Cross-entropy is divided by the images, not by the
labelled ones. The attention penalty is counted once per image. The cycle error is a ratio per image
in place of a ratio of sums, and which images are read again is tossed for each on its own, in
place of the first half of the batch. SSIM and KL are means over images as they stand, and
augmentation draws for each image. Where all are labelled and the cycle weight is 0 the mean of
these losses is the plain objective.
Nothing here crosses the hospital's boundary: neither losses nor their means are private.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from mfm_core.attention import stage_one_weights, stage_two_weights
from mfm_core.autoencoder import Autoencoder, Output
from mfm_core.config import ObjectiveConfig
from mfm_core.objective import SMALLEST_SQUARE
from mfm_core.ssim import ssim, window_centres

CYCLE_SHARE = 0.5
"""Probability of an image to be read again; its error then counts 1 / CYCLE_SHARE times."""


def cycle_errors(model: Autoencoder, output: Output, count: int) -> torch.Tensor:
    """Return ||E(D(z)) - mu||^2 / ||mu||^2 of the first `count` images, 0 for the others, `[N]`.

    Args:
        model: whose encoder E and decoder D are meant.
        output: of the model; mu is the fixed goal, as in `mfm_core.objective.cycle_error`.
        count: images that are read again, 0 to N.
    """
    errors = output.mu.new_zeros(len(output.mu))
    if count == 0:
        return errors
    again, _ = model.encode(output.reconstruction[:count])
    goal = output.mu[:count].detach()
    size = goal.square().sum(dim=1).clamp_min(SMALLEST_SQUARE)
    found = (again - goal).square().sum(dim=1) / size / CYCLE_SHARE
    return torch.cat([found, errors[count:]])


def losses_per_image(
    output: Output,
    target: torch.Tensor,
    labels: torch.Tensor,
    config: ObjectiveConfig,
    attention: tuple[int, torch.Tensor],
    cycle: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return the loss (`loss`) and its unweighted terms by name, `[N]` each.

    Args:
        output: of the model for the changed input.
        target: `[N, C, H, W] float32 in [0, 1]`.
        labels: `[N] int64`, -1 where unlabelled.
        config: weights of the terms.
        attention: stage (0, 1 or 2) and a copy of the attention logits per image, `[N, 1, H, W]`.
        cycle: of `cycle_errors`, or zeros.
    """
    stage, logits = attention
    penalty, weight = target.new_zeros(len(target)), None
    if stage == 1:
        weight = stage_one_weights(logits)
        penalty = (window_centres(weight).mean(dim=(1, 2, 3)) - 1.0) ** 2
    elif stage == 2:
        weight = stage_two_weights(logits[:1])
    mu, logvar = output.mu, output.logvar
    terms = {
        "reconstruction": 1.0 - ssim(output.reconstruction, target, weight),
        "divergence": 0.5 * (mu.square() + logvar.exp() - logvar - 1.0).mean(dim=1),
        "classification": functional.cross_entropy(
            output.logits,
            labels,
            ignore_index=-1,
            label_smoothing=config.label_smoothing,
            reduction="none",
        ),
        "attention": penalty,
        "cycle": cycle,
    }
    loss = (
        terms["reconstruction"]
        + config.beta * terms["divergence"]
        + config.class_weight * terms["classification"]
        + config.attention.penalty * penalty
        + config.cycle_weight * cycle
    )
    return {"loss": loss, **terms}
