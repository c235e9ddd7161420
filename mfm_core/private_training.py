"""One local training with differential privacy: DP-SGD by image or by patient.

Every unit (an image, or all images of a patient) is in a step with the same probability, on its
own (Poisson sampling); a patient's gradient is the mean over its images. Each unit's gradient is
clipped to `max_grad_norm`; Opacus's DPOptimizer adds Gaussian noise to the sum (its secure mode at
a site) and divides it by the *expected* number of units. All that follows sees the noisy gradient
only and costs nothing: proximal pull, norm clip, AdamW, moving average. A step without any unit is
noise and counts.
Augmentation draws for each image alone, from numbers that hold nothing of the data, so a unit's
gradient remains a function of that unit; `mfm_core.private_objective` sees to the losses.

Not covered by epsilon, so never to be sent with it: the returned terms, counts of images, patch
moments, a head refitted from sums. The number of units at a site is taken as known.
What crosses the hospital's boundary: the weights, and nothing else of what happens here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.uniform_sampler import UniformWithReplacementSampler

from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder
from mfm_core.chance import Chance
from mfm_core.config import LearningConfig
from mfm_core.dataset import ImageSet
from mfm_core.devices import device_of, to_array, to_device
from mfm_core.errors import DataError
from mfm_core.grad_samplers import Tape
from mfm_core.memory import keep_memory
from mfm_core.objective import TERM_NAMES
from mfm_core.optimiser import FlatOptimiser
from mfm_core.private_objective import CYCLE_SHARE, cycle_errors, losses_per_image
from mfm_core.training import Schedule, ema_decay, learning_rate

Indices = NDArray[np.int64]

MOST_IMAGES_OF_A_PATIENT = 16
"""Images of one patient in a step; of more, a new random choice is taken each time."""

MOST_AT_ONCE = 64
"""Images in one pass; a larger step is added up from several. Bounds the memory."""


@dataclass(frozen=True)
class PrivateStep:
    """What makes a step private; with the number of steps it decides epsilon.

    Attributes:
        noise_multiplier: standard deviation of the noise over `max_grad_norm`, >= 0.
        max_grad_norm: largest L2 norm of a unit's gradient, > 0.
        sample_rate: probability of each unit to be in a step, in (0, 1].
        unit: whose presence is hidden.

    Raises:
        ValueError: a number is outside its range; all are listed.
    """

    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    unit: Literal["image", "patient"] = "patient"

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            problems.append(f"noise_multiplier is finite and >= 0, found {self.noise_multiplier}")
        if not (math.isfinite(self.max_grad_norm) and self.max_grad_norm > 0):
            problems.append(f"max_grad_norm is finite and > 0, found {self.max_grad_norm}")
        if not 0 < self.sample_rate <= 1:
            problems.append(f"sample_rate is in (0, 1], found {self.sample_rate}")
        if self.unit not in {"image", "patient"}:
            problems.append(f"unit is image or patient, found {self.unit}")
        if problems:
            raise ValueError("; ".join(problems))


def train_privately(  # noqa: PLR0913 - what differs from call to call stays visible as keywords
    model: Autoencoder,
    images: ImageSet,
    indices: Indices,
    learning: LearningConfig,
    *,
    schedule: Schedule,
    steps: int,
    seed: int | None,
    privacy: PrivateStep,
    attention_stage: int = 0,
    proximal_mu: float = 0.0,
    trainable: Literal["all", "head"] = "all",
) -> dict[str, float]:
    """Train `model` in place, privately; return the mean of every loss term over the images seen.

    The returned terms are *not* private and must not leave the site; the weights may.

    Args:
        model: weights to start from, and the anchor of the proximal term.
        images: the site's images.
        indices: `[M] int64`, which of them to learn from.
        learning: as in `mfm_core.training.train`; `batch_size` has no part, the rate decides.
        schedule: position in the run, for the learning rate.
        steps: number of optimiser steps; epsilon counts each.
        seed: None at a site: sampling and noise come from the operating system. A number repeats
            the call and is for simulation only: who knows or guesses it can subtract the noise.
            torch keeps 32 bits of a seed, so not even a secret number protects anybody.
        privacy: clip, noise, sample rate, unit.
        attention_stage: 0 no pixel weights, 1 learn them, 2 use them (`mfm_core.attention`).
        proximal_mu: FedProx weight mu of mu/2 |w - w0|^2; added after the noise, it costs nothing.
        trainable: "head" trains the linear head alone, on latents of the undamaged images.

    Raises:
        DataError: `indices` is empty.
        ValueError: `attention_stage` is not 0, 1 or 2, or a head is to train with stage 1.
    """
    if len(indices) == 0:
        raise DataError("training", ["the train split has no image; add images or leave the run"])
    if attention_stage not in {0, 1, 2} or (trainable == "head" and attention_stage == 1):
        raise ValueError(f"attention_stage is 0, 1 (not with a head alone) or 2: {attention_stage}")
    keep_memory()
    chosen = set(model.head.parameters())
    frozen = [p for p in model.parameters() if trainable == "head" and p not in chosen]
    before = [parameter.requires_grad for parameter in frozen]
    model.attention_logits.requires_grad_(attention_stage == 1)
    for parameter in frozen:
        parameter.requires_grad_(False)
    rates = [learning_rate(learning.training, schedule, step) for step in range(steps)]
    chance = Chance(seed)
    kind = _HeadLesson if trainable == "head" else _Lesson
    lesson = kind(model, images, indices, learning, attention_stage, chance.draws)
    try:
        units = group_units(images, indices, privacy.unit)
        return _teach(lesson, units, rates, privacy, chance, proximal_mu)
    finally:
        for parameter, learns in zip(frozen, before, strict=True):
            parameter.requires_grad_(learns)
        model.attention_logits.requires_grad_(False)
        model.eval()


def group_units(images: ImageSet, indices: Indices, unit: str) -> list[Indices]:
    """Return the images of every unit, one array each."""
    if unit == "image":
        return list(indices[:, None])
    order = indices[np.argsort(images.patients[indices], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(images.patients[order])) + 1)


@dataclass(frozen=True)
class _Lesson:
    """What is learnt from which images, and how."""

    model: Autoencoder
    images: ImageSet
    indices: Indices
    learning: LearningConfig
    stage: int
    draws: torch.Generator

    def toss(self, count: int) -> torch.Tensor:
        """Return which of the images are read again, `[count] bool`."""
        if self.learning.objective.cycle_weight == 0:
            return torch.zeros(count, dtype=torch.bool)
        return torch.rand(count, generator=self.draws) < CYCLE_SHARE

    def learn(self, tape: Tape, chosen: Indices, weights: torch.Tensor, again: int) -> torch.Tensor:
        """Record the gradients per image; return the terms, `[N, T]`.

        Args:
            tape: records.
            chosen: `[N]`, which images; the first `again` of them are read again.
            weights: `[N]`, weight of each image's loss.
            again: 0 to N.
        """
        settings, model = self.learning, self.model
        labels, terms = to_device(self.images.labels[chosen], model), []
        pixels = self.images.batch(chosen, labels.device)
        changed, target = augment(pixels, settings.augmentation, self.draws)

        def losses(given: torch.Tensor) -> torch.Tensor:
            output = model(given, self.draws)
            attention = (self.stage, tape.spread(model.attention_logits))
            cycle = cycle_errors(model, output, again)
            found = losses_per_image(output, target, labels, settings.objective, attention, cycle)
            terms.append(torch.stack([found[name].detach() for name in TERM_NAMES], dim=1))
            return found["loss"] * weights

        tape.sample(changed, losses)
        return terms[0]


class _HeadLesson(_Lesson):
    """The linear head alone: the latents stay as they are, so each is computed once."""

    @cached_property
    @torch.no_grad()
    def latents(self) -> torch.Tensor:
        """Mu `[images, L]` of undamaged images; zeros for those that are not learnt from."""
        here = device_of(self.model)
        found = torch.zeros(len(self.images), self.model.latent_size, device=here)
        for start in range(0, len(self.indices), MOST_AT_ONCE):
            part = self.indices[start : start + MOST_AT_ONCE]
            found[part] = self.model.encode(self.images.batch(part, here))[0]
        return found

    def toss(self, count: int) -> torch.Tensor:
        """Return that no image is read again."""
        return torch.zeros(count, dtype=torch.bool)

    def learn(self, tape: Tape, chosen: Indices, weights: torch.Tensor, again: int) -> torch.Tensor:
        """Record the gradients per image of the head; return the terms, `[N, T]`."""
        labels = to_device(self.images.labels[chosen], self.model)
        terms = torch.zeros(len(chosen), len(TERM_NAMES), device=labels.device)
        smoothing = self.learning.objective.label_smoothing

        def losses(given: torch.Tensor) -> torch.Tensor:
            found = torch.nn.functional.cross_entropy(
                self.model.classify(given),
                labels,
                ignore_index=-1,
                label_smoothing=smoothing,
                reduction="none",
            )
            for name in ("loss", "classification"):
                terms[:, TERM_NAMES.index(name)] = found.detach()
            return found * weights

        tape.sample(self.latents[chosen], losses)
        return terms


def _teach(
    lesson: _Lesson,
    units: list[Indices],
    rates: list[float],
    privacy: PrivateStep,
    chance: Chance,
    proximal_mu: float,
) -> dict[str, float]:
    """Take one private step per learning rate; return the mean terms."""
    config, expected = lesson.learning.training, privacy.sample_rate * len(units)
    model, seen, proximal = lesson.model.train(), 0, 0.0
    totals = torch.zeros(len(TERM_NAMES), dtype=torch.float64, device=device_of(model))
    with FlatOptimiser(model, config, proximal_mu) as optimiser, Tape(model) as tape:
        noisy_mean = NoisyMean(optimiser.gradient, privacy, expected, chance)
        for step, rate in enumerate(rates):
            chance.refresh()
            optimiser.clear()
            for images, owners in passes(_draw_units(units, privacy.sample_rate, chance.draws)):
                terms = _add_pass(lesson, tape, privacy.max_grad_norm, images, owners)
                totals, seen = totals + terms.sum(dim=0).double(), seen + len(terms)
            noisy_mean.apply(optimiser.gradient)
            proximal += optimiser.step(rate, ema_decay(config.ema_decay, step))
    named = dict(zip(TERM_NAMES, to_array(totals / max(seen, 1)).tolist(), strict=True))
    return {**named, "proximal": proximal / max(1, len(rates))} if proximal_mu > 0 else named


def _draw_units(
    units: list[Indices], sample_rate: float, generator: torch.Generator
) -> list[Indices]:
    """Return the images of the units of one Poisson sample, at most a fixed number of each."""
    sampler = UniformWithReplacementSampler(
        num_samples=len(units), sample_rate=sample_rate, generator=generator, steps=1
    )
    drawn = []
    for number in next(iter(sampler)):
        images = units[number]
        if len(images) > MOST_IMAGES_OF_A_PATIENT:
            order = torch.randperm(len(images), generator=generator).numpy()
            images = images[order[:MOST_IMAGES_OF_A_PATIENT]]
        drawn.append(images)
    return drawn


def passes(units: list[Indices]) -> Iterator[tuple[Indices, Indices]]:
    """Yield (images, owner of each, from 0): whole units, at most `MOST_AT_ONCE` images."""
    group: list[Indices] = []
    for unit in units:
        if group and sum(map(len, group)) + len(unit) > MOST_AT_ONCE:
            yield np.concatenate(group), np.repeat(np.arange(len(group)), [len(u) for u in group])
            group = []
        group.append(unit)
    if group:
        yield np.concatenate(group), np.repeat(np.arange(len(group)), [len(u) for u in group])


def _add_pass(
    lesson: _Lesson, tape: Tape, clip: float, images: Indices, owners: Indices
) -> torch.Tensor:
    """Add the clipped gradients of some whole units; return the terms of their images, `[N, T]`."""
    tossed = lesson.toss(len(images)).numpy()
    order = np.argsort(~tossed, kind="stable")
    images, owners = images[order], owners[order]
    counts = np.bincount(owners)
    weights = to_device((1.0 / counts)[owners], lesson.model).to(torch.get_default_dtype())
    tape.alone = len(counts) == len(images)
    terms = lesson.learn(tape, images, weights, int(tossed.sum()))
    add_clipped(tape, clip, None if tape.alone else to_device(owners, lesson.model))
    return terms


@torch.no_grad()
def add_clipped(tape: Tape, clip: float, owners: torch.Tensor | None) -> None:
    """Add each unit's gradient, no longer than `clip`, to the parameters' `grad`.

    A unit whose gradient is not finite counts as nothing. A clip leaves NaN as it is: one broken
    unit would spoil the whole change, and that nothing leaves would tell of its presence.

    Args:
        tape: has recorded the images.
        clip: largest L2 norm of a unit's gradient over all parameters.
        owners: `[N]`, the unit of every image, from 0; None where each image is a unit.
    """
    join = None if owners is None else partial(_join, owners)
    norms = tape.gradients.norms(join)
    weights = clip / (norms + 1e-6)
    weights.clamp_(max=1.0).masked_fill_(~torch.isfinite(norms), 0.0)
    if owners is not None:
        weights = weights[owners]
    broken = weights == 0
    if bool(to_array(broken).any()):
        tape.gradients.erase(broken)
    tape.gradients.add_weighted(weights)


def _join(owners: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
    """Return the sums of `[N, ...]` over each unit's images, `[U, ...]` with U <= N (zeros)."""
    return torch.zeros_like(each).index_add_(0, owners, each)


