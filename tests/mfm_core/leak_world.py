"""Patients with nothing to learn but themselves: smooth random pictures with random labels."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.canaries import draw_canaries
from mfm_core.config import (
    AugmentationConfig,
    ImageConfig,
    LearningConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from mfm_core.dataset import ImageSet
from mfm_core.membership import train_anew
from mfm_core.private_training import PrivateStep, train_privately
from mfm_core.training import Schedule

SIDE, CLASSES = 32, 2
SHAPE = ModelConfig(widths=(16,), depths=(1,), stem=8, latent_channels=8)
PLAIN = AugmentationConfig(
    rotation_deg=0, scale=0, shift=0, perspective=0, flip_probability=0, brightness=0,
    blur_sigma_px=0, noise_std=0, erase_boxes=0, erase_fraction=0,
)  # fmt: skip
LEARNING = LearningConfig(
    objective=ObjectiveConfig(class_weight=3.0, label_smoothing=0, cycle_weight=0),
    augmentation=PLAIN,
    training=TrainingConfig(batch_size=16, learning_rate=0.01, weight_decay=0, ema_decay=0.5),
)
STEPS = 120
NOISE = 16.0


def draw_patients(members: int, others: int, seed: int = 0) -> ImageSet:
    """Return one image a patient; the first are in train, the others in test."""
    none = np.zeros(0, dtype=np.int64)
    empty = ImageSet(np.zeros((0, 1, SIDE, SIDE), np.uint8), none, none[:, None], none, none)
    images = draw_canaries(empty, members + others, CLASSES, seed)
    splits = np.where(np.arange(members + others) < members, 0, 2)
    attributes = np.zeros((members + others, 0), dtype=np.int64)
    return ImageSet(images.images, images.labels, attributes, images.patients, splits)


def fresh() -> Autoencoder:
    torch.set_num_threads(1)
    return build_autoencoder(SHAPE, ImageConfig(size_px=SIDE), CLASSES, 0)


@cache
def leaky() -> tuple[Autoencoder, ImageSet]:
    """Return a model that was trained for long on 24 patients, and these with 40 others."""
    images = draw_patients(24, 40)
    return train_anew(fresh(), images, images.select("train"), LEARNING, STEPS, 0), images


@cache
def private() -> tuple[Autoencoder, ImageSet]:
    """Return what DP-SGD made of the same patients."""
    images, model = draw_patients(24, 40), fresh()
    step = PrivateStep(NOISE, 1.0, 0.5, "patient")
    given = {"schedule": Schedule(0, STEPS), "steps": STEPS, "seed": 1, "privacy": step}
    train_privately(model, images, images.select("train"), LEARNING, **given)
    return model, images
