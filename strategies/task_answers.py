"""What a multi-task pre-training sends: the change of the weights, counts per task, figures.

The shared autoencoder is the mean of the sites' changes weighted by training images, as in every
run. The rows of the head that belong to a task are the mean over the sites that have the task,
weighted by its images there: a site multiplies its change of these rows by the task's share of its
images, and the server divides the sum by the task's share of all images. So one update vector is
enough, rows of a task that a site has not are zeros, and masks of a secure sum fit as well.

What crosses the hospital's boundary: images per task, summed validation losses per task, test
counts per task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mfm_core.dataset import ImageSet
from mfm_core.errors import UpdateRejected
from mfm_core.inference import Inference
from mfm_core.sums import Array, Schema, Sum
from mfm_core.tasks import UNKNOWN, Tasks, slices_of, task_loss_sum, task_metric_sum

TASK_IMAGES = "task.images"
BEFORE, LOSS = "val.", "loss."
ROUNDING = 1e-6

Numbers = TypeVar("Numbers", NDArray[np.float32], NDArray[np.float64])


def task_training_sum(
    validation: Sum, counts: Array, terms: Mapping[str, float], images: int
) -> Sum:
    """Return what a training reply holds beside the update.

    Args:
        validation: `task_loss_sum` of the weights *before* the round on the validation images.
        counts: `[T]` training images per task.
        terms: mean loss terms of the local training.
        images: the site's training images, the weight of its terms.
    """
    arrays = {f"{BEFORE}{name}": array for name, array in validation.arrays.items()}
    arrays |= {f"{LOSS}{name}": np.array([value * images]) for name, value in terms.items()}
    return Sum({**arrays, TASK_IMAGES: counts})


def empty_task_training(tasks: Tasks, terms: Mapping[str, float]) -> Sum:
    """Return the training Sum of a site with nothing."""
    validation = task_loss_sum(tasks, nobody(tasks), np.zeros(0, np.int64), _unseen(tasks, 0))
    return task_training_sum(validation, np.zeros(len(tasks)), terms, 1)


def empty_task_metrics(tasks: Tasks, replicates: int) -> Sum:
    """Return the test figures of a site with one picture that no task knows."""
    rows = np.zeros(1, dtype=np.int64)
    return task_metric_sum(tasks, nobody(tasks), rows, _unseen(tasks, 1), (replicates, 0))


def nobody(tasks: Tasks) -> ImageSet:
    """Return one black picture without labels."""
    one = np.zeros(1, dtype=np.int64)
    width = sum(task.outputs for task in tasks.values())
    return ImageSet(
        images=np.zeros((1, 1, 1, 1), dtype=np.uint8),
        labels=one - 1,
        attributes=np.zeros((1, 0), dtype=np.int64),
        patients=one,
        splits=one,
        targets=np.full((1, width), UNKNOWN, dtype=np.uint8),
    )


def _unseen(tasks: Tasks, count: int) -> Inference:
    width = sum(task.outputs for task in tasks.values())
    black = np.zeros((count, width), dtype=np.float32)
    return Inference(black, black, np.zeros(count, dtype=np.float32))


def rows_in_weights(schema: Schema, tasks: Tasks) -> list[tuple[slice, slice]]:
    """Return per task where the weights and the biases of its rows lie in the flat vector."""
    starts, start = {}, 0
    for name, shape in schema:
        starts[name] = (start, shape)
        start += math.prod(shape)
    weight, shape = starts["head.weight"]
    bias, _ = starts["head.bias"]
    return [
        (
            slice(weight + part.start * shape[1], weight + part.stop * shape[1]),
            slice(bias + part.start, bias + part.stop),
        )
        for part in slices_of(tasks).values()
    ]


def with_scaled_rows(schema: Schema, tasks: Tasks, update: Numbers, factors: Array) -> Numbers:
    """Return the update `[D]` with the rows of each task's head times its factor `[T]`."""
    scaled = update.copy()
    for parts, factor in zip(rows_in_weights(schema, tasks), factors, strict=True):
        for part in parts:
            scaled[part] = (scaled[part] * factor).astype(update.dtype)
    return scaled


def site_factors(counts: Array, images: int) -> Array:
    """Return `[T]` what a site multiplies the rows of each task with, from its own counts."""
    return counts / max(1, images)


def pooled_factors(counts: Array, images: int) -> Array:
    """Return `[T]` what the server multiplies the pooled rows with; 0 for a task nobody has."""
    return np.divide(float(images), counts, out=np.zeros_like(counts), where=counts > 0)


def check_task_counts(total: Sum, images: int, largest: int) -> None:
    """Refuse counts per task that the declared images cannot give.

    Raises:
        UpdateRejected: "counts".
    """
    bounds = {TASK_IMAGES: images, f"{BEFORE}images": largest}
    for name, most in bounds.items():
        found = total[name]
        if found.min(initial=0.0) < -ROUNDING or found.max(initial=0.0) > most + ROUNDING:
            raise UpdateRejected("counts", f"{name}: expected 0 to {most} images per task")
    similar, seen = total[f"{BEFORE}ssim"]
    if not -ROUNDING <= seen <= largest or abs(similar) > seen + ROUNDING:
        raise UpdateRejected("counts", f"{BEFORE}ssim: outside -1 to 1, or too many images")


def check_task_rows(tasks: Tasks, schema: Schema, update: NDArray[np.float32], total: Sum) -> None:
    """Refuse an update that moves the head of a task of which the site declares no image.

    Raises:
        UpdateRejected: "counts".
    """
    rows = zip(sorted(tasks), rows_in_weights(schema, tasks), total[TASK_IMAGES], strict=True)
    for name, parts, count in rows:
        if count <= ROUNDING and any(update[part].any() for part in parts):
            raise UpdateRejected("counts", f"{name}: its head moves without one image of it")
