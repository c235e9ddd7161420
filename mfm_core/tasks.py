"""Tasks of a multi-task pre-training: outputs of one wide head, their losses, and their figures.

Every task owns some rows of the model's one linear head on mu, in the order of the tasks' names:
one for a binary task, one a class, one a label, and one a threshold for an ordinal task. An image
that was not labelled for a task has UNKNOWN there and neither teaches nor counts.

What crosses the hospital's boundary: the Sums of `task_metric_sum` and `task_loss_sum`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mfm_core.config import TaskConfig, TaskTarget
from mfm_core.dataset import ImageSet
from mfm_core.evaluation import metric_sum, metrics_from
from mfm_core.inference import Inference
from mfm_core.sums import Array, Sum

UNKNOWN = 255
"""The target of an image that a task says nothing about."""

SMALLEST_SHARE = 1e-6
"""Least probability of an ordinal class, whose thresholds need not be in order."""

Targets = NDArray[np.uint8]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Tasks = Mapping[str, TaskConfig]


def slices_of(tasks: Tasks) -> dict[str, slice]:
    """Return which rows of the head each task owns, in the order of the names."""
    found, start = {}, 0
    for name in sorted(tasks):
        found[name] = slice(start, start + tasks[name].outputs)
        start += tasks[name].outputs
    return found


def encode_labels(task: TaskConfig, labels: NDArray[np.int64]) -> Targets:
    """Return `[N, outputs] uint8` of 0 and 1 from a task's label numbers.

    Args:
        task: whose labels they are.
        labels: `[N]` label numbers, or `[N, K]` of 0 and 1 for a multi-label task.
    """
    if task.target == "MULTILABEL_CLASSIFICATION":
        return labels.astype(np.uint8)
    if task.target == "BINARY_CLASSIFICATION":
        return labels[:, None].astype(np.uint8)
    numbers = np.arange(len(task.labels))
    if task.target == "ORDINAL_REGRESSION":
        return np.asarray(labels[:, None] >= numbers[1:], dtype=np.uint8)
    return np.asarray(labels[:, None] == numbers, dtype=np.uint8)


def binary_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `[N]` cross-entropy in nats of one logit `[N, 1]` (logistic regression, Cox 1958)."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")[:, 0]


def multiclass_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `[N]` softmax cross-entropy in nats of `[N, K]` (Bridle 1990)."""
    return -(targets * functional.log_softmax(logits, dim=1)).sum(dim=1)


def multilabel_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `[N]` the mean binary cross-entropy over labels: one yes-or-no question each.

    Binary relevance, Tsoumakas and Katakis 2007.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def ordinal_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `[N]` the mean binary cross-entropy over thresholds "is the grade at least k".

    Cheng, Wang and Pollastri 2008 (arXiv:0704.1028), after Frank and Hall 2001.
    """
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


LOSSES: dict[TaskTarget, Loss] = {
    "BINARY_CLASSIFICATION": binary_loss,
    "MULTICLASS_CLASSIFICATION": multiclass_loss,
    "MULTILABEL_CLASSIFICATION": multilabel_loss,
    "ORDINAL_REGRESSION": ordinal_loss,
}


def known_rows(targets: Targets, part: slice) -> NDArray[np.bool_]:
    """Return `[N]` whether each image is labelled for the task that owns `part`."""
    return np.asarray(targets[:, part.start] != UNKNOWN)


@dataclass(frozen=True)
class Question:
    """One choice among K answers: what figures are counted of.

    Attributes:
        key: its name in a Sum.
        task: the task's name.
        label: the label of a multi-label task that it asks for, else empty.
        answers: names of the K answers.
        logits: `[N, K]` of the answers.
        labels: `[N]` the true answer, -1 where unknown.
    """

    key: str
    task: str
    label: str
    answers: tuple[str, ...]
    logits: NDArray[np.float64]
    labels: NDArray[np.int64]


def questions_of(tasks: Tasks, logits: NDArray[Any], targets: Targets) -> list[Question]:
    """Return every task as choices: one, or one per label of a multi-label task.

    Args:
        tasks: the run's.
        logits: `[N, O]` of the head.
        targets: `[N, O]`.
    """
    found = []
    for number, (name, part) in enumerate(slices_of(tasks).items()):
        task, known = tasks[name], known_rows(targets, part)
        own, true = logits[:, part].astype(np.float64), targets[:, part].astype(np.int64)
        key = f"task{number:03d}"
        if task.target == "MULTILABEL_CLASSIFICATION":
            for at, label in enumerate(task.labels):
                answer = np.where(known, true[:, at], -1)
                pair = _pair(own[:, at])
                at_key = f"{key}.{at:03d}"
                found.append(Question(at_key, name, label, ("no", "yes"), pair, answer))
            continue
        scores, answer = _choice(task, own, true)
        answer = np.where(known, answer, -1)
        found.append(Question(key, name, "", task.labels, scores, answer))
    return found


def _pair(logit: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.zeros_like(logit), logit], axis=1)


def _choice(
    task: TaskConfig, logits: NDArray[np.float64], targets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return `[N, K]` logits of the labels and `[N]` the true one."""
    if task.target == "BINARY_CLASSIFICATION":
        return _pair(logits[:, 0]), targets[:, 0]
    if task.target == "MULTICLASS_CLASSIFICATION":
        return logits, targets.argmax(axis=1)
    least = 1.0 / (1.0 + np.exp(-np.clip(logits, -500, 500)))
    ends = np.ones((len(logits), 1)), np.zeros((len(logits), 1))
    shares = -np.diff(np.concatenate([ends[0], least, ends[1]], axis=1), axis=1)
    return np.log(np.maximum(shares, SMALLEST_SHARE)), targets.sum(axis=1)


