"""The autoencoder: a denoising beta-VAE of ShuffleNet units with a spatial latent.

Paper section 2.1, at most 1.4 M parameters. Two encoders write into one latent and two decoders
read from it: a linear patch path, started from a PCA of patches (`mfm_core.patches`), and the
ShuffleNet units, whose contribution starts at zero. So the model reconstructs from its first
step and the units learn what the linear path cannot do. No connection goes round the latent:
what is not in it is not in the reconstruction. The weights cross the hospital's boundary as an
update; nothing else here does.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from mfm_core.blocks import (
    Conv3x3,
    Down,
    GroupPointwise,
    ShuffleUnit,
    Up,
    clamp_gently,
    group_norm,
)
from mfm_core.config import ImageConfig, ModelConfig
from mfm_core.devices import normal_like
from mfm_core.errors import ConfigError
from mfm_core.linear_path import LinearPath, description_size
from mfm_core.rows import depth_to_space, space_to_depth, to_images, to_rows

MAX_PARAMETERS = 1_400_000
"""Most parameters of an agreed model (paper section 2.1)."""

LOGVAR_RANGE = (-9.0, 2.0)
"""Bounds of log variance: a posterior deviation between 0.011 and 2.7."""

START_LOGVAR = -4.0
"""Log variance of the posterior before training: a deviation of 0.14."""


class Output(NamedTuple):
    """What one pass gives.

    Attributes:
        reconstruction: `[N, C, H, W] float32 in [0, 1]`.
        mu: `[N, L] float32`, the latent used for statistics and classification.
        logvar: `[N, L] float32`, log variance of the posterior.
        logits: `[N, K] float32`.
    """

    reconstruction: torch.Tensor
    mu: torch.Tensor
    logvar: torch.Tensor
    logits: torch.Tensor


def latent_grid(model: ModelConfig, image: ImageConfig) -> int:
    """Return the side of the spatial latent: size / (stem * 2^(stages - 1)).

    Raises:
        ConfigError: the image's side is no multiple of stem * 2^(stages - 1).
    """
    reduction: int = model.stem * 2 ** (len(model.widths) - 1)
    if image.size_px % reduction:
        problem = f"size_px is {image.size_px}, but stem and stages need a multiple of {reduction}"
        raise ConfigError("image", [problem])
    return image.size_px // reduction


def _units(width: int, depth: int, model: ModelConfig) -> list[nn.Module]:
    inner = int(width * model.bottleneck)
    return [ShuffleUnit(width, inner, model.groups, model.norm_channels) for _ in range(depth)]


class _Encoder(nn.Module):
    """Stem, then the stages: `[N, C, H, W]` to rows `[N * grid * grid, widths[-1]]`."""

    def __init__(self, model: ModelConfig, channels: int) -> None:
        super().__init__()
        self.stem = model.stem
        widths, depths = model.widths, model.depths
        self.first = Conv3x3(channels * model.stem**2, widths[0])
        parts = _units(widths[0], depths[0], model)
        for before, after, depth in zip(widths, widths[1:], depths[1:], strict=False):
            parts.append(Down(before, after, model.groups, model.norm_channels))
            parts.extend(_units(after, depth, model))
        self.stages = nn.Sequential(*parts)
        self.norm = group_norm(widths[-1], model.norm_channels)

    def forward(self, centred: torch.Tensor) -> torch.Tensor:
        """Return the features of images less their mean."""
        cells = to_images(space_to_depth(centred, self.stem), len(centred))
        features = self.norm(self.stages(self.first(cells)))
        return to_rows(functional.relu(features, inplace=True))


class _Decoder(nn.Module):
    """The mirrored stages: latent rows to `[N, C, H, W]`."""

    def __init__(self, model: ModelConfig, channels: int) -> None:
        super().__init__()
        self.stem = model.stem
        widths, depths = model.widths[::-1], model.depths[::-1]
        self.first = GroupPointwise(model.latent_channels, widths[0], 1)
        parts = _units(widths[0], depths[0], model)
        for before, after, depth in zip(widths, widths[1:], depths[1:], strict=False):
            parts.append(Up(before, after, model.groups, model.norm_channels))
            parts.extend(_units(after, depth, model))
        self.stages = nn.Sequential(*parts)
        self.norm = group_norm(widths[-1], model.norm_channels)
        self.last = Conv3x3(widths[-1], channels * model.stem**2, bias=True)

    def forward(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Return what the units draw for `count` images."""
        features = self.norm(self.stages(to_images(self.first(rows), count)))
        cells = self.last(functional.relu(features, inplace=True))
        return depth_to_space(to_rows(cells), count, self.stem)


