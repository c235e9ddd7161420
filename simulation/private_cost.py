"""What a private step costs over a plain one: ours, and Opacus's three ways on a stock net.

The stock net has our widths, depths and groups, built of torch's own modules, since Opacus's
functorch and ghost modes do not know ours; it has no linear path and no cycle term, and its loss
is squared error plus cross-entropy. Every private step is divided by the plain step of its own net.
What crosses a hospital's boundary: nothing.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from opacus.grad_sample import wrap_model
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional

from mfm_core.autoencoder import build_autoencoder
from mfm_core.config import ImageConfig, LearningConfig, ModelConfig
from mfm_core.dataset import ImageSet
from mfm_core.private_training import PrivateStep, train_privately
from mfm_core.training import Schedule, train
from simulation.stopwatch import Goal, Row, in_ms, interleave, make_row

PRIVATE_COST = Goal(1.6, "at most")
STEPS = 2
CLASSES = 5
MODES = ("hooks", "functorch", "ghost")


class StockUnit(nn.Module):
    """A residual ShuffleNet unit of torch's modules."""

    def __init__(self, width: int, model: ModelConfig) -> None:
        super().__init__()
        inner, groups = int(width * model.bottleneck), model.groups
        self.parts = nn.Sequential(
            nn.Conv2d(width, inner, 1, groups=groups, bias=False),
            nn.GroupNorm(max(inner // model.norm_channels, 1), inner),
            nn.ReLU(),
            nn.ChannelShuffle(groups),
            nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False),
            nn.Conv2d(inner, width, 1, groups=groups, bias=False),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return images plus what the unit adds."""
        added: torch.Tensor = images + self.parts(images)
        return added


class StockNet(nn.Module):
    """Our encoder, decoder and head of torch's modules: `[N, 1, H, W]` to the same and logits."""

    def __init__(self, model: ModelConfig, size_px: int) -> None:
        super().__init__()
        widths, depths, stem = model.widths, model.depths, model.stem
        cells = size_px // stem // 2 ** (len(widths) - 1)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(stem),
            nn.Conv2d(stem**2, widths[0], 3, padding=1, bias=False),
            *_stages(widths, depths, model, nn.Conv2d),
            nn.Conv2d(widths[-1], model.latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(model.latent_channels, widths[-1], 1),
            *_stages(widths[::-1], depths[::-1], model, nn.ConvTranspose2d),
            nn.Conv2d(widths[0], stem**2, 3, padding=1),
            nn.PixelShuffle(stem),
        )
        self.head = nn.Linear(model.latent_channels * cells**2, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return drawing and logits of each image in one row, `[N, H * W + classes]`."""
        latent = self.encoder(images)
        rows = [self.decoder(latent).flatten(1), self.head(latent.flatten(1))]
        return torch.cat(rows, dim=1)


def _stages(
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    model: ModelConfig,
    resize: Callable[..., nn.Module],
) -> list[nn.Module]:
    parts: list[nn.Module] = [StockUnit(widths[0], model) for _ in range(depths[0])]
    for (before, after), depth in zip(itertools.pairwise(widths), depths[1:], strict=True):
        parts.append(nn.GroupNorm(max(before // model.norm_channels, 1), before))
        parts.append(nn.ReLU())
        parts.append(resize(before, after, 2, stride=2, groups=model.groups, bias=False))
        parts.extend(StockUnit(after, model) for _ in range(depth))
    return parts


class StockLoss(nn.Module):
    """Squared error plus cross-entropy; a mean, or one value per image."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return the loss of rows `[N, D + classes]` by `[N, D + 1]`, the label last."""
        drawn, target = rows[:, :-CLASSES], wanted[:, :-1]
        error = (drawn - target).square().mean(dim=1)
        labels = wanted[:, -1].long()
        each = error + functional.cross_entropy(rows[:, -CLASSES:], labels, reduction="none")
        return each.mean() if self.reduction == "mean" else each


def stock_steps(
    model: ModelConfig, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return the plain step of the stock net and its private step in each of Opacus's modes."""
    wanted = torch.cat([images.flatten(1), labels[:, None].to(images)], dim=1)
    return {mode: _stock_step(mode, model, images, wanted) for mode in ("stock", *MODES)}


def _stock_step(
    mode: str, model: ModelConfig, images: torch.Tensor, wanted: torch.Tensor
) -> Callable[[], object]:
    net: nn.Module = StockNet(model, images.shape[-1]).train()
    loss_of: Callable[..., torch.Tensor] = StockLoss()
    if mode != "stock":
        net = wrap_model(net, grad_sample_mode=mode, loss_reduction="mean", batch_first=True)
    optimiser: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    if mode != "stock":
        kind = DPOptimizerFastGradientClipping if mode == "ghost" else DPOptimizer
        optimiser = kind(
            optimiser, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=len(images)
        )
    if mode == "ghost":
        loss_of = DPLossFastGradientClipping(net, optimiser, StockLoss(), "mean")

    def step() -> None:
        for _ in range(STEPS):
            optimiser.zero_grad()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Opacus's hooks on inputs without gradient
                loss_of(net(images), wanted).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return step


def bench_private_step(
    rounds: int, image_set: ImageSet, batch: int, model: ModelConfig | None = None
) -> list[Row]:
    """Return what private steps cost over plain ones.

    Args:
        rounds: of the measurement.
        image_set: at least `batch` images, classes 0 to 4.
        batch: images of a step; a private one takes all of them, at a sample rate of 1.
        model: shape of both nets.
    """
    size, shape = image_set.images.shape[-1], model or ModelConfig()
    rows, learning = image_set.select("train")[:batch], LearningConfig()
    net = build_autoencoder(shape, ImageConfig(size_px=size), CLASSES, 0)
    pairs = replace(image_set, patients=np.arange(len(image_set.images)) // 2)
    privacy, plan = PrivateStep(1.0, 1.0, 1.0, "patient"), Schedule(0, 1000)

    def plain() -> None:
        train(net, image_set, rows, learning, schedule=plan, steps=STEPS, seed=0)

    def private(given: ImageSet, unit: PrivateStep) -> None:
        settings = {"schedule": plan, "steps": STEPS, "seed": None, "privacy": unit}
        train_privately(net, given, rows, learning, **settings)  # type: ignore[arg-type]

    labels = torch.from_numpy(image_set.labels[rows])
    variants: dict[str, Callable[[], object]] = {
        "plain": plain,
        "private": lambda: private(image_set, replace(privacy, unit="image")),
        "patients": lambda: private(pairs, privacy),
    }
    seconds = interleave({**variants, **stock_steps(shape, image_set.batch(rows), labels)}, rounds)
    per_step = {name: values / STEPS for name, values in seconds.items()}
    words = f"Private step over plain step, {size} px, batch {batch}"

    def row(name: str, of: str, what: str, goal: Goal | None) -> Row:
        note = f"{in_ms(per_step[name])} of {in_ms(per_step[of])}"
        return make_row(f"{words}: {what}", per_step[name] / per_step[of], "x", goal, note)

    stock = [row(mode, "stock", f"Opacus {mode}, stock net", None) for mode in MODES]
    patients = row("patients", "plain", "ours, patients of two images as units", None)
    return [row("private", "plain", "ours", PRIVATE_COST), patients, *stock]
