"""What the model says about clean images: latents, logits and reconstruction quality.

Nothing here crosses the hospital's boundary; sums made of it do (`latent_sums`, `evaluation`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.autoencoder import Autoencoder
from mfm_core.dataset import ImageSet
from mfm_core.devices import device_of, to_array
from mfm_core.ssim import ssim


@dataclass(frozen=True)
class Inference:
    """The model's answers, one row an image in the order of the indices.

    Attributes:
        mu: `[N, L] float32` latent means, never samples.
        logits: `[N, K] float32`.
        ssim: `[N] float32`, of the reconstruction from mu against the image itself.
    """

    mu: NDArray[np.float32]
    logits: NDArray[np.float32]
    ssim: NDArray[np.float32]


@torch.no_grad()
def latents_of(
    model: Autoencoder, images: ImageSet, indices: NDArray[np.int64], batch_size: int = 64
) -> NDArray[np.float32]:
    """Return `[N, L]`, the latents that `infer` gives, the same bits, without drawing an image."""
    was_training = model.training
    model.eval()
    mu = np.empty((len(indices), model.latent_size), dtype=np.float32)
    for start in range(0, len(indices), batch_size):
        rows = slice(start, start + batch_size)
        mu[rows] = to_array(model.encode(images.batch(indices[rows], device_of(model)))[0])
    model.train(was_training)
    return mu


@torch.no_grad()
def infer(
    model: Autoencoder, images: ImageSet, indices: NDArray[np.int64], batch_size: int = 64
) -> Inference:
    """Return latents, logits and SSIM of the images at `indices`, unchanged and in order."""
    was_training = model.training
    model.eval()
    mu = np.empty((len(indices), model.latent_size), dtype=np.float32)
    logits = np.empty((len(indices), model.head.out_features), dtype=np.float32)
    quality = np.empty(len(indices), dtype=np.float32)
    for start in range(0, len(indices), batch_size):
        rows = slice(start, start + batch_size)
        batch = images.batch(indices[rows], device_of(model))
        output = model(batch)
        mu[rows] = to_array(output.mu)
        logits[rows] = to_array(output.logits)
        quality[rows] = to_array(ssim(output.reconstruction, batch))
    model.train(was_training)
    return Inference(mu, logits, quality)