class Autoencoder(nn.Module):
    """Encoder, latent, decoder and linear head.

    Attributes:
        latent_size: L = grid * grid * latent_channels; the flat latent is (row, column, channel).
        head: linear from flattened mu to class logits.
        attention_logits: `[1, 1, H, W]`, the pixel attention; learns only in stage one.
    """

    def __init__(self, model: ModelConfig, image: ImageConfig, num_classes: int) -> None:
        super().__init__()
        self.model_config, self.image_config = model, image
        self.grid = latent_grid(model, image)
        self.patch = image.size_px // self.grid
        self.latent_size = model.latent_channels * self.grid**2
        self.encoder = _Encoder(model, image.channels)
        self.decoder = _Decoder(model, image.channels)
        self.to_latent = nn.Linear(model.widths[-1], 2 * model.latent_channels)
        self.linear_path: LinearPath | None = None
        if model.linear_path:
            self.linear_path = LinearPath(
                image.channels, model.latent_channels, self.grid, self.patch, model.overlap
            )
        self.head = nn.Linear(self.latent_size, num_classes)
        self.attention_logits = nn.Parameter(
            torch.zeros(1, 1, image.size_px, image.size_px), requires_grad=False
        )
        self._start()

    @torch.no_grad()
    def _start(self) -> None:
        """Give head and branches their starting weights: the units write nothing at first."""
        latent = self.model_config.latent_channels
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.zeros_(self.to_latent.bias)
        self.to_latent.weight[latent:] = 0.0
        self.to_latent.bias[latent:] = START_LOGVAR
        if self.linear_path is not None:
            nn.init.zeros_(self.to_latent.weight)
            for parameter in self.decoder.last.parameters():
                nn.init.zeros_(parameter)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `mu [N, L]` and `logvar [N, L]` of `images [N, C, H, W] float32 in [0, 1]`."""
        path, count = self.linear_path, len(images)
        centred = images - (0.5 if path is None else path.mean_image)
        statistics = self.to_latent(self.encoder(centred)).view(count, self.grid**2, -1)
        mu, logvar = statistics.chunk(2, dim=2)
        if path is not None:
            mu = mu + path(centred)
        mu, logvar = mu.to(images.dtype), logvar.to(images.dtype)  # not float32 when rounding
        return mu.flatten(1), logvar.flatten(1).clamp(*LOGVAR_RANGE)

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return `[N, C, H, W] float32 in [0, 1]` of `latent [N, L]`."""
        count = len(latent)
        cells = latent.reshape(count, self.grid**2, -1)
        images = self.decoder(cells.reshape(-1, cells.shape[2]), count)
        base = 0.5 if self.linear_path is None else self.linear_path(cells)
        return clamp_gently((images + base).to(latent.dtype))

    def classify(self, mu: torch.Tensor) -> torch.Tensor:
        """Return logits `[N, K]` of `mu [N, L]`."""
        logits: torch.Tensor = self.head(mu)
        return logits.to(mu.dtype)

    def forward(self, images: torch.Tensor, generator: torch.Generator | None = None) -> Output:
        """Return everything; decode a sample drawn with `generator`, or mu itself without one."""
        mu, logvar = self.encode(images)
        latent = mu
        if generator is not None:
            latent = torch.addcmul(mu, normal_like(mu, generator), torch.exp(0.5 * logvar))
        return Output(self.decode(latent), mu, logvar, self.classify(mu))


def build_autoencoder(
    model: ModelConfig, image: ImageConfig, num_classes: int, seed: int
) -> Autoencoder:
    """Return a new autoencoder, the same bits for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Autoencoder(model, image, num_classes)


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, those that learn only in stage one of attention included."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_of(model: ModelConfig, image: ImageConfig, num_classes: int) -> int:
    """Return what `count_parameters` finds in `Autoencoder(model, image, num_classes)`.

    A closed form: it takes microseconds and no memory, however large the model would be.

    Raises:
        ConfigError: the image's side does not fit the stages (`latent_grid`).
    """
    grid, latent, widths = latent_grid(model, image), model.latent_channels, model.widths
    cells, pixels, ends = grid**2, image.size_px**2, image.channels * model.stem**2
    total = pixels + (latent * cells + 1) * num_classes  # attention, head
    total += 2 * 9 * ends * widths[0] + ends + latent * widths[-1]  # first and last of both sides
    total += 2 * (widths[0] + widths[-1]) + 2 * latent * (widths[-1] + 1)  # norms, to_latent
    for width, depth in zip(widths, model.depths, strict=True):
        inner = int(width * model.bottleneck)
        total += 2 * depth * (2 * width * inner // model.groups + 11 * inner)
    for before, after in itertools.pairwise(widths):
        total += 2 * (before + after) + 2 * (4 * before * after // model.groups)  # Down, Up
    if model.linear_path:
        numbers = description_size(image.channels, image.size_px // grid, model.overlap)
        total += image.channels * pixels + cells * latent * (numbers + 2)
    return total
