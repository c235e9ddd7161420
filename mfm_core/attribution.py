"""Baselines from the literature, through captum: Grad-CAM and integrated gradients.

Both mark the places of the image that speak for the target; neither draws what would have to
change. They explain s(E(x)), the log odds of the target after encoding, so that they answer the
same question as the decoding methods.

- Grad-CAM (Selvaraju et al., 2017, section 3) on the last stage of the encoder: positive part of
  the stage's output weighted by its mean gradients, enlarged to the image. What the linear patch
  path reads goes round that stage and is not seen; on a model whose units have learnt nothing the
  map is zero.
- Integrated gradients (Sundararajan et al., 2017, equation 1) from the decoded mean of all
  patients, not from black: on a black image every normalisation divides by nothing, and dark
  findings could not be marked. Its sum is s(E(x)) - s(E(x0)) but for the error of the quadrature.

What crosses the hospital's boundary: nothing.
"""

from __future__ import annotations

import numpy as np
import torch

from mfm_core.atlas import Atlas
from mfm_core.autoencoder import Autoencoder
from mfm_core.devices import to_array, to_device
from mfm_core.question import Asked, Explanation, Question, ask, reading
from mfm_core.sweep import Pixels

QUADRATURE_STEPS = 32
"""Points of the Gauss-Legendre quadrature along the way from the mean image."""

BATCH = 16
"""Images of one pass of integrated gradients, which bounds its memory."""


def grad_cam(model: Autoencoder, atlas: Atlas, image: Pixels, question: Question) -> Explanation:
    """Return where the last stage of the encoder speaks for the target.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the question does not fit; all reasons at once.
    """
    from captum.attr import LayerAttribution, LayerGradCam  # type: ignore[import-untyped]  # captum's own

    asked = ask(model, atlas, image, question)
    with reading(model):
        layer = model.encoder.stages[-1]
        method = LayerGradCam(lambda pixels: _score(model, asked, pixels), layer)
        coarse = method.attribute(asked.picture, relu_attributions=True).detach()
    size = tuple(asked.picture.shape[-2:])
    map_ = LayerAttribution.interpolate(coarse, size, interpolate_mode="bilinear")
    saliency = to_array(map_[0].sum(dim=0).clamp_min(0).float())
    return Explanation("grad_cam", question, image, np.ascontiguousarray(saliency))


def integrated_gradients(
    model: Autoencoder, atlas: Atlas, image: Pixels, question: Question
) -> Explanation:
    """Return how much each pixel adds to the target's log odds, by size.

    `figures` holds the log odds of image and mean image and `completeness_gap`, by how much the
    sum of the signed map misses their difference.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
        DataError: the question does not fit; all reasons at once.
    """
    asked = ask(model, atlas, image, question)
    start = mean_image(model, atlas)
    signed = evidence_from(model, asked, start)
    with reading(model), torch.no_grad():
        first = float(_score(model, asked, start))
        last = float(_score(model, asked, asked.picture))
    figures = {
        "log_odds": last,
        "mean_image_log_odds": first,
        "completeness_gap": abs(float(signed.double().sum()) - (last - first)),
    }
    saliency = to_array(signed[0].sum(dim=0).abs().float())
    return Explanation("integrated_gradients", question, image, saliency, figures=figures)


def evidence_from(model: Autoencoder, asked: Asked, start: torch.Tensor) -> torch.Tensor:
    """Return `[1, C, H, W] float32`: what each pixel adds to the target's log odds, with its sign.

    Args:
        model: the autoencoder.
        asked: question and picture.
        start: `[1, C, H, W] float32 in [0, 1]`, the picture that the way begins at.
    """
    from captum.attr import IntegratedGradients

    with reading(model):
        method = IntegratedGradients(lambda pixels: _score(model, asked, pixels))
        signed: torch.Tensor = method.attribute(
            asked.picture,
            baselines=start,
            n_steps=QUADRATURE_STEPS,
            method="gausslegendre",
            internal_batch_size=BATCH,
        )
    return signed.detach()


def mean_image(model: Autoencoder, atlas: Atlas) -> torch.Tensor:
    """Return `[1, C, H, W] float32 in [0, 1]`, the drawn mean latent of all patients."""
    mean = atlas.counts @ atlas.means / atlas.counts.sum()
    with reading(model), torch.no_grad():
        return model.decode(to_device(mean.astype(np.float32), model)[None]).clamp(0, 1)


def _score(model: Autoencoder, asked: Asked, pixels: torch.Tensor) -> torch.Tensor:
    latent, _ = model.encode(pixels)
    return asked.sides.score(asked.sides.judge(latent))
