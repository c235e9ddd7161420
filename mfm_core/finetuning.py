"""Which part of the model a run trains: all, the head alone, or low-rank changes and the head.

A local training starts at the global weights and ends in an *update*: the change of what learns,
one flat vector whose schema both ends know beforehand (`update_schema`). In a run that trains the
head nothing else leaves a site; with LoRA it is B and the head, a few per cent of the weights. The
receiving end adds an update, or the mean of several, to the same weights (`with_update`): between
rounds there are merged weights only, so a site keeps nothing and B starts at zero in every round.

The head alone is trained on latents of undamaged images, computed once. A site without a label
trains the autoencoder where that learns, and has nothing to give to a head.
Source: paper section 2.6. What crosses the hospital's boundary: the update and the mean of each
loss term.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mfm_core import lora
from mfm_core.autoencoder import Autoencoder
from mfm_core.checkpoint import flat_weights, weight_schema
from mfm_core.config import LearningConfig
from mfm_core.control_variates import ControlVariate
from mfm_core.dataset import ImageSet
from mfm_core.devices import Precision, to_array, to_device
from mfm_core.errors import DataError
from mfm_core.head import Head
from mfm_core.inference import latents_of
from mfm_core.objective import TERM_NAMES, masked_cross_entropy
from mfm_core.optimiser import FlatOptimiser
from mfm_core.sums import Schema
from mfm_core.training import Schedule, ema_decay, learning_rate, shuffled_batches, train

Flat = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Lesson:
    """Where a local training stands in its run, and what makes it repeatable.

    Attributes:
        schedule: position in the run, for the learning rate.
        steps: optimiser steps.
        seed: of batches, augmentation and posterior samples.
        shared_seed: of A, the same at every site of a run; read with LoRA only.
        attention_stage: as in `mfm_core.training.train`; 0 unless all learns.
        proximal_mu: FedProx weight, on what learns.
        precision: of the products, where more than the head learns.
        control: corrects the gradients and is told their mean; None unless all learns.
    """

    schedule: Schedule
    steps: int
    seed: int
    shared_seed: int = 0
    attention_stage: int = 0
    proximal_mu: float = 0.0
    precision: Precision = "float32"
    control: ControlVariate | None = None


def head_schema(model: Autoencoder) -> Schema:
    """Return names and shapes of the head's weights."""
    return tuple(item for item in weight_schema(model) if item[0].startswith("head."))


def head_of(model: Autoencoder) -> Head:
    """Return a copy of the head that the model was trained with."""
    return Head(to_array(model.head.weight).copy(), to_array(model.head.bias).copy())


def update_schema(model: Autoencoder, learning: LearningConfig) -> Schema:
    """Return names and shapes of what an update changes, in the order of the flat vector."""
    if learning.trainable == "all":
        return weight_schema(model)
    if learning.trainable == "head":
        return head_schema(model)
    return lora.b_schema(model, learning.lora) + head_schema(model)


def fine_tune(
    model: Autoencoder, images: ImageSet, indices: Indices, learning: LearningConfig, lesson: Lesson
) -> tuple[Flat, dict[str, float]]:
    """Return the update of one local training, and the mean of every loss term over its steps.

    The model's weights are used up where all learns, else left as they were; `with_update` on the
    weights that it came with gives the trained ones.

    Args:
        model: the weights to start from.
        images: the site's images.
        indices: `[M] int64`, which of them to learn from; with a label of -1 they have no part in
            the cross-entropy.
        learning: objective, augmentation, optimiser and which part learns.
        lesson: schedule, steps and seeds.

    Returns:
        `[U] float32` of `update_schema`, and the terms. A head that has no label to learn from
        gives zeros for both.

    Raises:
        DataError: `indices` is empty.
    """
    if len(indices) == 0:
        raise DataError("training", ["the train split has no image; add images or leave the run"])
    if learning.trainable == "head":
        return _train_head(model, images, indices, learning, lesson)
    before, learner = flat_weights(model), model
    if learning.trainable == "lora":
        learner = lora.with_adapters(model, learning.lora, lesson.shared_seed)
    terms = train(
        learner,
        images,
        indices,
        learning,
        schedule=lesson.schedule,
        steps=lesson.steps,
        seed=lesson.seed,
        attention_stage=lesson.attention_stage,
        proximal_mu=lesson.proximal_mu,
        precision=lesson.precision,
        control=lesson.control,
    )
    if learning.trainable == "all":
        return flat_weights(model) - before, terms
    parts = [to_array(b).ravel() for b in lora.learnt_b(learner).values()]
    return np.concatenate([*parts, _head(learner) - _head(model)]), terms


