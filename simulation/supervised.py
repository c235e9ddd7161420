"""Two networks that only classify: what the autoencoder's second task costs, and a known one.

- supervised: the encoder, linear path and head of the run's own model and nothing else: no
  decoder, no reconstruction, no posterior. Same start, optimiser, augmentation and steps;
- shufflenet: torchvision's ShuffleNetV2 x0.5 from new weights (no picture was seen before), its
  first layer for the images' channels. Same batches, augmentation, steps and optimiser settings,
  at half of the learning rate, the batch norms of the original.

What crosses a hospital's boundary: everything; that is why these are no way to train.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mfm_core.augmentation import augment
from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import LearningConfig
from mfm_core.dataset import ImageSet
from mfm_core.objective import masked_cross_entropy
from mfm_core.optimiser import FlatOptimiser
from mfm_core.patches import patch_moments, start_linear_path
from mfm_core.training import Schedule, ema_decay, learning_rate, shuffled_batches
from strategies.config import RunConfig

SHUFFLENET_RATE = 0.5
"""Learning rate of ShuffleNetV2 over the run's: batch norms bear less of it."""

Floats = NDArray[np.float32]


def fit_supervised(run: RunConfig, images: ImageSet, steps: int, seed: int) -> Autoencoder:
    """Return the run's model with its encoder and head trained on labels alone.

    Its decoder is left as it started; do not use it.
    """
    model = build_autoencoder(run.model, run.image, len(run.ontology.classes), run.seed)
    rows = images.select("train")
    if run.model.linear_path:
        start_linear_path(model, patch_moments(images, rows, run.model))
    for name, parameter in model.named_parameters():
        if name.startswith("decoder.") or name.endswith("gain_out"):
            parameter.requires_grad_(False)
    with FlatOptimiser(model.train(), run.learning.training, 0.0) as optimiser:

        def step(given: torch.Tensor, labels: torch.Tensor, rate: float, decay: float) -> None:
            optimiser.clear()
            logits = model.classify(model.encode(given)[0])
            loss = masked_cross_entropy(logits, labels, run.learning.objective.label_smoothing)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            optimiser.step(rate, decay)

        _teach(run.learning, images, steps, seed, step)
    return model.eval()


def build_shufflenet(channels: int, classes: int, seed: int) -> nn.Module:
    """Return torchvision's ShuffleNetV2 x0.5 with new weights, the same bits for the same seed."""
    from torchvision.models import shufflenet_v2_x0_5

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = shufflenet_v2_x0_5(weights=None, num_classes=classes)
        first = nn.Conv2d(channels, 24, 3, stride=2, padding=1, bias=False)
        model.conv1 = nn.Sequential(first, *list(model.conv1.children())[1:])
    built: nn.Module = model
    return built


def fit_shufflenet(run: RunConfig, images: ImageSet, steps: int, seed: int) -> nn.Module:
    """Return ShuffleNetV2 trained on the labels of the training images; its weights' average."""
    config = run.learning.training
    model = build_shufflenet(run.image.channels, len(run.ontology.classes), run.seed).train()
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    flat = [p for p in model.parameters() if p.ndim == 1]
    deep = [p for p in model.parameters() if p.ndim > 1]
    groups: list[dict[str, Any]] = [{"params": deep}, {"params": flat, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)

    def step(given: torch.Tensor, labels: torch.Tensor, rate: float, decay: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = SHUFFLENET_RATE * rate
        optimiser.zero_grad()
        logits = model(given)
        loss = masked_cross_entropy(logits, labels, run.learning.objective.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimiser.step()
        _follow(average.module, model, decay)

    _teach(run.learning, images, steps, seed, step)
    kept: nn.Module = average.module
    return kept.eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average of all weights and running statistics towards the model's, in place."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1.0 - decay)
        else:
            kept.copy_(new)


def _teach(
    learning: LearningConfig,
    images: ImageSet,
    steps: int,
    seed: int,
    step: Callable[[torch.Tensor, torch.Tensor, float, float], None],
) -> None:
    """Take the steps of `mfm_core.training`: same batches, augmentation, rates and averages."""
    config, generator = learning.training, torch.Generator().manual_seed(seed)
    rows = images.select("train")
    batches = shuffled_batches(rows, config.batch_size, steps, np.random.default_rng(seed))
    for number, batch in enumerate(batches):
        given, _ = augment(images.batch(batch), learning.augmentation, generator)
        labels = torch.from_numpy(images.labels[batch])
        rate = learning_rate(config, Schedule(0, steps), number)
        step(given, labels, rate, ema_decay(config.ema_decay, number))


@torch.no_grad()
def logits_of(model: nn.Module, images: ImageSet, rows: NDArray[np.int64]) -> Floats:
    """Return `[M, K] float32` logits of a plain classifier, unchanged images in order."""
    parts = [model(images.batch(rows[start : start + 64])) for start in range(0, len(rows), 64)]
    found: Floats = torch.cat(parts).numpy()
    return found
