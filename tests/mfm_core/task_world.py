"""Images with targets of all four kinds of tasks, drawn in memory."""

from __future__ import annotations

import numpy as np

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import (
    AugmentationConfig,
    ImageConfig,
    LearningConfig,
    ModelConfig,
    ObjectiveConfig,
    TaskConfig,
    TrainingConfig,
)
from mfm_core.dataset import ImageSet
from mfm_core.tasks import UNKNOWN, encode_labels, slices_of
from tests.mfm_core.mimeta_world import KINDS, TARGETS, labels_of, pictures

IMAGE = ImageConfig(size_px=32)
MODEL = ModelConfig(widths=(16, 32), depths=(1, 1), groups=2, norm_channels=8, latent_channels=4)
LEARNING = LearningConfig(
    objective=ObjectiveConfig(class_weight=4.0, cycle_weight=0.0),
    augmentation=AugmentationConfig(
        rotation_deg=0, scale=0, shift=0, perspective=0, flip_probability=0, erase_boxes=0
    ),
    training=TrainingConfig(
        batch_size=8, steps_per_round=3, warmup_steps=0, learning_rate=0.01, ema_decay=0.5
    ),
)
TASKS = {
    f"toy/{kind}": TaskConfig.model_validate({"target": TARGETS[kind], "labels": KINDS[kind]})
    for kind in TARGETS
}
OUTPUTS = sum(task.outputs for task in TASKS.values())


def task_images(count: int = 48, seed: int = 0, only: tuple[str, ...] = tuple(TARGETS)) -> ImageSet:
    """Return images whose square grows with row % 4; tasks outside `only` are unknown."""
    targets = np.full((count, OUTPUTS), UNKNOWN, dtype=np.uint8)
    for name, part in slices_of(TASKS).items():
        kind = name.partition("/")[2]
        if kind in only:
            targets[:, part] = encode_labels(TASKS[name], labels_of(kind, count))
    rows = np.arange(count)
    return ImageSet(
        images=pictures(count, 32, 1, seed)[:, None],
        labels=np.full(count, -1, dtype=np.int64),
        attributes=np.zeros((count, 0), dtype=np.int64),
        patients=rows,
        splits=np.array([{4: 1, 5: 2}.get(row % 6, 0) for row in rows], dtype=np.int64),
        targets=targets,
    )


def new_model(seed: int = 0) -> Autoencoder:
    return build_autoencoder(MODEL, IMAGE, OUTPUTS, seed)
