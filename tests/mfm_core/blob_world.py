"""A world small enough to be solved without training: bright blobs with known masks.

The autoencoder's linear path starts from a PCA of patches and its head is the closed-form one, so
the real model, atlas and metrics run in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.atlas import Atlas, atlas_from
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.checkpoint import encoder_hash
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig
from mfm_core.dataset import ImageSet
from mfm_core.head import fit_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.patches import patch_moments, start_linear_path

CLASSES = ("clear", "left blob", "right blob")
SIDE = 32


@dataclass(frozen=True)
class World:
    model: Autoencoder
    atlas: Atlas
    images: ImageSet
    masks: NDArray[np.bool_]
    ontology: OntologyConfig

    def image(self, index: int) -> NDArray[np.float32]:
        return self.images.batch(np.array([index]))[0].numpy()

    def first(self, label: int) -> int:
        return int(np.flatnonzero(self.images.labels == label)[0])


def draw_blobs(count: int, seed: int) -> tuple[ImageSet, NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    labels = np.arange(count) % len(CLASSES)
    images = np.empty((count, 1, SIDE, SIDE), dtype=np.uint8)
    masks = np.zeros((count, SIDE, SIDE), dtype=bool)
    for index, label in enumerate(labels):
        tilt = rng.normal(0, 0.15)
        picture = 0.35 + tilt * (rows / SIDE - 0.5) + rng.normal(0, 0.01, (SIDE, SIDE))
        if label:
            centre = (16 + rng.normal(0, 1), (8 if label == 1 else 24) + rng.normal(0, 1))
            far = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2
            picture = picture + 0.35 * np.exp(-far / 18)
            masks[index] = far < 18
        images[index, 0] = (np.clip(picture, 0, 1) * 255).round()
    zeros = np.zeros((count, 0), dtype=np.int64)
    splits = np.where(np.arange(count) % 10 < 6, 0, 2).astype(np.int64)
    return ImageSet(images, labels.astype(np.int64), zeros, np.arange(count), splits), masks


@cache
def blob_world(empty_class: bool = False) -> World:
    torch.set_num_threads(1)
    images, masks = draw_blobs(180, seed=3)
    names = (*CLASSES, "never seen") if empty_class else CLASSES
    ontology = OntologyConfig(classes=names)
    shape = ModelConfig(widths=(32, 64), depths=(1, 1), latent_channels=16)
    size = ImageConfig(size_px=SIDE)
    model = build_autoencoder(shape, size, len(names), seed=0)
    train = images.select("train")
    start_linear_path(model, patch_moments(images, train, shape))
    mu = infer(model, images, train).mu
    labels, patients = images.labels[train], images.patients[train]
    total = latent_sum(mu, labels, images.attributes[train], patients, ontology)
    head = fit_heads(atlas_from(total, ontology, ""), shrinkages=(0.3,))[0].cooled(8.0)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))
    model.eval()
    return World(model, atlas_from(total, ontology, encoder_hash(model)), images, masks, ontology)