class NoisyMean:
    """Opacus's optimizer between the clipped sums and the step: noise, then the expected mean.

    It is the DPOptimizer of Opacus's own ghost clipping, which leaves the clipping to the gradients
    (`add_clipped`). Noise is drawn on the processor; `chance.secret` takes the secure mode, which
    adds up four draws against attacks on the gaps between floating point numbers.

    Args:
        like: a gradient, flat.
        privacy: noise and clip.
        expected: number of units in a step on average, > 0.
        chance: has the generator of the noise.
    """

    def __init__(
        self, like: torch.Tensor, privacy: PrivateStep, expected: float, chance: Chance
    ) -> None:
        self._vector = torch.nn.Parameter(torch.zeros_like(like, device=chance.noise.device))
        self._optimizer = DPOptimizerFastGradientClipping(
            torch.optim.SGD([self._vector]),  # never steps: the noisy mean goes on to FlatOptimiser
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.max_grad_norm,
            expected_batch_size=expected,
            generator=chance.noise,
            secure_mode=chance.secret,
        )

    def apply(self, total: torch.Tensor) -> None:
        """Make the noisy mean of the sum of clipped gradients, a flat vector, in place."""
        self._optimizer.zero_grad(set_to_none=True)
        self._vector.grad = total.to(self._vector.device)
        self._optimizer.pre_step()
        total.copy_(self._vector.grad)
