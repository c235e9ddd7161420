"""One local training: a fixed number of optimiser steps, the same bits for the same seed.

Every call stands alone: a fresh AdamW, generators seeded by the caller, a learning rate that
follows one cosine over the whole run (`Schedule`), and an exponential moving average of the
weights as the result. The number of steps is fixed, never the time, so a run can be repeated.
What crosses the hospital's boundary: the weights and the mean of each loss term.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder, Output
from mfm_core.config import LearningConfig, TrainingConfig
from mfm_core.control_variates import ControlVariate
from mfm_core.dataset import ImageSet
from mfm_core.devices import Precision, arithmetic, device_of, rounding, to_array, to_device
from mfm_core.errors import DataError
from mfm_core.memory import keep_memory
from mfm_core.objective import TERM_NAMES, Terms, cycle_error, objective
from mfm_core.optimiser import FlatOptimiser


@dataclass(frozen=True)
class Schedule:
    """Where a call stands in the whole run.

    Attributes:
        first_step: optimiser steps of this run before the call.
        total_steps: optimiser steps of the whole run at one site.
    """

    first_step: int
    total_steps: int


def learning_rate(config: TrainingConfig, schedule: Schedule, step: int) -> float:
    """Return the rate of a call's step: cosine over the run times a linear warm-up in the call."""
    part = min(1.0, (schedule.first_step + step) / max(1, schedule.total_steps))
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * part))


def ema_decay(ceiling: float, step: int) -> float:
    """Return the ramped decay min(ceiling, (1 + t) / (10 + t)) of step t."""
    return min(ceiling, (1.0 + step) / (10.0 + step))


def shuffled_batches(
    indices: NDArray[np.int64], batch_size: int, steps: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield `steps` full batches: shuffled epochs, one after the other without a gap.

    A site with fewer images than a batch sees an image several times in one batch, each time
    with another augmentation.
    """
    queue = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(queue) < batch_size:
            queue = np.concatenate([queue, generator.permutation(indices)])
        yield queue[:batch_size]
        queue = queue[batch_size:]


def mixed_batches(
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
    config: TrainingConfig,
    steps: int,
    generator: np.random.Generator,
) -> Iterator[NDArray[np.int64]]:
    """Yield `steps` batches of which at least `config.labelled_share` is labelled.

    Where few images are labelled they come again sooner than the others; without the need, or
    without either kind, these are the batches of `shuffled_batches`.

    Args:
        indices: `[M]`, images to learn from.
        labels: `[M]` their labels, -1 for none.
        config: batch size and share.
        steps: number of batches.
        generator: of all choices.
    """
    size, bare = config.batch_size, indices[labels < 0]
    known, wanted = indices[labels >= 0], math.ceil(config.labelled_share * size)
    if len(known) * size >= wanted * len(indices) or not len(known):
        yield from shuffled_batches(indices, size, steps, generator)
        return
    first = shuffled_batches(known, wanted, steps, generator)
    if wanted == size:
        yield from first
        return
    for pair in zip(first, shuffled_batches(bare, size - wanted, steps, generator), strict=True):
        yield generator.permutation(np.concatenate(pair))


def train(  # noqa: PLR0913 - what differs from call to call stays visible as keywords
    model: Autoencoder,
    images: ImageSet,
    indices: NDArray[np.int64],
    learning: LearningConfig,
    *,
    schedule: Schedule,
    steps: int,
    seed: int,
    attention_stage: int = 0,
    proximal_mu: float = 0.0,
    precision: Precision = "float32",
    control: ControlVariate | None = None,
) -> dict[str, float]:
    """Train `model` in place; return the mean of every loss term over the steps.

    Afterwards the model holds the moving average of its weights. The result depends on the
    arguments alone, to the bit on one CPU thread. The model learns where its weights are.

    Args:
        model: weights to start from; they are also the anchor of the proximal term.
        images: the site's images.
        indices: `[M] int64`, which of them to learn from.
        learning: objective, augmentation and optimiser.
        schedule: position in the run, for the learning rate.
        steps: number of optimiser steps.
        seed: of batches, augmentation and posterior samples.
        attention_stage: 0 no pixel weights, 1 learn them, 2 use them (`mfm_core.attention`).
        proximal_mu: FedProx weight mu of mu/2 |w - w0|^2.
        precision: of the products; weights, losses and sums are float32 whatever is said.
        control: corrects every gradient and is told their mean (SCAFFOLD).

    Raises:
        ConfigError: the device has no such precision.
        DataError: `indices` is empty.
        ValueError: `attention_stage` is not 0, 1 or 2.
    """
    if len(indices) == 0:
        raise DataError("training", ["the train split has no image; add images or leave the run"])
    if attention_stage not in {0, 1, 2}:
        raise ValueError(f"attention_stage is 0, 1 or 2, found {attention_stage}")
    keep_memory()
    model.attention_logits.requires_grad_(attention_stage == 1)
    rates = [learning_rate(learning.training, schedule, step) for step in range(steps)]
    lesson = _Lesson(images, indices, learning, attention_stage, precision, control)
    try:
        with arithmetic(device_of(model), precision):
            totals = lesson.teach(model.train(), rates, seed, proximal_mu)
    finally:
        model.attention_logits.requires_grad_(False)
        model.eval()
    return {name: value / max(1, steps) for name, value in totals.items()}


@dataclass(frozen=True)
class _Lesson:
    """What is learnt: images, which of them, how, and with which pixel weights."""

    images: ImageSet
    indices: NDArray[np.int64]
    learning: LearningConfig
    stage: int
    precision: Precision
    control: ControlVariate | None

    def teach(
        self, model: Autoencoder, rates: list[float], seed: int, proximal_mu: float
    ) -> dict[str, float]:
        """Take one optimiser step per learning rate and return the summed terms."""
        config = self.learning.training
        generator = torch.Generator().manual_seed(seed)
        shuffler = np.random.default_rng(seed)
        labels = self.images.labels[self.indices]
        batches = mixed_batches(self.indices, labels, config, len(rates), shuffler)
        totals = torch.zeros(len(TERM_NAMES), dtype=torch.float64, device=device_of(model))
        proximal = 0.0
        with FlatOptimiser(model, config, proximal_mu, self.control) as optimiser:
            for step, (rate, batch) in enumerate(zip(rates, batches, strict=True)):
                optimiser.clear()
                terms = self._terms(model, batch, generator)
                terms.loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                proximal += optimiser.step(rate, ema_decay(config.ema_decay, step))
                totals += torch.stack(list(terms.named().values())).double()
        named = dict(zip(TERM_NAMES, to_array(totals).tolist(), strict=True))
        return {**named, "proximal": proximal} if proximal_mu > 0 else named

    def _terms(
        self, model: Autoencoder, batch: NDArray[np.int64], generator: torch.Generator
    ) -> Terms:
        """Return the terms of one batch, changed at random."""
        labels = to_device(self.images.labels[batch], model)
        settings, weights = self.learning.augmentation, self.learning.objective
        changed, target = augment(self.images.batch(batch, labels.device), settings, generator)
        attention = (self.stage, model.attention_logits)
        with rounding(labels.device, self.precision):
            output: Output = model(changed, generator)
            cycle = output.mu.new_zeros(())
            if weights.cycle_weight > 0:
                cycle = cycle_error(model, output)
        return objective(output, target, labels, weights, attention, cycle)
