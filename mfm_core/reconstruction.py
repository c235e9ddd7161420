"""What the model redraws of damaged images: the rows of a report's first picture.

Source: paper figure 2. What crosses the hospital's boundary: nothing. These are pictures of
patients (or of phantoms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder
from mfm_core.config import AugmentationConfig
from mfm_core.dataset import ImageSet
from mfm_core.devices import device_of, to_array
from mfm_core.sweep import Pixels

RECONSTRUCTIONS = 6
"""Images in the grid of reconstructions."""

SHOWN_NOISE = AugmentationConfig(
    rotation_deg=0,
    scale=0,
    shift=0,
    perspective=0,
    flip_probability=0,
    brightness=0,
    blur_sigma_px=0.5,
    noise_std=0.05,
    erase_boxes=1,
    erase_fraction=0.25,
)
"""What the reconstruction grid does to its inputs: the damage of training, without geometry."""


@dataclass(frozen=True)
class Reconstruction:
    """One image, what the model was given and what it drew; each `[C, H, W] float32 in [0, 1]`."""

    original: Pixels
    input: Pixels
    reconstruction: Pixels


def reconstruct(
    model: Autoencoder, images: ImageSet, indices: NDArray[np.int64], seed: int
) -> tuple[Reconstruction, ...]:
    """Return at most RECONSTRUCTIONS rows, evenly spaced over the classes.

    Args:
        model: the trained autoencoder.
        images: images that may be shown to the reader.
        indices: `[M] int64` into `images`.
        seed: of the noise on the inputs.
    """
    if not len(indices):
        return ()
    order = np.argsort(images.labels[indices], kind="stable")
    spaced = np.linspace(0, len(indices) - 1, min(RECONSTRUCTIONS, len(indices))).round()
    originals = images.batch(indices[order[spaced.astype(np.int64)]])
    generator = torch.Generator().manual_seed(seed)
    damaged, _ = augment(originals, SHOWN_NOISE, generator)
    with torch.inference_mode():
        mu, _ = model.encode(damaged.to(device_of(model)))
        drawn = model.decode(mu).clamp(0, 1)
    rows = zip(originals.numpy(), damaged.numpy(), to_array(drawn), strict=True)
    return tuple(Reconstruction(*row) for row in rows)