def task_metric_sum(
    tasks: Tasks, images: ImageSet, rows: NDArray[np.int64], seen: Inference, draws: tuple[int, int]
) -> Sum:
    """Return one site's part of every task's figures: `metric_sum` per question.

    Args:
        tasks: the run's.
        images: with targets.
        rows: which of them were seen.
        seen: what the model said of them, in that order.
        draws: bootstrap replicates and their seed.
    """
    arrays: dict[str, Array] = {}
    for question in questions_of(tasks, seen.logits, targets_of(images)[rows]):
        people, (replicates, seed) = images.patients[rows], draws
        parts = (question.logits, question.labels, seen.ssim, people)
        counted = metric_sum(*parts, replicates, seed)
        arrays |= {f"{question.key}/{name}": array for name, array in counted.arrays.items()}
    return Sum(arrays)


def task_figures(tasks: Tasks, total: Sum) -> list[dict[str, Any]]:
    """Return the figures of every task from merged `task_metric_sum`s, JSON-ready.

    A multi-label task has its labels' figures; its own macro AUC is their mean.
    """
    nobody = np.zeros((1, sum(task.outputs for task in tasks.values())), dtype=np.uint8)
    found: dict[str, dict[str, Any]] = {}
    for question in questions_of(tasks, nobody.astype(np.float64), nobody):
        prefix = f"{question.key}/"
        own = {n.removeprefix(prefix): a for n, a in total.arrays.items() if n.startswith(prefix)}
        figures = metrics_from(Sum(own), question.answers).to_dict()
        row = {"label": question.label, "n": figures["per_class"][-1]["n"], **figures}
        entry = found.setdefault(
            question.task,
            {"task": question.task, "target": tasks[question.task].target, "questions": []},
        )
        entry["questions"].append(row)
    for entry in found.values():
        values = [q["macro_auc"]["value"] for q in entry["questions"]]
        known = [value for value in values if value is not None]
        entry["macro_auc"] = float(np.mean(known)) if known else None
    return list(found.values())


def task_loss_sum(tasks: Tasks, images: ImageSet, rows: NDArray[np.int64], seen: Inference) -> Sum:
    """Return "loss" `[T]` summed nats, "images" `[T]` per task, "ssim" `[2]` total and images."""
    targets, logits = targets_of(images)[rows], torch.from_numpy(seen.logits)
    losses, counts = np.zeros(len(tasks)), np.zeros(len(tasks))
    for number, (name, part) in enumerate(slices_of(tasks).items()):
        known = np.flatnonzero(known_rows(targets, part))
        true = torch.from_numpy(targets[known][:, part]).float()
        loss = LOSSES[tasks[name].target](logits[known][:, part], true)
        losses[number], counts[number] = float(loss.double().sum()), len(known)
    total = np.array([seen.ssim.sum(dtype=np.float64), float(len(seen.ssim))])
    return Sum({"loss": losses, "images": counts, "ssim": total})


def targets_of(images: ImageSet) -> Targets:
    """Return `[N, O]`, the targets of images that have some."""
    if images.targets is None:
        raise ValueError("these images have labels of one question, not of tasks")
    return images.targets


def task_counts(tasks: Tasks, images: ImageSet, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `[T]` how many of the rows are labelled for each task."""
    targets = targets_of(images)[rows]
    parts = slices_of(tasks).values()
    return np.array([float(known_rows(targets, part).sum()) for part in parts])
