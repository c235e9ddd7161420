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
from mfm_core.autoencoder import Autoencoder
from mfm_core.config import LearningConfig, TrainingConfig
from mfm_core.dataset import ImageSet
from mfm_core.errors import DataError
from mfm_core.objective import TERM_NAMES, objective

LINEAR_PATH_RATE = 0.1
"""Learning rate of the linear path over that of the rest: its start is already good."""


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


def _parameter_groups(model: Autoencoder, config: TrainingConfig) -> list[dict[str, object]]:
    """Return AdamW groups: decay only on weights, a small rate on the linear path."""
    linear, decayed, plain = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("linear_path."):
            linear.append(parameter)
        elif parameter.ndim > 1 and name != "attention_logits":
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": config.weight_decay, "rate": 1.0},
        {"params": plain, "weight_decay": 0.0, "rate": 1.0},
        {"params": linear, "weight_decay": 0.0, "rate": LINEAR_PATH_RATE},
    ]
    return [group for group in groups if group["params"]]


class _Averages:
    """The moving average of the weights, and of the proximal anchor's distance."""

    def __init__(self, parameters: list[torch.nn.Parameter], proximal_mu: float) -> None:
        self.parameters = parameters
        self.proximal_mu = proximal_mu
        self.mean = [parameter.detach().clone() for parameter in parameters]
        self.anchor = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def pull(self) -> float:
        """Add the FedProx gradient mu (w - w0); return the term mu/2 |w - w0|^2."""
        apart = torch._foreach_sub(list(self.parameters), self.anchor)
        gradients = [parameter.grad for parameter in self.parameters]
        torch._foreach_add_(gradients, apart, alpha=self.proximal_mu)  # type: ignore[arg-type]
        norms = torch.stack(torch._foreach_norm(apart))
        return float(0.5 * self.proximal_mu * norms.square().sum())

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the average towards the weights."""
        torch._foreach_lerp_(self.mean, list(self.parameters), 1.0 - decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the model the average."""
        torch._foreach_copy_(list(self.parameters), self.mean)


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
) -> dict[str, float]:
    """Train `model` in place; return the mean of every loss term over the steps.

    Afterwards the model holds the moving average of its weights. The result depends on the
    arguments alone, to the bit on one CPU thread.

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

    Raises:
        DataError: `indices` is empty.
        ValueError: `attention_stage` is not 0, 1 or 2.
    """
    if len(indices) == 0:
        raise DataError("training", ["the train split has no image; add images or leave the run"])
    if attention_stage not in {0, 1, 2}:
        raise ValueError(f"attention_stage is 0, 1 or 2, found {attention_stage}")
    model.train()
    model.attention_logits.requires_grad_(attention_stage == 1)
    try:
        totals = _run_steps(
            _Site(images, indices, seed),
            model,
            learning,
            schedule,
            (steps, attention_stage),
            proximal_mu,
        )
    finally:
        model.attention_logits.requires_grad_(False)
        model.zero_grad(set_to_none=True)
        model.eval()
    return {name: value / max(1, steps) for name, value in totals.items()}


@dataclass(frozen=True)
class _Site:
    images: ImageSet
    indices: NDArray[np.int64]
    seed: int


def _run_steps(
    site: _Site,
    model: Autoencoder,
    learning: LearningConfig,
    schedule: Schedule,
    plan: tuple[int, int],
    proximal_mu: float,
) -> dict[str, float]:
    """Take the optimiser steps and return the summed terms."""
    config, (steps, stage) = learning.training, plan
    generator = torch.Generator().manual_seed(site.seed)
    shuffler = np.random.default_rng(site.seed)
    groups = _parameter_groups(model, config)
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    averages = _Averages(parameters, proximal_mu)
    totals = torch.zeros(len(TERM_NAMES), dtype=torch.float64)
    proximal = 0.0
    batches = shuffled_batches(site.indices, config.batch_size, steps, shuffler)
    for step, batch in enumerate(batches):
        labels = torch.from_numpy(site.images.labels[batch])
        changed, target = augment(site.images.batch(batch), learning.augmentation, generator)
        output = model(changed, generator)
        attention = (stage, model.attention_logits)
        terms = objective(output, target, labels, learning.objective, attention)
        optimiser.zero_grad(set_to_none=False)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        if proximal_mu > 0:
            proximal += averages.pull()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        rate = learning_rate(config, schedule, step)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["rate"]
        optimiser.step()
        averages.follow(ema_decay(config.ema_decay, step))
        totals += torch.stack(list(terms.named().values())).double()
    averages.settle()
    named = dict(zip(TERM_NAMES, totals.tolist(), strict=True))
    return {**named, "proximal": proximal} if proximal_mu > 0 else named