def weight_of(learning: LearningConfig, labels: NDArray[np.int64]) -> int:
    """Return how many images a site's update stands for, from the labels `[M]` it was trained with.

    All images where the autoencoder learns; for a head the labelled ones, and 1 without any, so
    that a site without labels takes part without pulling the mean towards nothing.
    """
    if learning.trainable == "head":
        return max(1, int((labels >= 0).sum()))
    return len(labels)


def with_update(
    model: Autoencoder, learning: LearningConfig, shared_seed: int, update: NDArray[np.floating]
) -> Flat:
    """Return all weights `[D] float32` after an update of the model; the model itself is changed.

    Args:
        model: the weights that the update was learnt on.
        learning: which part learnt.
        shared_seed: of A.
        update: `[U]`, of one site or the mean of several.
    """
    if learning.trainable == "all":
        return (flat_weights(model) + update).astype(np.float32)
    arrays = _unpacked(update_schema(model, learning), update)
    if learning.trainable == "lora":
        b = {n.removesuffix(".lora_b"): a for n, a in arrays.items() if n.endswith(".lora_b")}
        lora.merge(model, learning.lora, shared_seed, b)
    with torch.no_grad():
        for name in ("weight", "bias"):
            mine = model.head.get_parameter(name)
            mine.add_(arrays[f"head.{name}"].to(mine.device))
    return flat_weights(model)


def labelled_with(images: ImageSet, indices: Indices, labels: Indices) -> ImageSet:
    """Return the images with `labels` `[M]` at `indices` `[M]`."""
    changed = images.labels.copy()
    changed[indices] = labels
    return replace(images, labels=changed)


def _unpacked(schema: Schema, flat: NDArray[np.floating[Any]]) -> dict[str, torch.Tensor]:
    sizes = [prod(shape) for _, shape in schema]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"expected an update of {sum(sizes)} numbers, found {flat.shape}")
    pieces = torch.split(torch.from_numpy(np.array(flat, dtype=np.float32)), sizes)
    return {name: piece.view(shape) for (name, shape), piece in zip(schema, pieces, strict=True)}


def _head(model: Autoencoder) -> Flat:
    with torch.no_grad():
        parts = [parameter.detach().reshape(-1) for parameter in model.head.parameters()]
        flat: Flat = to_array(torch.cat(parts))
    return flat


def _train_head(
    model: Autoencoder, images: ImageSet, indices: Indices, learning: LearningConfig, lesson: Lesson
) -> tuple[Flat, dict[str, float]]:
    """Return the head's update from latents of undamaged images; the rest has no part in it."""
    names = (*TERM_NAMES, *(("proximal",) if lesson.proximal_mu > 0 else ()))
    terms, before = dict.fromkeys(names, 0.0), _head(model)
    labelled = indices[images.labels[indices] >= 0]
    if len(labelled) == 0:
        return np.zeros_like(before), terms
    latents = to_device(latents_of(model, images, labelled), model)
    labels = to_device(images.labels[labelled], model)
    config, goal = learning.training, learning.objective
    shuffler = np.random.default_rng(lesson.seed)
    places = np.arange(len(labelled))
    learner = copy.deepcopy(model)
    for name, parameter in learner.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    with FlatOptimiser(learner, config, lesson.proximal_mu) as optimiser:
        batches = shuffled_batches(places, config.batch_size, lesson.steps, shuffler)
        for step, batch in enumerate(batches):
            optimiser.clear()
            logits = learner.classify(latents[batch])
            loss = masked_cross_entropy(logits, labels[batch], goal.label_smoothing)
            (goal.class_weight * loss).backward()  # type: ignore[no-untyped-call]
            rate = learning_rate(config, lesson.schedule, step)
            pull = optimiser.step(rate, ema_decay(config.ema_decay, step))
            terms["classification"] += float(loss.detach()) / lesson.steps
            if "proximal" in terms:
                terms["proximal"] += pull / lesson.steps
    terms["loss"] = goal.class_weight * terms["classification"]
    return _head(learner) - before, terms
