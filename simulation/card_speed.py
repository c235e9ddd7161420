"""What a graphics card makes of a training step, beside one core of the same machine.

Runs where PyTorch sees a card; elsewhere there are no rows and the benchmark says so. Wall time,
since the work is not the processor's; the card is waited for before a clock is read.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch

from mfm_core.autoencoder import Autoencoder, build_autoencoder
from mfm_core.config import ImageConfig, LearningConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.devices import Precision, choose_device, has_bfloat16
from mfm_core.private_training import PrivateStep, train_privately
from mfm_core.training import Schedule, train
from simulation.stopwatch import Row, in_ms, interleave, make_row

STEPS = 8
"""Steps of one round on the card; one core takes a single one."""

CLASSES = 5


def name_card() -> str:
    """Return the card's name, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU found"


def bench_card(
    rounds: int, image_set: ImageSet, batch: int, model: ModelConfig | None = None
) -> list[Row]:
    """Return how much faster the card takes plain and private steps than one core.

    Args:
        rounds: of the measurement.
        image_set: at least `batch` images, classes 0 to 4.
        batch: images of a step.
        model: shape of the net.
    """
    if not torch.cuda.is_available():
        return []
    device, size = choose_device("cuda"), image_set.images.shape[-1]
    shape, image = model or ModelConfig(), ImageConfig(size_px=size)
    here = build_autoencoder(shape, image, CLASSES, 0)
    there = build_autoencoder(shape, image, CLASSES, 0).to(device)
    rows = image_set.select("train")[:batch]
    plan: dict[str, Any] = {"schedule": Schedule(0, 1000)}
    privacy = PrivateStep(1.0, 1.0, 1.0, "image")

    def plain(net: Autoencoder, steps: int, precision: Precision) -> None:
        settings = {**plan, "steps": steps, "seed": 0, "precision": precision}
        train(net, image_set, rows, LearningConfig(), **settings)
        torch.cuda.synchronize()

    def private(net: Autoencoder, steps: int) -> None:
        settings = {**plan, "steps": steps, "seed": None, "privacy": privacy}
        train_privately(net, image_set, rows, LearningConfig(), **settings)
        torch.cuda.synchronize()

    variants: dict[str, Callable[[], object]] = {
        "core": lambda: plain(here, 1, "float32"),
        "core, private": lambda: private(here, 1),
        "private": lambda: private(there, STEPS),
    }
    for precision in get_args(Precision):
        if precision != "bf16" or has_bfloat16(device):
            variants[precision] = partial(plain, there, STEPS, precision)
    seconds = interleave(variants, rounds, time.perf_counter)
    found = []
    for name in [name for name in variants if not name.startswith("core")]:
        own, of = seconds[name] / STEPS, seconds["core, private" if name == "private" else "core"]
        kind = "private step" if name == "private" else f"training step, {name}"
        what = f"Graphics card, {size} px, batch {batch}: speed over one core, {kind}"
        found.append(make_row(what, of / own, "x", None, f"{in_ms(own)} against {in_ms(of)}"))
    return found
