"""Weakly supervised multi-task pre-training: one shared autoencoder, one head a task.

Each place of a batch draws a task with a probability proportional to the square root of how many
images it has here, then one of them: large sets teach more than small ones, but not all of it. The
place learns the reconstruction and that task alone. Heads of tasks that have no image here stay
exactly what they were, weight decay included.

Source: paper section 2.4; sampling by size^1/2 after temperature sampling (Arivazhagan et al. 2019,
arXiv:1907.05019). What crosses the hospital's boundary: the weights and the mean of each loss term.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder, Output
from mfm_core.config import LearningConfig
from mfm_core.dataset import ImageSet
from mfm_core.devices import device_of, to_array, to_device
from mfm_core.errors import DataError
from mfm_core.objective import TERM_NAMES, Terms, cycle_error, objective
from mfm_core.optimiser import FlatOptimiser
from mfm_core.tasks import LOSSES, Tasks, known_rows, slices_of, targets_of, task_counts
from mfm_core.training import Schedule, ema_decay, learning_rate

SIZE_POWER = 0.5

Integers = NDArray[np.int64]


def task_shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `[T]` how likely a place of a batch draws each task; 0 without images."""
    weights = counts**SIZE_POWER
    return np.asarray(weights / weights.sum())


def task_batches(
    members: list[Integers], batch_size: int, steps: int, generator: np.random.Generator
) -> Iterator[tuple[Integers, Integers]]:
    """Yield rows `[B]` and the task `[B]` of each place; a task's images come in shuffled epochs.

    Args:
        members: per task the rows that are labelled for it; not all may be empty.
        batch_size: B.
        steps: number of batches.
        generator: of all choices.
    """
    shares = task_shares(np.array([float(len(rows)) for rows in members]))
    queues: list[list[int]] = [[] for _ in members]
    for _ in range(steps):
        tasks = generator.choice(len(members), size=batch_size, p=shares)
        rows = np.empty(batch_size, dtype=np.int64)
        for place, task in enumerate(tasks):
            if not queues[task]:
                queues[task] = generator.permutation(members[task]).tolist()
            rows[place] = queues[task].pop()
        yield rows, tasks


def pretrain(  # noqa: PLR0913 - as in training.train
    model: Autoencoder,
    images: ImageSet,
    indices: Integers,
    learning: LearningConfig,
    *,
    tasks: Tasks,
    schedule: Schedule,
    steps: int,
    seed: int,
    proximal_mu: float = 0.0,
) -> dict[str, float]:
    """Train `model` in place on all tasks; return the mean of every loss term over the steps.

    As `training.train`: a fresh optimiser, the moving average at the end, the same bits for the
    same arguments on one CPU thread. "classification" is the mean loss of the drawn tasks.

    Args:
        model: its head has the rows of all tasks.
        images: with targets.
        indices: `[M] int64`, which of them to learn from.
        learning: objective, augmentation and optimiser.
        tasks: of the run.
        schedule: position in the run, for the learning rate.
        steps: number of optimiser steps.
        seed: of batches, augmentation and posterior samples.
        proximal_mu: FedProx weight mu of mu/2 |w - w0|^2.

    Raises:
        DataError: no image of `indices` is labelled for any task.
    """
    targets, parts = targets_of(images), slices_of(tasks)
    members = [indices[known_rows(targets[indices], part)] for part in parts.values()]
    if not any(len(rows) for rows in members):
        raise DataError("training", ["no training image is labelled for a task of this run"])
    lesson = _Lesson(images, learning, tasks)
    before = model.head.weight.detach().clone(), model.head.bias.detach().clone()
    try:
        totals = lesson.teach(model.train(), members, (schedule, steps, seed), proximal_mu)
        keep_other_heads(model, before, task_counts(tasks, images, indices), tasks)
    finally:
        model.eval()
    return {name: value / max(1, steps) for name, value in totals.items()}


@torch.no_grad()
def keep_other_heads(
    model: Autoencoder,
    before: tuple[torch.Tensor, torch.Tensor],
    counts: NDArray[np.float64],
    tasks: Tasks,
) -> None:
    """Give back the rows of the head that no image here taught, in place: decay moved them."""
    taught = torch.zeros(len(before[1]), dtype=torch.bool, device=before[1].device)
    for count, part in zip(counts, slices_of(tasks).values(), strict=True):
        taught[part] = bool(count > 0)
    model.head.weight[~taught] = before[0][~taught]
    model.head.bias[~taught] = before[1][~taught]


@dataclass(frozen=True)
class _Lesson:
    """What is learnt: images with targets, how, and the tasks."""

    images: ImageSet
    learning: LearningConfig
    tasks: Tasks

    def teach(
        self,
        model: Autoencoder,
        members: list[Integers],
        course: tuple[Schedule, int, int],
        proximal_mu: float,
    ) -> dict[str, float]:
        """Take the steps of a course (schedule, steps, seed) and return the summed terms."""
        config, (schedule, steps, seed) = self.learning.training, course
        generator = torch.Generator().manual_seed(seed)
        shuffler = np.random.default_rng(seed)
        batches = task_batches(members, config.batch_size, steps, shuffler)
        totals = torch.zeros(len(TERM_NAMES), dtype=torch.float64, device=device_of(model))
        proximal = 0.0
        with FlatOptimiser(model, config, proximal_mu) as optimiser:
            for step, (rows, drawn) in enumerate(batches):
                optimiser.clear()
                terms = self._terms(model, rows, drawn, generator)
                terms.loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                rate = learning_rate(config, schedule, step)
                proximal += optimiser.step(rate, ema_decay(config.ema_decay, step))
                totals += torch.stack(list(terms.named().values())).double()
        named = dict(zip(TERM_NAMES, to_array(totals).tolist(), strict=True))
        return {**named, "proximal": proximal} if proximal_mu > 0 else named

    def _terms(
        self, model: Autoencoder, rows: Integers, drawn: Integers, generator: torch.Generator
    ) -> Terms:
        """Return the terms of one batch, changed at random."""
        settings, weights = self.learning.augmentation, self.learning.objective
        nobody = to_device(np.full(len(rows), -1, dtype=np.int64), model)
        changed, target = augment(self.images.batch(rows, nobody.device), settings, generator)
        output: Output = model(changed, generator)
        cycle = output.mu.new_zeros(())
        if weights.cycle_weight > 0:
            cycle = cycle_error(model, output)
        terms = objective(output, target, nobody, weights, (0, model.attention_logits), cycle)
        asked = self._task_loss(output.logits, rows, drawn)
        loss = terms.loss + weights.class_weight * asked
        return replace(terms, loss=loss, classification=asked)

    def _task_loss(self, logits: torch.Tensor, rows: Integers, drawn: Integers) -> torch.Tensor:
        """Return the mean over places of the loss of the task that each drew."""
        total, targets = logits.new_zeros(()), targets_of(self.images)
        for number, (name, part) in enumerate(slices_of(self.tasks).items()):
            places = np.flatnonzero(drawn == number)
            if len(places):
                true = torch.from_numpy(targets[rows[places]][:, part]).float().to(logits.device)
                own = logits[torch.from_numpy(places).to(logits.device)][:, part]
                total = total + LOSSES[self.tasks[name].target](own, true).sum()
        return total / len(rows)
