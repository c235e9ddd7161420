"""Canaries: images nobody else has, put into a training run, looked for in what comes out.

Random pictures with random labels are drawn; half of them, chosen by lot, are inserted as patients
of their own, the other half never. After training each canary is ranked by its loss among those
never inserted. Exposure (Carlini et al. 2019) is log2(never inserted + 1) - log2(rank): 0 bits for
the worst rank, log2(never inserted + 1) for the best; a model that learnt nothing of it gives 1.44
bits on average. The insertion is decided by lot, so the membership AUC is an unbiased audit of the
training procedure, in its worst case: pictures far from all others.
What crosses the hospital's boundary: nothing; the trained model is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mfm_core.autoencoder import Autoencoder
from mfm_core.dataset import SPLITS, ImageSet
from mfm_core.inference import infer
from mfm_core.leak_figures import Scores, Strength, strength_of

Indices = NDArray[np.int64]

COARSE = 8
"""Side of the random pattern that becomes a canary."""


@dataclass(frozen=True)
class Exposure:
    """What became of the canaries.

    Attributes:
        strength: per part (head, autoencoder), of telling inserted from never inserted.
        bits: per part, mean exposure.
        most_bits: the largest exposure that so many canaries can show.
        chance_bits: mean exposure of a model that learnt nothing of them.
    """

    strength: dict[str, Strength]
    bits: dict[str, float]
    most_bits: float
    chance_bits: float


def draw_canaries(like: ImageSet, count: int, classes: int, seed: int) -> ImageSet:
    """Return `count` random pictures with random labels, a patient each, all in train."""
    generator = np.random.default_rng(seed)
    channels, size = like.images.shape[1], like.images.shape[2]
    coarse = torch.from_numpy(generator.random((count, channels, COARSE, COARSE)))
    smooth = functional.interpolate(coarse, size=(size, size), mode="bilinear").numpy()
    pixels = np.clip(255 * (0.5 + 1.2 * (smooth - 0.5)), 0, 255).round().astype(np.uint8)
    return ImageSet(
        images=pixels,
        labels=generator.integers(classes, size=count),
        attributes=np.full((count, like.attributes.shape[1]), -1, dtype=np.int64),
        patients=np.arange(count) + int(like.patients.max(initial=-1)) + 1,
        splits=np.full(count, SPLITS.index("train"), dtype=np.int64),
    )


def with_canaries(images: ImageSet, rows: Indices, canaries: ImageSet, count: int) -> ImageSet:
    """Return the images at `rows` and the first `count` canaries."""
    return ImageSet(
        images=np.concatenate([images.images[rows], canaries.images[:count]]),
        labels=np.concatenate([images.labels[rows], canaries.labels[:count]]),
        attributes=np.concatenate([images.attributes[rows], canaries.attributes[:count]]),
        patients=np.concatenate([images.patients[rows], canaries.patients[:count]]),
        splits=np.concatenate([images.splits[rows], canaries.splits[:count]]),
    )


def insert_canaries(
    images: ImageSet,
    rows: Indices,
    plan: tuple[int, int, int],
    trainer: Callable[[ImageSet], Autoencoder],
) -> Exposure:
    """Insert canaries into a training run and return their exposure.

    Args:
        images: the site's images.
        rows: those that are learnt from beside the canaries.
        plan: canaries inserted (as many are never inserted), classes, seed.
        trainer: returns a model trained on all of an image set.
    """
    count, classes, seed = plan
    canaries = draw_canaries(images, 2 * count, classes, seed)
    scores = canary_scores(trainer(with_canaries(images, rows, canaries, count)), canaries)
    strength = {part: strength_of(s[:count], s[count:]) for part, s in scores.items()}
    bits = {part: float(exposures(s[:count], s[count:]).mean()) for part, s in scores.items()}
    return Exposure(strength, bits, float(np.log2(count + 1)), chance_bits(count))


def canary_scores(model: Autoencoder, canaries: ImageSet) -> dict[str, Scores]:
    """Return per part how well the model does on each canary, `[N]`."""
    rows = np.arange(len(canaries))
    seen = infer(model, canaries, rows)
    logits = seen.logits.astype(np.float64)
    total = np.logaddexp.reduce(logits, axis=1)
    head = logits[rows, canaries.labels] - total
    return {"head": head, "autoencoder": seen.ssim.astype(np.float64)}


def exposures(inserted: Scores, never: Scores) -> Scores:
    """Return `[N]` exposure in bits of each inserted canary among those never inserted."""
    ranks = 1 + (never[None, :] >= inserted[:, None]).sum(axis=1)
    bits: Scores = np.log2(len(never) + 1) - np.log2(ranks)
    return bits


def chance_bits(never: int) -> float:
    """Return the mean exposure where every rank is as likely as any other."""
    return float(np.log2(never + 1) - np.log2(np.arange(1, never + 2)).mean())
