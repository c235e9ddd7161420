"""The blob world seen in two views: PA films have a bright bar at the top, AP films none.

Two thirds of the blobs are AP and two thirds of the clear images PA, so that a difference of
marginal means would carry blobs.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from mfm_core.atlas import atlas_from
from mfm_core.autoencoder import build_autoencoder
from mfm_core.checkpoint import encoder_hash
from mfm_core.config import ImageConfig, ModelConfig, OntologyConfig
from mfm_core.head import fit_heads
from mfm_core.inference import infer
from mfm_core.latent_sums import latent_sum
from mfm_core.patches import patch_moments, start_linear_path
from tests.mfm_core.blob_world import CLASSES, SIDE, World, draw_blobs

VIEWS = ("AP", "PA")
SITES = ("north", "south", "west")


@cache
def view_world() -> World:
    torch.set_num_threads(1)
    images, masks = draw_blobs(360, seed=5)
    rng = np.random.default_rng(1)
    views = (rng.random(360) < np.where(images.labels == 0, 2 / 3, 1 / 3)).astype(np.int64)
    pixels = images.images.copy()
    pixels[views == 1, 0, 2:6] = np.minimum(pixels[views == 1, 0, 2:6] + 60.0, 255).astype(np.uint8)
    sites = rng.integers(0, 3, 360)
    attributes = np.stack([views, sites], axis=1)
    images = replace(images, images=pixels, attributes=attributes)
    ontology = OntologyConfig(classes=CLASSES, attributes={"view": VIEWS, "site": SITES})
    shape = ModelConfig(widths=(32, 64), depths=(1, 1), latent_channels=16)
    model = build_autoencoder(shape, ImageConfig(size_px=SIDE), 3, seed=0)
    train = images.select("train")
    start_linear_path(model, patch_moments(images, train, shape))
    mu, labels = infer(model, images, train).mu, images.labels[train]
    total = latent_sum(mu, labels, attributes[train], images.patients[train], ontology)
    head = fit_heads(atlas_from(total, ontology, ""), shrinkages=(0.3,))[0].cooled(8.0)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))
    model.eval()
    return World(model, atlas_from(total, ontology, encoder_hash(model)), images, masks, ontology)


@cache
def lively_world() -> World:
    """Return the view world with units that take part: their last products are drawn at random.

    The atlas keeps the means of the quiet model under the new encoder's name, which is enough
    for what does not ask whether an answer is right.
    """
    world = view_world.__wrapped__()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in world.model.named_parameters():
            if name.endswith("widen.weight") or name in ("to_latent.weight", "decoder.last.weight"):
                weight.normal_(0, 0.05, generator=generator)
    return replace(world, atlas=replace(world.atlas, encoder_hash=encoder_hash(world.model)))
