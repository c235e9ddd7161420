"""Two-stage pixel attention (paper section 2.3.2), bounded.

Stage one learns a weight map W with a penalty that holds its mean near 1; stage two weighs the
loss with W* = 1 - W, so that pixels which the autoencoder finds hard count more. The paper's
formulas cannot be used as written: the loss `mean(W e) + lambda (mean(W) - 1)^2` pins only the
mean, so W grows without bound on easy pixels and falls without bound on hard ones, and `1 - W`
has mean near 0 with negative weights, which would reward errors. Here W = 2 sigmoid(a) lies in
(0, 2) with W = 1 at the start, and W* = 2 - W (that is 1 - W moved up by 1, which makes it
non-negative) divided by its own mean. Both means are taken where the loss uses the map, over the
centres of whole SSIM windows (`window_centres`): a border of 5 pixels has no part in the error, so
it must not pay the penalty either. The map crosses the boundary as part of the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.devices import to_array
from mfm_core.ssim import window_centres

if TYPE_CHECKING:
    from mfm_core.autoencoder import Autoencoder


def stage_one_weights(logits: torch.Tensor) -> torch.Tensor:
    """Return W = 2 sigmoid(a), `[1, 1, H, W]` in (0, 2); zeros give 1 everywhere."""
    return 2.0 * torch.sigmoid(logits)


def mean_penalty(weights: torch.Tensor) -> torch.Tensor:
    """Return (mean(W) - 1)^2, a scalar: what holds the mean of stage one near 1.

    The mean is over the window centres of W `[..., H, W]`, sides of at least 11 pixels.
    """
    return (window_centres(weights).mean() - 1.0) ** 2


def stage_two_weights(logits: torch.Tensor) -> torch.Tensor:
    """Return W* = (1 - W + 1) / mean(1 - W + 1), `[1, 1, H, W]` in [0, inf), detached.

    The mean is over the window centres, where W* then has mean 1.
    2 - 2 sigmoid(a) = 2 sigmoid(-a) keeps its precision where W saturates.
    """
    raised = 2.0 * torch.sigmoid(-logits.detach())
    return raised / window_centres(raised).mean().clamp_min(torch.finfo(raised.dtype).tiny)


def attention_maps(model: Autoencoder) -> NDArray[np.float32] | None:
    """Return W and W* `[2, H, W]`, how much each pixel counted in either stage; None without any.

    The border that is no centre of a whole window has no part in the error; it is 1 here.
    """
    if not bool(model.attention_logits.any()):
        return None
    logits = model.attention_logits.detach()
    found: NDArray[np.float32] = np.ones((2, *logits.shape[-2:]), dtype=np.float32)
    for stage, weights in enumerate((stage_one_weights(logits), stage_two_weights(logits))):
        inner = to_array(window_centres(weights))[0, 0]
        border = (found.shape[-1] - len(inner)) // 2
        found[stage, border:-border, border:-border] = inner
    return found
