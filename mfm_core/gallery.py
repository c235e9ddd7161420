"""What a report shows: reconstructions, decoded class means and one sweep per class.

The images are chosen by rule, not by eye: evenly spaced, and for a sweep the image of the class
whose probability is the median of its class. Source: paper figures 2 and 3.
What crosses the hospital's boundary: nothing. These are pictures of patients (or of phantoms);
a coordinator has none and makes the same report with `Pictures(missing=...)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from mfm_core.atlas import Atlas
from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder
from mfm_core.config import AugmentationConfig
from mfm_core.dataset import ImageSet
from mfm_core.explanation import class_shift, decode_class_means
from mfm_core.inference import infer
from mfm_core.sweep import Pixels, Sweep

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


@dataclass(frozen=True)
class Pictures:
    """All that a report draws beside numbers.

    Attributes:
        reconstructions: rows of the reconstruction grid.
        classes: names of the K classes.
        class_means: `[K, C, H, W] float32 in [0, 1]`, NaN for a class without images, or None.
        sweeps: at most one per class.
        missing: why something above is empty, a sentence for the reader.
    """

    reconstructions: tuple[Reconstruction, ...] = ()
    classes: tuple[str, ...] = ()
    class_means: Pixels | None = None
    sweeps: tuple[Sweep, ...] = ()
    missing: str = "This report was made where there are no images, so no picture can be drawn."


def take_pictures(
    model: Autoencoder, atlas: Atlas, images: ImageSet, indices: NDArray[np.int64], seed: int = 0
) -> Pictures:
    """Return the pictures of a report, chosen by rule among `images` at `indices`.

    Args:
        model: the trained autoencoder.
        atlas: class means of the same encoder.
        images: images that may be shown to the reader of the report.
        indices: `[M] int64`, usually the test split.
        seed: of the noise on the shown inputs.

    Raises:
        CheckpointError: the atlas belongs to another encoder.
    """
    sweeps = []
    for name, index in _typical_images(model, atlas, images, indices):
        image = images.batch(np.array([index]))[0].numpy()
        sweeps.append(class_shift(model, atlas, image, name))
    return Pictures(
        reconstructions=_reconstruct(model, images, indices, seed),
        classes=tuple(atlas.ontology.classes),
        class_means=decode_class_means(model, atlas),
        sweeps=tuple(sweeps),
        missing="There was no test image to draw.",
    )


def _typical_images(
    model: Autoencoder, atlas: Atlas, images: ImageSet, indices: NDArray[np.int64]
) -> list[tuple[str, int]]:
    """Return, per class, the image whose probability is the (lower) median of its class."""
    if len(atlas.present) < 2 or not len(indices):
        return []
    probabilities = softmax(infer(model, images, indices).logits.astype(np.float64), axis=1)
    labels = images.labels[indices]
    chosen = []
    for label, name in enumerate(atlas.ontology.classes):
        own = np.flatnonzero(labels == label)
        if len(own) and name in atlas.present:
            order = np.argsort(probabilities[own, label], kind="stable")
            chosen.append((name, int(indices[own[order[(len(own) - 1) // 2]]])))
    return chosen


def _reconstruct(
    model: Autoencoder, images: ImageSet, indices: NDArray[np.int64], seed: int
) -> tuple[Reconstruction, ...]:
    if not len(indices):
        return ()
    order = np.argsort(images.labels[indices], kind="stable")
    spaced = np.linspace(0, len(indices) - 1, min(RECONSTRUCTIONS, len(indices))).round()
    originals = images.batch(indices[order[spaced.astype(np.int64)]])
    generator = torch.Generator().manual_seed(seed)
    damaged, _ = augment(originals, SHOWN_NOISE, generator)
    with torch.inference_mode():
        mu, _ = model.encode(damaged)
        drawn = model.decode(mu).clamp(0, 1)
    rows = zip(originals.numpy(), damaged.numpy(), drawn.numpy(), strict=True)
    return tuple(Reconstruction(*row) for row in rows)
